package cli

import (
	"maps"
	"strings"

	"github.com/spf13/cobra"
)

// otherWords maps words that people type to the commands that they mean, without the program's name, if the words are
// not accepted as synonyms: because the meaning is not certain, or because the command destroys or disturbs something.
// A command that destroys data has --dry-run, so that copying it from the message does no harm.
var otherWords = map[string]string{
	"shrink": "volume resize", "size": "volume resize",
	"empty": "trash purge --all --dry-run",
	"fetch": "pull", "upload": "push", "publish": "push", "download": "pull",
	"rollback": "snapshot restore", "revert": "snapshot restore", "undo": "snapshot restore",
	"mv": "volume rename", "rename": "volume rename", "defrag": "volume rewrite", "drain": "node drain",
	"evacuate": "node drain", "bench": "backend verify", "benchmark": "backend verify",
}

// OtherWords returns a copy of the tables synonyms and otherWords, for the test that all commands in them exist.
func OtherWords() map[string]string {
	all := maps.Clone(synonyms)
	maps.Copy(all, otherWords)
	return all
}

// meantCommand returns the command that a person means by a word below cmd, such as "drover volume resize", or "" if
// that is not known.
func meantCommand(cmd *cobra.Command, word string) string {
	word = strings.ToLower(word)
	other := orElse(otherWords[word], synonyms[word])
	if !cmd.HasParent() {
		return orElse(resolve(cmd, other), commandOfAnyNoun(cmd.Root(), word))
	}
	if meant := resolve(cmd, other); strings.HasPrefix(meant, cmd.CommandPath()+" ") || onlyReads(meant) {
		return meant
	}
	return ""
}

// onlyReads reports whether a command line, which may have flags, changes nothing. Below a noun, a command of another
// noun is only suggested if it does: the words of a person who typed another noun can mean something else.
func onlyReads(line string) bool {
	for _, w := range strings.Fields(line) {
		switch w {
		case "ls", "inspect", "show", "diff", "stats", "status", "events", "doctor":
			return true
		}
	}
	return false
}

// resolve returns the whole command line of a command that is named without its noun, such as rm, or with it. It
// searches below cmd first, then below the root, and then below each noun. It returns "" if there is no such command.
func resolve(cmd *cobra.Command, command string) string {
	path := strings.Fields(command)
	if len(path) == 0 {
		return ""
	}
	for _, from := range []*cobra.Command{cmd, cmd.Root()} {
		found, rest, err := from.Find(path)
		if err == nil && found != from && !found.HasSubCommands() {
			return strings.Join(append([]string{found.CommandPath()}, rest...), " ")
		}
	}
	return commandOfAnyNoun(cmd.Root(), command)
}

// commandOfAnyNoun returns the command that a word names below any noun, such as "drover volume resize" for resize, or
// "" if there is none. If several nouns have such a command, as with ls, it returns the command of the noun volume. If
// volume does not have it, it returns the command of the first noun that has it.
func commandOfAnyNoun(root *cobra.Command, word string) string {
	first := ""
	for _, noun := range root.Commands() {
		if !noun.IsAvailableCommand() {
			continue
		}
		found, rest, err := noun.Find([]string{word})
		if err != nil || found == noun || len(rest) > 0 {
			continue
		}
		if noun.Name() == "volume" {
			return found.CommandPath()
		}
		first = orElse(first, found.CommandPath())
	}
	return first
}

// typedCommand returns the word at the place of a subcommand of cmd on the command line words, or "" if there is none.
func typedCommand(cmd *cobra.Command, words []string) string {
	nouns := strings.Fields(CommandName(cmd))
	if !cmd.HasParent() {
		nouns = nil
	}
	for _, w := range words {
		switch {
		case strings.HasPrefix(w, "-"):
			return ""
		case len(nouns) > 0:
			nouns = nouns[1:]
		default:
			return w
		}
	}
	return ""
}

// listFilter returns the filter that replaces a flag of a list, such as "--filter pool=main" for --pool main, or "" if
// cmd is no list.
func listFilter(cmd *cobra.Command, name, value string) string {
	switch name {
	case "pool", "node", "profile", "volume", "state", "kind", "status", "type":
	default:
		return ""
	}
	if cmd.Flags().Lookup("filter") == nil {
		return ""
	}
	return "--filter " + name + "=" + orElse(value, strings.ToUpper(name))
}
