package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/cmd/drover/internal/stores"
)

// TestBashCompletion runs the script in a bash without the package bash-completion, for a drover that prints the words
// with which it was called.
func TestBashCompletion(t *testing.T) {
	c := newConsole(theWorld())
	if code := c.run(t, "completion", "bash"); code != 0 {
		t.Fatal(c.err.String())
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	fake := "#!/bin/bash\nfor w in \"$@\"; do printf '%s\\n' \"$w\"; done >" + dir + "/asked\nprintf '%s\\n' word=one word=two ':4'\n"
	for path, text := range map[string]string{script: c.out.String(), filepath.Join(dir, "drover"): fake} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"drover vol":                       "__complete vol",
		"drover volume create ":            "__complete volume create ",
		"drover volume create new@g":       "__complete volume create new@g",
		"drover volume create -o pool=d":   "__complete volume create -o pool=d",
		`drover volume label "a b" w`:      "__complete volume label a b w",
		"drover --api unix:///run/x volum": "__complete --api unix:///run/x volum",
	} {
		cmd := exec.Command("bash", "--norc", "--noprofile", "-c", `. "$0"; COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9; COMP_WORDS=($1)
			compopt() { :; }; __start_drover; echo "${COMPREPLY[*]}"`, script, line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		var errors bytes.Buffer
		cmd.Stderr = &errors
		if out, err := cmd.Output(); err != nil || errors.Len() > 0 {
			t.Errorf("%s: %v %s%s", line, err, out, errors.String())
		}
		asked, err := os.ReadFile(filepath.Join(dir, "asked"))
		if got := strings.Join(strings.Split(strings.TrimSuffix(string(asked), "\n"), "\n"), " "); err != nil || got != want {
			t.Errorf("%q asks for %q, want %q (%v)", line, got, want, err)
		}
	}
}

// TestBashCompletionRunsNothing: the script without the package bash-completion evaluates the line. It must not run
// a command in the line, and not empty the file of a redirection.
func TestBashCompletionRunsNothing(t *testing.T) {
	c := newConsole(theWorld())
	if code := c.run(t, "completion", "bash"); code != 0 {
		t.Fatal(c.err.String())
	}
	dir := t.TempDir()
	script, backup := filepath.Join(dir, "script"), filepath.Join(dir, "backup")
	fake := "#!/bin/bash\necho :4\n"
	for path, text := range map[string]string{script: c.out.String(), backup: "data", filepath.Join(dir, "drover"): fake} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"drover volume export db > " + backup, "drover volume export db >" + backup, "drover volume export db &>" + backup,
		"drover volume ls $(rm " + backup + ") ", "drover volume ls `rm " + backup + "` ", "drover volume ls <(rm " + backup + ") ",
		"drover volume ls; rm " + backup, "drover volume ls | tee " + backup, "drover volume ls & rm " + backup,
	} {
		cmd := exec.Command("bash", "--norc", "--noprofile", "-c", `. "$0"; COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
			compopt() { :; }; __start_drover`, script, line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		_ = cmd.Run() // fails: bash then completes the names of files
		if got, err := os.ReadFile(backup); err != nil || string(got) != "data" {
			t.Errorf("after the completion of %q, the file has %q (%v)", line, got, err)
		}
		if err := os.WriteFile(backup, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManPagesOfFiles: man finds the pages about the configuration files by the names of the files, and the page of
// drover refers to them.
func TestManPagesOfFiles(t *testing.T) {
	dir := t.TempDir()
	c := newConsole(theWorld())
	if code := c.run(t, "man", dir); code != 0 {
		t.Fatal(c.err.String())
	}
	for file, want := range map[string]string{
		"drover.yaml.5": ".SH KEYS", "drover-profiles.5": ".SH KEYS", "profiles.yaml.5": ".so man5/drover-profiles.5\n",
		"drover.1": ".I /etc/drover/profiles.yaml\nSee\n.BR drover-profiles (5).\n",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %q (%v)", file, want, err)
		}
	}
}

// TestDocsShowTheQuestionOfRecover: docs/operations.md shows the word that drover store recover asks for.
func TestDocsShowTheQuestionOfRecover(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nType " + stores.RecoverWord + " to continue: " + stores.RecoverWord + "\n"; !strings.Contains(string(page), want) {
		t.Errorf("docs/operations.md lacks %q", want)
	}
}
