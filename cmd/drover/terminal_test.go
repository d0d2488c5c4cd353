package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/test/require"
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
		"no terminal":   {map[string]string{}, true, false},
		"no NO_COLOR":   {map[string]string{"TERM": "xterm", "NO_COLOR": ""}, true, true},
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
	if code := c.run(t, "volume", "export", "db"); code != 2 || !strings.Contains(c.err.String(), "drover volume export db -o db.tar") {
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

// onlyAsks reports whether a request, as the fake recorded it, only asks what a change would do.
func onlyAsks(line string) bool {
	return strings.HasPrefix(line, "Preview") || strings.HasPrefix(line, "Recover {}") ||
		strings.Contains(line, `"dry_run":true`)
}

// A command that destroys data shows the effect, and accepts only the name of the object as an answer.
func TestDestructiveCommandsAsk(t *testing.T) {
	const gc = "e0000000-0000-4000-8000-000000000003"
	for name, tc := range map[string]struct {
		args  []string
		typed string
		did   string // the change that the server was asked for; empty: none
		asks  string
	}{
		"the name":           {[]string{"trash", "purge", "e000"}, "old", `"kind":"purge"`, "formerly volume old: destroys"},
		"another name":       {[]string{"trash", "purge", "old"}, "older", "", "Type old to continue"},
		"yes is no name":     {[]string{"trash", "purge", "old"}, "yes", "", ""},
		"nothing":            {[]string{"trash", "purge", "old"}, "", "", ""},
		"end of input":       {[]string{"trash", "purge", "old"}, "\x04", "", ""},
		"all":                {[]string{"trash", "purge", "--all"}, "all", `"kind":"purge"`, "all 2 datasets"},
		"not all":            {[]string{"trash", "purge", "--all"}, "no", "", ""},
		"--yes":              {[]string{"trash", "purge", "old", "--yes"}, "", `"kind":"purge"`, ""},
		"recover":            {[]string{"store", "recover"}, "recover", `"digest"`, "writes 2 differences into the store"},
		"not recover":        {[]string{"store", "recover"}, "y", "", "Type recover to continue"},
		"volume":             {[]string{"volume", "rm", "db"}, "db", `"kind":"delete"`, "because the profile has on_delete: purge"},
		"not the volume":     {[]string{"volume", "rm", "db", "db-test"}, "dB", "", "Type db to continue"},
		"fewer replicas":     {[]string{"volume", "set-profile", "db", "gold"}, "db", `"profile":"gold"`, "destroys its replica on host-c"},
		"not fewer replicas": {[]string{"volume", "set-profile", "db", "gold"}, "gold", "", "its data is then only on node host-a"},
		"discard":            {[]string{"copy", "discard", "db"}, "db", `"kind":"discard"`, "destroys the data of epoch"},
		"discard by alias":   {[]string{"copy", "discard", "former"}, "db", `"kind":"discard"`, "destroys the data of epoch 4 on node host-b"},
		"not discard":        {[]string{"copy", "discard", "db"}, "no", "", "no other node has"},
		"pool":               {[]string{"pool", "rm", "default"}, "default", "RemovePool", "removes everything that Drover created"},
		"not the pool":       {[]string{"pool", "rm", "default"}, "fast", "", "Type default"},
		"forget":             {[]string{"pool", "rm", "default", "--forget"}, "default", "RemovePool", "removes the record"},
		"accept":             {[]string{"pool", "accept", "default"}, "default", "AcceptPool", "is lost for good"},
		"not accept":         {[]string{"pool", "accept", "default"}, "", "", ""},
		"node":               {[]string{"node", "rm", "alive"}, "alive", "RemoveNode", "the node is alive"},
		"not the node":       {[]string{"node", "rm", "alive"}, "dead", "", ""},
		"last copy":          {[]string{"node", "rm", "alpha", "--force"}, "alpha", "RemoveNode", "no other node has it: the superseded head of db"},
		"not the last copy":  {[]string{"node", "rm", "alpha", "--force"}, "y", "", ""},
		"dead node":          {[]string{"node", "rm", "alpha"}, "", "RemoveNode", ""},
		"fence":              {[]string{"node", "fence", "host-a"}, "host-a", "Fence", "if the node still writes, data is lost"},
		"not fence":          {[]string{"node", "fence", "host-a"}, "y", "", ""},
		"gc":                 {[]string{"doctor", "--gc", gc}, gc, "Collect", "the data of a volume named lost, with 3 snapshots"},
		"not gc":             {[]string{"doctor", "--gc", gc}, "e0000000", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(theWorld())
			scenarios["at-once"](c)
			scenarios["went-back"](c)
			c.fake.volumes[0].Aliases = []string{"former"}
			c.fake.volumes[0].Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
			c.fake.volumes[0].CopyDetails = append(c.fake.volumes[0].CopyDetails, api.CopyDetail{
				Copy: dataset.Copy{Dataset: idDB, Kind: dataset.CopySuperseded, Epoch: 4}, NodeName: "host-b",
			})
			c.fake.volumes[0].Profile.Replicas.Count = 1
			c.fake.volumes[0].CopyDetails = append(c.fake.volumes[0].CopyDetails,
				copiesOn(dataset.Copy{Kind: dataset.CopyReplica, Snapshot: uuid.New()}, "host-c")...)
			screen := ptytest.Open(t)
			screen.Type(t, tc.typed+"\n")
			c.In = screen.File
			code := c.run(t, tc.args...)
			asked := strings.Join(slices.DeleteFunc(slices.Clone(c.fake.asked), onlyAsks), "\n")
			if !strings.Contains(asked, tc.did) || (asked == "") != (tc.did == "") || (code == 0) != (tc.did != "") || code > 1 {
				t.Errorf("exit %d, asked %v, said %q", code, c.fake.asked, c.err.String())
			}
			if !strings.Contains(c.err.String(), tc.asks) {
				t.Errorf("did not say %q: %q", tc.asks, c.err.String())
			}
			if tc.did == "" && !strings.Contains(c.err.String(), "not confirmed, nothing was changed") {
				t.Errorf("said %q", c.err.String())
			}
		})
	}
}

// After a confirmation, a command names the object by its UUID: while the operator types, another object can get the
// name.
func TestConfirmedObjectIsSentByItsUUID(t *testing.T) {
	volume := `"volume":"` + idDB.String() + `"`
	for _, tc := range []struct {
		args  []string
		typed string
		sent  []string
	}{
		{[]string{"volume", "rm", "db"}, "db", []string{`"kind":"delete"`, volume}},
		{[]string{"volume", "rm", "db", "--detach"}, "db", []string{`"kind":"delete"`, volume}},
		{[]string{"volume", "set-profile", "db", "gold"}, "db", []string{`"kind":"update"`, volume, `"profile":"gold"`}},
		{[]string{"copy", "discard", "db"}, "db", []string{`"kind":"discard"`, volume, `"node":"` + idGone.String() + `"`}},
		{[]string{"copy", "discard", "db", "host-b"}, "db", []string{`"kind":"discard"`, volume, `"node":"` + idGone.String() + `"`}},
		{[]string{"node", "rm", "alive"}, "alive", []string{"RemoveNode", nodeID("alive").String()}},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			c := newConsole(theWorld())
			scenarios["at-once"](c)
			db := &c.fake.volumes[0]
			db.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
			db.Profile.Replicas.Count = 1
			db.CopyDetails = append(copiesOn(dataset.Copy{Kind: dataset.CopyReplica, Snapshot: uuid.New()}, "host-c"),
				api.CopyDetail{Copy: dataset.Copy{Dataset: idDB, Node: idGone, Kind: dataset.CopySuperseded, Epoch: 4}, NodeName: "host-b"})
			screen := ptytest.Open(t)
			screen.Type(t, tc.typed+"\n")
			c.In = screen.File
			code := c.run(t, tc.args...)
			sent := strings.Join(slices.DeleteFunc(slices.Clone(c.fake.asked), onlyAsks), "\n")
			for _, want := range tc.sent {
				if code != 0 || !strings.Contains(sent, want) {
					t.Errorf("exit %d, sent %q, want %q; said %q", code, sent, want, c.err.String())
				}
			}
		})
	}
}

// While the operator types the name of a fenced volume, the guard gets another volume of that name. It is not released.
func TestConfirmedVolumeIsReleased(t *testing.T) {
	c := newConsole(&fake{})
	other := guard.Entry{Volume: "db-fenced", Epoch: 9, State: guard.StateFenced}
	other.Dataset = uuid.New()
	c.guard.next = []guard.Entry{other}
	screen := ptytest.Open(t)
	screen.Type(t, "db-fenced\n")
	c.In = screen.File
	if code := c.run(t, "guard", "release", "db-fenced"); code == 0 || len(c.guard.did) > 0 {
		t.Errorf("exit %d, did %v, said %q", code, c.guard.did, c.err.String())
	}
}

// Of several datasets in the trash, the name of each is typed before the first is destroyed.
func TestPurgeOfSeveralAsksForEach(t *testing.T) {
	for typed, purged := range map[string]int{"old\nolder\n": 2, "old\nold\n": 0, "no\n": 0} {
		c := newConsole(theWorld())
		scenarios["at-once"](c)
		screen := ptytest.Open(t)
		screen.Type(t, typed)
		c.In = screen.File
		code := c.run(t, "trash", "purge", "old", "older")
		sent := slices.DeleteFunc(slices.Clone(c.fake.asked), onlyAsks)
		if len(sent) != purged || (code == 0) != (purged > 0) {
			t.Errorf("typed %q: exit %d, sent %v, said %q", typed, code, sent, c.err.String())
		}
	}
}

// Without a terminal, a command that destroys data is refused in one line, which contains the effect.
func TestDestructiveCommandsNeedATerminal(t *testing.T) {
	for _, args := range [][]string{
		{"trash", "purge", "old"}, {"trash", "purge", "--all"}, {"store", "recover"}, {"volume", "rm", "db"}, {"pool", "rm", "default"},
		{"pool", "accept", "default"}, {"node", "rm", "alive"}, {"node", "fence", "host-a"}, {"doctor", "--gc", idGone.String()},
		{"guard", "release", "db-fenced"}, {"store", "import", "x", "--force"},
	} {
		c := newConsole(theWorld())
		scenarios["went-back"](c)
		c.fake.volumes[0].Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		code, said := c.run(t, args...), c.err.String()
		if code != 2 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "requires confirmation, and there is no terminal to ask at (use --yes)") {
			t.Errorf("%v: exit %d, %q", args, code, said)
		}
		for _, line := range c.fake.asked {
			if !onlyAsks(line) {
				t.Errorf("%v: asked %s", args, line)
			}
		}
	}
}

func TestImportKnowsHowMuchAFileHolds(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "tar")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(4<<20))
	if _, err := f.Seek(1<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	c := newConsole(theWorld())
	c.In = f
	if code := c.run(t, "volume", "import", "db", "--from", "-"); code != 0 {
		t.Fatalf("exit %d: %s", code, c.err.String())
	}
	if !strings.Contains(c.err.String(), "sending the archive 100% (3MiB of 3MiB)") {
		t.Errorf("said %q", c.err.String())
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	if got := volumes.Left(r); got != 0 {
		t.Errorf("a pipe holds %s", dataset.Size(got))
	}
}
