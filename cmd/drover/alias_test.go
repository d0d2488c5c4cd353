package main

import (
	"regexp"
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
		"volume creat --pool x": `unknown command "creat" for volume, did you mean create?`,
		"volume set db gold":    "drover volume set-profile NAME PROFILE",
		"vol lss":               "did you mean ls?",
		"volume ls --josn":      "unknown flag: --josn; see",

		"volume create -s 1GiB db@bronze -p gold": `unknown flag: -s (use: drover volume create -o size=1GiB db@gold); see`,
		"volume create --profile":                 `(use: drover volume create NAME@PROFILE); see`,
		"volume create db 1GiB":                   `unexpected argument: 1GiB (use: drover volume create db -o size=1GiB); see`,
		"volume create db label.a=b;c":            `(use: drover volume create db -o 'label.a=b;c'); see`,
		"volume create db --dry-run":              "unknown flag: --dry-run (create has no dry run; ",
		"clone create db copy":                    "unexpected argument: copy (use: drover clone db copy); see",
		"clone db before copy":                    "unexpected argument: copy (use: drover clone db@before copy); see",
		"clone db copy --snapshot before":         "drover clone VOLUME@SNAPSHOT NEW",
		"volume import db /srv/x":                 "use: drover volume import db --from /srv/x",
		"pool rm main --force":                    "unknown flag: --force (only an empty pool is removed: ",
		"pool rm main -f":                         "unknown flag: -f (only an empty pool is removed: ",
		"volume set-profile db -o pool=fast":      `-o "pool=fast": not an output format (a volume stays in its pool; `,
		"volume move db --pool fast":              "unknown flag: --pool (a volume stays in its pool; ",
		"restore db":                              `unknown command "restore" for drover: use drover snapshot restore VOLUME SNAPSHOT, drover backup restore BACKUP NEW, or`,
		"mount db":                                "docker run -v NAME:/PATH IMAGE",
		"info":                                    "use drover status, or drover volume inspect NAME",
		"snapshot rename db x":                    "a snapshot keeps its name",
		"snapshot reame db x":                     `unknown command "reame" for snapshot`,
		"pool create x /srv/x":                    "use: drover pool create x --backend loop --path /srv/x",
		"prune":                                   "drover volume rm --dry-run NAME",
		"nosuch --help":                           `unknown command "nosuch" for drover (available: `,
		"volume mount --help":                     "docker run -v NAME:/PATH IMAGE",
		"vol lss db -h":                           "did you mean ls?",
		"profile create x":                        "add the profile to /etc/drover/profiles.yaml",
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
		if command == "--version" {
			continue
		}
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

// commandRE matches a command of Drover in a text, up to the first word that is not part of it.
var commandRE = regexp.MustCompile("drover((?: [a-z][a-z-]*| --?[a-z][a-z-]*| [A-Z][A-Z@]*)+)")

// TestAdviceExists: each command in the advice exists, with its flags, and none destroys data.
func TestAdviceExists(t *testing.T) {
	root := newRootCmd(newConsole(theWorld()).App)
	found := 0
	for typed, text := range cli.Advice() {
		for _, m := range commandRE.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			cmd, _, err := root.Find(words)
			if err != nil || cmd == root || cmd.HasSubCommands() {
				t.Errorf("%s: %q: no command %v: %v", typed, text, words, err)
				continue
			}
			found++
			for _, w := range words {
				if w == "--force" || w == "--forget" || w == "--fenced" || w == "--all" {
					t.Errorf("%s: %q suggests %s", typed, text, w)
				}
				if name, long := strings.CutPrefix(w, "--"); long && cmd.Flags().Lookup(name) == nil {
					t.Errorf("%s: %q: %s has no %s", typed, text, cmd.CommandPath(), w)
				}
			}
		}
		path := strings.Fields(typed)
		if cmd, _, err := root.Find(path); err == nil && cmd.CommandPath() == "drover "+typed {
			t.Errorf("%s is a command", typed)
		}
	}
	if found < 40 {
		t.Errorf("only %d commands", found)
	}
}
