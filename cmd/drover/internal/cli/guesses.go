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
	"shrink": "volume resize", "size": "volume resize",
	"set": "volume set-profile", "change": "volume set-profile", "users": "volume inspect", "who": "volume inspect",
	"edit": "volume set-profile", "update": "volume set-profile", "modify": "volume set-profile",
	"info": "inspect", "describe": "inspect", "get": "inspect", "stat": "inspect", "status": "inspect",
	"lsof": "volume inspect", "fuser": "volume inspect", "where": "volume inspect", "path": "volume inspect",
	"mountpoint": "volume inspect", "replicas": "volume inspect", "usedby": "volume inspect",
	"new": "create", "add": "create", "make": "create", "mk": "create", "take": "snapshot create",
	"destroy": "rm", "drop": "rm", "del": "rm", "erase": "rm",
	"undelete": "trash restore", "untrash": "trash restore", "empty": "trash purge --all --dry-run",
	"recycle": "trash ls", "deleted": "trash ls",
	"df": "pool ls", "free": "pool ls", "space": "pool ls", "capacity": "pool ls", "disk": "pool ls",
	"du": "volume ls", "usage": "volume ls", "ps": "volume ls", "top": "volume stats", "iostat": "volume stats",
	"rollback": "snapshot restore", "revert": "snapshot restore", "undo": "snapshot restore",
	"migrate": "volume move", "mv": "volume rename", "rename": "volume rename",
	"copy": "clone", "cp": "clone", "fork": "clone",
	"dump": "volume export", "save": "volume export", "load": "volume import",
	"lock": "volume protect", "unlock": "volume unprotect", "defrag": "volume rewrite",
	"hosts": "node ls", "servers": "node ls", "members": "node ls", "evacuate": "node drain",
	"tasks": "operation ls", "jobs": "operation ls", "job": "operation ls", "queue": "operation ls",
	"log": "events", "logs": "events", "history": "events", "monitor": "events",
	"health": "status", "check": "doctor", "fsck": "doctor", "diagnose": "doctor", "debug": "doctor",
	"bench": "backend verify", "benchmark": "backend verify",
}

// OtherWords returns a copy of the words and the commands that they mean.
func OtherWords() map[string]string { return maps.Clone(otherWords) }

// plurals maps the plural of a noun to the command that lists the things.
var plurals = map[string]string{
	"volumes": "volume ls", "snapshots": "snapshot ls", "pools": "pool ls", "nodes": "node ls",
	"profiles": "profile ls", "operations": "operation ls", "vols": "volume ls", "snaps": "snapshot ls",
}

// meant returns the command that a person means by a word below cmd, such as "drover volume resize", or "" if that is
// not known.
func meant(cmd *cobra.Command, word string) string {
	word = strings.ToLower(word)
	other := orElse(otherWords[word], plurals[word])
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
