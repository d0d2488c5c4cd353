package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const tasksDoc = "../../docs/tasks.md"

// TestTasksPage fails if docs/tasks.md differs from the table of tasks.
func TestTasksPage(t *testing.T) {
	want := tasksPage()
	if *update {
		if err := os.WriteFile(tasksDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(tasksDoc)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), want); d != "" {
		t.Errorf("docs/tasks.md is stale (go test ./cmd/drover -run TestTasksPage -update writes it anew):\n%s", d)
	}
}

// TestTasksExist: each command of the table exists, has the flags of its row, and accepts the number of arguments.
func TestTasksExist(t *testing.T) {
	wants := map[string]bool{}
	for _, g := range taskGroups {
		for _, task := range g.tasks {
			if wants[task.want] {
				t.Errorf("%s: two rows", task.want)
			}
			wants[task.want] = true
			for line := range strings.SplitSeq(task.command, " | ") {
				words := strings.Fields(line)
				if words[0] != "drover" {
					if !slices.Contains([]string{"systemctl", "consul"}, words[0]) {
						t.Errorf("%s: %s", task.want, line)
					}
					continue
				}
				cmd, rest, err := newRootCmd(newConsole(theWorld()).App).Find(words[1:])
				if err == nil {
					err = cmd.ParseFlags(rest)
				}
				if err == nil {
					err = cmd.ValidateArgs(cmd.Flags().Args())
				}
				if err != nil || cmd.HasSubCommands() {
					t.Errorf("%s: %s: %v", task.want, line, err)
				}
			}
		}
	}
	if len(wants) < 60 {
		t.Errorf("only %d tasks", len(wants))
	}
}

// TestHelpTasks: the list fits the screen, and has each command.
func TestHelpTasks(t *testing.T) {
	c := newConsole(theWorld())
	if code := c.run(t, "help", "tasks"); code != 0 || c.err.Len() > 0 {
		t.Fatalf("exit %d, %s", code, c.err.String())
	}
	out := c.out.String()
	for line := range strings.Lines(out) {
		if len([]rune(line)) > taskWidth+1 {
			t.Errorf("too long: %s", line)
		}
	}
	for _, g := range taskGroups {
		for _, task := range g.tasks {
			if !strings.Contains(out, task.want) || !strings.Contains(out, task.command) {
				t.Errorf("no %s: %s", task.want, task.command)
			}
		}
	}
}
