package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestAliasesOfEveryNoun walks the command tree: each noun that can list, show or delete things has the usual other
// names, and no word for a suggestion is the name of another command.
func TestAliasesOfEveryNoun(t *testing.T) {
	words := map[string][]string{
		"ls": {"list"}, "inspect": {"show"}, "show": {"inspect"}, "rm": {"remove", "delete"}, "purge": {"rm", "remove", "delete"}, "discard": {"rm", "remove", "delete"},
	}
	aliases := 0
	var walk func(noun *cobra.Command)
	walk = func(noun *cobra.Command) {
		for _, c := range noun.Commands() {
			walk(c)
			for _, alias := range words[c.Name()] {
				aliases++
				if found, rest, err := noun.Find([]string{alias}); err != nil || len(rest) > 0 || found != c {
					t.Errorf("%s %s is %v", noun.CommandPath(), alias, found.CommandPath())
				}
			}
			for _, word := range c.SuggestFor {
				if found, _, _ := noun.Find([]string{word}); found != noun {
					t.Errorf("%s is suggested for %s, which is %s", c.CommandPath(), word, found.CommandPath())
				}
			}
		}
	}
	walk(newRootCmd(newConsole(theWorld()).App))
	if aliases < 25 {
		t.Errorf("only %d aliases", aliases)
	}
}

// TestUnknownWords: the error about an unknown command or flag is one line, with what was probably meant.
func TestUnknownWords(t *testing.T) {
	for words, want := range map[string]string{
		"volume creat --pool x":    `unknown command "creat" for volume, did you mean create? (available: create,`,
		"vol lss":                  `unknown command "lss" for volume, did you mean ls? (available: `,
		"ls":                       `unknown command "ls" for drover, did you mean volume? (available: `,
		"volume mv db x":           "did you mean move or rename?",
		"snapshot rollback db":     "did you mean restore?",
		"mv db db2":                `unknown command "mv" for drover (available: adopt-project,`,
		"volume ls --josn":         "unknown flag: --josn; see drover volume ls --help",
		"volume ls --outptu json":  "unknown flag: --outptu (did you mean --output?); see",
		"serve --conf x":           "unknown flag: --conf (did you mean --config?); see",
		"volume create db --size":  "unknown flag: --size (use -o size=SIZE); see",
		"clone db copy --label a":  "unknown flag: --label (use -o label.KEY=VALUE); see",
		"volume rm -f db":          "unknown flag: -f; see",
		"trash purge --alll":       "unknown flag: --alll; see",
		"volume create db 1GiB":    "unexpected argument: 1GiB; see drover volume create --help",
		"completion":               "missing argument: SHELL (available: bash, fish, zsh)",
		"help volume resise":       "did you mean resize?",
		"volume resize db -- a -b": "unexpected argument: -b",
	} {
		c := newConsole(theWorld())
		code := c.run(t, strings.Fields(words)...)
		if got := c.err.String(); code != 2 || !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("drover %s: exit %d, %q, want 2 and %q", words, code, got, want)
		}
	}
}
