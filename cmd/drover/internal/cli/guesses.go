package cli

import (
	"maps"
	"strings"

	"github.com/spf13/cobra"
)

// otherWords maps words that people type to the commands that they mean, without the program's name. The words are
// those of other tools, or come from trials with newcomers. A command without a noun, such as create, belongs to the
// noun that the person typed. A command that destroys data has --dry-run, so that copying it from the message does no
// harm.
var otherWords = map[string]string{
	"grow": "volume resize", "extend": "volume resize", "expand": "volume resize", "enlarge": "volume resize",
	"set": "volume set-profile", "change": "volume set-profile", "users": "volume inspect", "who": "volume inspect",
	"info": "inspect", "describe": "inspect", "get": "inspect", "stat": "inspect",
	"new": "create", "add": "create", "make": "create",
	"undelete": "trash restore", "untrash": "trash restore", "empty": "trash purge --all --dry-run",
	"df": "pool ls", "du": "volume ls", "usage": "volume ls", "ps": "volume ls", "top": "volume stats",
	"rollback": "snapshot restore", "revert": "snapshot restore", "migrate": "volume move", "mv": "volume move",
	"log": "events", "logs": "events", "health": "status", "check": "doctor",
}

// OtherWords returns a copy of the words and the commands that they mean.
func OtherWords() map[string]string { return maps.Clone(otherWords) }

// meant returns the command that a person means by a word below cmd, such as "drover volume resize", or "" if that is
// not known.
func meant(cmd *cobra.Command, word string) string {
	other := otherWords[strings.ToLower(word)]
	if other != "" {
		path := strings.Fields(other)
		for _, from := range []*cobra.Command{cmd, cmd.Root()} {
			found, rest, err := from.Find(path)
			if err == nil && found != from && !found.HasSubCommands() {
				return strings.Join(append([]string{found.CommandPath()}, rest...), " ")
			}
		}
	}
	return orElse(elsewhere(cmd.Root(), word), elsewhere(cmd.Root(), other))
}

// elsewhere returns the command that a word names below another noun, or "" if there is none. A word that several
// nouns have, such as ls, is one of volumes, or one of the first noun.
func elsewhere(root *cobra.Command, word string) string {
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
	case "pool", "node", "profile", "volume", "state", "kind", "status":
	default:
		return ""
	}
	if cmd.Flags().Lookup("filter") == nil {
		return ""
	}
	return "--filter " + name + "=" + orElse(value, strings.ToUpper(name))
}
