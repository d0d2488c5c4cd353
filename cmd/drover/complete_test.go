package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// TestCompletion requests completions as the scripts of the shells do.
func TestCompletion(t *testing.T) {
	snaps := func(prefix string) (words []string) {
		for _, s := range theWorld().snapshots {
			if s.Name != "" && prefix == "db" {
				words = append(words, s.Name)
			}
			words = append(words, s.ID.String())
		}
		return words
	}
	tests := []struct {
		args []string
		want []string
	}{
		{[]string{"volume", "inspect", ""}, []string{"db", "db-test"}},
		{[]string{"volume", "inspect", "db-"}, []string{"db-test"}},
		{[]string{"volume", "inspect", "db", ""}, []string{"db", "db-test"}},
		{[]string{"volume", "create", "new"}, nil},
		{[]string{"volume", "create", "new@"}, []string{"new@bronze", "new@gold"}},
		{[]string{"volume", "create", "new@g"}, []string{"new@gold"}},
		{[]string{"volume", "create", "-o", "la"}, []string{"label."}},
		{[]string{"volume", "set-profile", "db", ""}, []string{"bronze", "gold"}},
		{[]string{"volume", "resize", "db", ""}, nil},
		{[]string{"volume", "create", "-o", "size="}, nil},
		{[]string{"volume", "rename", ""}, []string{"db", "db-test"}},
		{[]string{"volume", "rename", "db", ""}, nil},
		{[]string{"volume", "rm", "db", "--force", "--fenced", ""}, []string{"host-a"}},
		{[]string{"volume", "move", "db", ""}, []string{"host-a"}},
		{[]string{"agent", "--log-level", "w"}, []string{"warning"}},
		{[]string{"pool", "create", "new", "--backend", "l"}, []string{"loop", "lvm"}},
		{[]string{"operation", "inspect", ""}, []string{idOp.String(), idReq.String()}},
		{[]string{"snapshot", "ls", ""}, []string{"db", "db-test"}},
		{[]string{"volume", "ls", "-o", ""}, []string{"table", "wide", "json", "yaml"}},
		{[]string{"volume", "ls", "--sort", "cr"}, []string{"created"}},
		{[]string{"volume", "ls", "--sort=-cr"}, []string{"-created"}},
		{[]string{"volume", "ls", "--filter", "na"}, []string{"name="}},
		{[]string{"volume", "ls", "--sort=used,sn"}, []string{"used,snapshots"}},
		{[]string{"volume", "ls", "--filter", "la"}, []string{"labels=", "label="}},
		{[]string{"volume", "export", "db", "--snapshot", ""}, snaps("db")},
		{[]string{"volume", "export", "--snapshot", ""}, snaps("")},
		{[]string{"volume", "rm", "db", ""}, []string{"db", "db-test"}},
		{[]string{"snapshot", "inspect", ""}, []string{"db", "db-test"}},
		{[]string{"snapshot", "inspect", "db", ""}, snaps("db")},
		{[]string{"snapshot", "diff", "db", ""}, snaps("db")},
		{[]string{"snapshot", "inspect", "--volume", ""}, []string{"db", "db-test"}},
		{[]string{"snapshot", "restore", "db", ""}, snaps("db")},
		{[]string{"snapshot", "restore", "db-test", ""}, nil},
		{[]string{"clone", ""}, []string{"db", "db-test"}},
		{[]string{"trash", "restore", ""}, []string{idGone.String(), idBare.String()}},
		{[]string{"profile", "show", "g"}, []string{"gold"}},
		{[]string{"pool", "inspect", ""}, []string{"default", "plain"}},
		{[]string{"pool", "rm", ""}, []string{"default", "plain"}},
		{[]string{"repository", "check", ""}, []string{"offsite"}},
		{[]string{"repository", "rm", "x"}, nil},
		{[]string{"repository", "add", "new", "/x", "--password", ""}, []string{"file:", "exec:"}},
		{[]string{"node", "inspect", ""}, []string{"host-a"}},
		{[]string{"operation", "cancel", ""}, []string{idOp.String(), idReq.String()}},
		{[]string{"backup", "ls", "db", "--repository", ""}, []string{"offsite"}},
		{[]string{"completion", ""}, []string{"bash", "fish", "zsh"}},
		{[]string{"doctor", "--gc", ""}, nil},
		{[]string{"volume", "re"}, []string{"rekey", "rename", "resize"}},
	}
	for _, tc := range tests {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			c := newConsole(theWorld())
			if code := c.run(t, append([]string{"__complete"}, tc.args...)...); code != 0 {
				t.Fatalf("exit %d: %s", code, c.err.String())
			}
			got, directive := completions(c.out.String())
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if !strings.HasPrefix(directive, ":") || directive == ":0" {
				t.Errorf("completes file names too: %s", directive)
			}
		})
	}
}

func completions(out string) (words []string, directive string) {
	for line := range strings.Lines(out) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if strings.HasPrefix(word, ":") {
			return words, word
		}
		words = append(words, word)
	}
	return words, ""
}

func TestCompletionOfAServerThatIsAway(t *testing.T) {
	c := newConsole(theWorld())
	c.fake.fail = map[string]error{"Volumes": dataset.Errorf(dataset.ErrUnavailable, "away")}
	if code := c.run(t, "__complete", "clone", ""); code != 0 {
		t.Errorf("exit %d", code)
	}
	if got, _ := completions(c.out.String()); len(got) > 0 {
		t.Errorf("completed to %v", got)
	}
	c = newConsole(theWorld())
	c.Dial = func(string) (cli.Remote, error) { return nil, dataset.Errorf(dataset.ErrInvalid, "bad address") }
	c.run(t, "__complete", "volume", "rm", "")
	if got, _ := completions(c.out.String()); len(got) > 0 {
		t.Errorf("completed to %v", got)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "fish", "zsh"} {
		c := newConsole(theWorld())
		if code := c.run(t, "completion", shell); code != 0 || !strings.Contains(c.out.String(), "__complete") {
			t.Errorf("%s: exit %d, %d bytes", shell, code, c.out.Len())
		}
		if shell != "bash" {
			continue
		}
		cmd := exec.Command("bash", "-n")
		cmd.Stdin = strings.NewReader(c.out.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("bash: %v: %s", err, out)
		}
	}
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	c := newConsole(theWorld())
	if code := c.run(t, "man", dir); code != 0 {
		t.Fatalf("exit %d: %s", code, c.err.String())
	}
	for page, says := range map[string]string{"drover.1": "drover-volume", "drover-volume-create.1": "NAME@PROFILE", "drover-trash-purge.1": "--all", "profiles.yaml.5": "profiles.NAME.max_loss", "drover.yaml.5": "pools[].trim"} {
		b, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(b), `\-`, "-"), says) {
			t.Errorf("%s: %v", page, err)
		}
		if strings.Contains(string(b), "Auto generated") {
			t.Errorf("%s says when it was made", page)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "drover-man.1")); err == nil {
		t.Error("a page for a hidden command")
	}
	file := filepath.Join(dir, "drover.1")
	for _, bad := range []string{file, filepath.Join(dir, "none")} {
		c := newConsole(theWorld())
		if code := c.run(t, "man", bad); code == 0 {
			t.Errorf("%s: no error", bad)
		}
	}
}

// TestEverythingHasACompletion walks the command tree: the arguments and the values of flags complete, except files.
func TestEverythingHasACompletion(t *testing.T) {
	files := []string{"FILE", "DIR", "DEVICE", "PATH", "@FILE"}
	root := newRootCmd(newConsole(theWorld()).App)
	for _, cmd := range leaves(root) {
		path := cmd.CommandPath()
		_, args, _ := strings.Cut(cmd.Use, " ")
		if first := strings.Trim(strings.Fields(args + " -")[0], "[]."); first != "-" && !slices.Contains(files, first) && cmd.ValidArgsFunction == nil && path != "drover help" {
			t.Errorf("%s: %s does not complete", path, first)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			kind, _ := pflag.UnquoteUsage(f)
			if _, ok := cmd.GetFlagCompletionFunc(f.Name); !ok && f.NoOptDefVal == "" && !slices.Contains(files, kind) {
				t.Errorf("%s --%s %s does not complete: register a function, or cobra.NoFileCompletions", path, f.Name, kind)
			}
		})
	}
}
