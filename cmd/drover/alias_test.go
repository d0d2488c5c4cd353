package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// TestAliases runs commands by the words of other tools. They print the same as the command.
func TestAliases(t *testing.T) {
	for alias, command := range map[[3]string][3]string{
		{"volume", "list"}:             {"volume", "ls"},
		{"pool", "list"}:               {"pool", "ls"},
		{"volume", "show", "db"}:       {"volume", "inspect", "db"},
		{"profile", "inspect", "gold"}: {"profile", "show", "gold"},
		{"volume", "delete", "db"}:     {"volume", "rm", "db"},
		{"volume", "remove", "db"}:     {"volume", "rm", "db"},
		{"volume", "delete"}:           {"volume", "rm"},
		{"help", "volume", "delete"}:   {"help", "volume", "rm"},
	} {
		output := func(words [3]string) string {
			c := newConsole(theWorld())
			scenarios["deletes"](c)
			var args []string
			for _, w := range words {
				if w != "" {
					args = append(args, w)
				}
			}
			code := c.run(t, args...)
			return c.out.String() + c.err.String() + string(rune('0'+code))
		}
		if d := cmp.Diff(output(command), output(alias)); d != "" {
			t.Errorf("%v (-%v +alias):\n%s", alias, command, d)
		}
	}
}

// TestAliasesOfEveryNoun walks the command tree: each noun that can list, show or delete things accepts the words of
// other tools for that.
func TestAliasesOfEveryNoun(t *testing.T) {
	words := map[string][]string{
		"ls": {"list"}, "inspect": {"show"}, "show": {"inspect"}, "rm": {"remove", "delete"}, "purge": {"rm", "remove", "delete"}, "discard": {"rm", "remove", "delete"},
	}
	root, nouns := newRootCmd(newConsole(theWorld()).App), 0
	var walk func(noun *cobra.Command)
	walk = func(noun *cobra.Command) {
		for _, c := range noun.Commands() {
			walk(c)
			for _, alias := range words[c.Name()] {
				nouns++
				if found, rest, err := noun.Find([]string{alias}); err != nil || len(rest) > 0 || found != c {
					t.Errorf("%s %s is %v", noun.CommandPath(), alias, found.CommandPath())
				}
			}
		}
	}
	walk(root)
	if nouns < 25 {
		t.Errorf("only %d aliases", nouns)
	}
}

// TestWrongGuesses: for the words that newcomers type, the error names the command or flag that they mean.
func TestWrongGuesses(t *testing.T) {
	for words, want := range map[string]string{
		"volume grow db 2GiB":    "did you mean drover volume resize?",
		"volume grow --size 2":   `unknown command "grow" for volume, did you mean drover volume resize?`,
		"volume creat --pool x":  `unknown command "creat" for volume, did you mean create?`,
		"volume set db gold":     "did you mean drover volume set-profile?",
		"volume users db":        "did you mean drover volume inspect?",
		"pool info main":         "did you mean drover pool inspect?",
		"trash empty":            "did you mean drover trash purge --all --dry-run?",
		"volume undelete db":     "did you mean drover trash restore?",
		"df":                     "did you mean drover pool ls?",
		"vol lss":                "did you mean ls?",
		"volume ls --json":       "unknown flag: --json (use -o json)",
		"volume ls --pool main":  "unknown flag: --pool (use --filter pool=main)",
		"volume ls --node=alpha": "unknown flag: --node (use --filter node=alpha)",
		"volume ls --josn":       "unknown flag: --josn; see",
	} {
		c := newConsole(theWorld())
		if code := c.run(t, strings.Fields(words)...); code != 2 || !strings.Contains(c.err.String(), want) {
			t.Errorf("drover %s: exit %d, %q, want 2 and %q", words, code, c.err.String(), want)
		}
	}
}

// TestGuessesExist: each command that an error proposes exists, with its flags.
func TestGuessesExist(t *testing.T) {
	root := newRootCmd(newConsole(theWorld()).App)
	for word, command := range cli.OtherWords() {
		path := strings.Fields(command)
		found, rest, err := root.Find(path)
		if found == root {
			found, rest, err = root.Find(append([]string{"volume"}, path...))
		}
		if err == nil {
			err = found.ParseFlags(rest)
		}
		if err != nil || found.HasSubCommands() {
			t.Errorf("%s: drover %s: %v", word, command, err)
		}
	}
}
