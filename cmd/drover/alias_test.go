package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
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
