package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestColourOnlyWhereItIsWanted(t *testing.T) {
	for name, tc := range map[string]struct {
		env      map[string]string
		terminal bool
		colour   bool
	}{
		"terminal":      {map[string]string{"TERM": "xterm"}, true, true},
		"pipe":          {map[string]string{"TERM": "xterm"}, false, false},
		"NO_COLOR":      {map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, true, false},
		"dumb terminal": {map[string]string{"TERM": "dumb"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{{"doctor"}, {"volume", "ls"}, {"pool", "ls"}, {"operation", "ls"}} {
				c := newConsole(theWorld())
				c.env = tc.env
				got := ""
				if tc.terminal {
					screen := ptytest.Open(t)
					c.App.Out = screen.File
					c.run(t, args...)
					got = screen.Screen()
				} else {
					c.run(t, args...)
					got = c.out.String()
				}
				if got == "" || strings.Contains(got, "\x1b[") != tc.colour {
					t.Errorf("%v: colour is not %v: %q", args, tc.colour, got)
				}
			}
		})
	}
}

func TestProgressIsABarOnATerminalThatCanMove(t *testing.T) {
	for name, tc := range map[string]struct {
		term  string
		width uint16
		args  []string
		bar   bool
		line  bool
	}{
		"terminal": {"xterm", 80, []string{"volume", "create", "db"}, true, false},
		"quiet":    {"xterm", 80, []string{"volume", "create", "db", "-q"}, false, false},
		"dumb":     {"dumb", 80, []string{"volume", "create", "db"}, false, true},
		"unset":    {"", 80, []string{"volume", "create", "db"}, false, true},
		"no size":  {"xterm", 0, []string{"volume", "create", "db"}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(theWorld())
			scenarios["slow"](c)
			c.env["TERM"] = tc.term
			screen := ptytest.Open(t)
			screen.Resize(t, tc.width, tc.width/3)
			c.ErrOut = screen.File
			if code := c.run(t, tc.args...); code != 0 {
				t.Fatalf("exit %d", code)
			}
			got := screen.Screen()
			if bar := strings.Contains(got, "\x1b["); bar != tc.bar {
				t.Errorf("a bar: %v, want %v: %q", bar, tc.bar, got)
			}
			if line := strings.Contains(got, "copy 50% (5GiB of 10GiB)\r\n"); line != tc.line {
				t.Errorf("lines: %v, want %v: %q", line, tc.line, got)
			}
			if n := strings.Count(c.out.String(), "\n"); n != 1 {
				t.Errorf("standard output: %q", c.out.String())
			}
		})
	}
}

func TestNoTarToOrFromATerminal(t *testing.T) {
	c := newConsole(theWorld())
	screen := ptytest.Open(t)
	c.App.Out = screen.File
	if code := c.run(t, "volume", "export", "db"); code != 2 || !strings.Contains(c.err.String(), "drover volume export db > db.tar") {
		t.Errorf("exit %d, %q", code, c.err.String())
	}
	if got := screen.Screen(); got != "" {
		t.Errorf("wrote %q", got)
	}
	c = newConsole(theWorld())
	c.In = ptytest.Open(t).File
	if code := c.run(t, "volume", "import", "db", "--from", "-"); code != 2 || len(c.fake.asked) > 0 {
		t.Errorf("exit %d, asked %v", code, c.fake.asked)
	}
}

func TestPurgeAsks(t *testing.T) {
	for name, tc := range map[string]struct {
		args   []string
		typed  string
		purged int
		code   int
		asks   string
	}{
		"the name":       {[]string{"trash", "purge", "e000"}, "old\n", 1, 0, "dataset e0000000-0000-4000-8000-000000000003, formerly volume old, and its 2 snapshots"},
		"another name":   {[]string{"trash", "purge", "old"}, "older\n", 0, 1, "Type old to continue"},
		"yes is no name": {[]string{"trash", "purge", "old"}, "yes\n", 0, 1, ""},
		"nothing":        {[]string{"trash", "purge", "old"}, "\n", 0, 1, ""},
		"end of input":   {[]string{"trash", "purge", "old"}, "\x04", 0, 1, ""},
		"all":            {[]string{"trash", "purge", "--all"}, "all\n", 2, 0, "all 2 datasets"},
		"not all":        {[]string{"trash", "purge", "--all"}, "no\n", 0, 1, ""},
		"--yes":          {[]string{"trash", "purge", "old", "--yes"}, "", 1, 0, ""},
		"recover":        {[]string{"store", "recover"}, "yes\n", 2, 0, "resumes decisions"},
		"not recover":    {[]string{"store", "recover"}, "y\n", 1, 1, "Type yes to continue"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(theWorld())
			scenarios["at-once"](c)
			scenarios["went-back"](c)
			screen := ptytest.Open(t)
			screen.Type(t, tc.typed)
			c.In = screen.File
			if code := c.run(t, tc.args...); code != tc.code || len(c.fake.asked) != tc.purged {
				t.Errorf("exit %d, asked %v, said %q", code, c.fake.asked, c.err.String())
			}
			if !strings.Contains(c.err.String(), tc.asks) {
				t.Errorf("did not ask %q: %q", tc.asks, c.err.String())
			}
		})
	}
}

// A purge has taken effect when it is on record, also where its pool is away.
func TestPurgeWhileThePoolIsAway(t *testing.T) {
	for _, what := range []string{"old", "--all"} {
		c := newConsole(theWorld())
		failed := ended(dataset.OpFailed, dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline, "pool default is offline")))
		c.fake.outcome = api.Outcome{Operation: &failed.op}
		code := c.run(t, "trash", "purge", what, "--yes")
		const want = "removed from the store; the data in pool default is deleted when the pool is online (or, if it " +
			"never returns: drover pool rm --forget default)"
		if code != 0 || !strings.Contains(c.out.String(), want) || c.err.Len() > 0 {
			t.Errorf("%s: exit %d, %q, %q", what, code, c.out.String(), c.err.String())
		}
	}
	c := newConsole(theWorld())
	works(c.fake, ended(dataset.OpFailed, dataset.ProblemOf(dataset.Errorf(dataset.ErrInternal, "input/output error"))))
	if code := c.run(t, "trash", "purge", "old", "--yes"); code != 1 {
		t.Errorf("it failed otherwise: exit %d", code)
	}
}

func TestImportKnowsHowMuchAFileHolds(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "tar")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(1<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	c := newConsole(theWorld())
	c.In = f
	if code := c.run(t, "volume", "import", "db", "--from", "-"); code != 0 {
		t.Fatalf("exit %d: %s", code, c.err.String())
	}
	if !strings.Contains(c.err.String(), "send the archive 100% (3MiB of 3MiB)") {
		t.Errorf("said %q", c.err.String())
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if got := volumes.Left(r); got != 0 {
		t.Errorf("a pipe holds %s", dataset.Size(got))
	}
}
