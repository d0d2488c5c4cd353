package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
	"github.com/spf13/cobra"
)

// Group makes cmd the parent of other commands. A call of cmd without a subcommand prints its help. A call with an
// unknown subcommand is a usage error.
func Group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownPlace(cmd, args)
		}
		return cmd.Help()
	}
	return cmd
}

// unknownPlace is UnknownCommand for the arguments of cmd. If the only argument may be the name of an item, as in
// drover pool main, the error has the command that shows the item.
func unknownPlace(cmd *cobra.Command, args []string) error {
	isWord := meantCommand(cmd, args[0]) != "" || advise(cmd, args[0]) != "" ||
		dataset.Nearest(args[0], commandNames(cmd)) != ""
	name, _, _ := strings.Cut(args[0], "@")
	if len(args) != 1 || isWord || dataset.CheckName(name) != nil {
		return UnknownCommand(cmd, args...)
	}
	if c := childOf(cmd, "create"); c != nil && CommandName(cmd) == "backup" {
		return UsageError(cmd, "unknown command %q for backup (to back up a volume: %s)", args[0],
			shellLine([]string{c.CommandPath(), args[0]}))
	}
	for _, verb := range []string{"ls", "inspect"} {
		c := childOf(cmd, verb)
		switch {
		case c == nil || verb == "ls" && CommandName(cmd) != "snapshot":
		case verb == "ls":
			return UsageError(cmd, "unknown command %q for snapshot (to list the snapshots of a volume: %s; to take "+
				"one: %s)", args[0], shellLine([]string{c.CommandPath(), args[0]}),
				shellLine([]string{cmd.CommandPath(), "create", args[0]}))
		default:
			return UsageError(cmd, "unknown command %q for %s (if it is the name of a %[2]s: %s)", args[0],
				CommandName(cmd), shellLine([]string{c.CommandPath(), args[0]}))
		}
	}
	return UnknownCommand(cmd, args...)
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// UnknownCommand is the usage error for arguments whose first word names no subcommand of cmd. If the error suggests a
// command, the suggestion includes the other arguments.
func UnknownCommand(cmd *cobra.Command, args ...string) error {
	word, hint := args[0], ""
	if text := advise(cmd, word); text != "" {
		return UsageError(cmd, "unknown command %q for %s: %s", dataset.Clip(word), CommandName(cmd), text)
	}
	if other := meantCommand(cmd, word); other != "" {
		hint = ", did you mean " + shellLine(append([]string{other}, args[1:]...)) + "?"
	}
	return unknownWord(cmd, "command", CommandName(cmd), word, commandNames(cmd), hint)
}

// UnknownWord is the usage error for a word that is not in have, the list of the known words. what names the kind of
// word, such as command. where is the command or flag that expects the word.
func UnknownWord(cmd *cobra.Command, what, where, word string, have []string) error {
	return unknownWord(cmd, what, where, word, have, "")
}

// unknownWord is UnknownWord with a hint. If hint is empty, it suggests the nearest of the known words.
func unknownWord(cmd *cobra.Command, what, where, word string, have []string, hint string) error {
	if n := dataset.Nearest(word, have); n != "" && hint == "" {
		hint = ", did you mean " + n + "?"
	}
	return UsageError(cmd, "unknown %s %q for %s%s (available: %s)", what, dataset.Clip(word), where, hint,
		dataset.FormatChoices(have))
}

// CommandName returns the name of a command without the program's name.
func CommandName(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Name()
	}
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return path
}

// UsageError is an error about how a command was called: exit code 2 and a hint.
func UsageError(cmd *cobra.Command, format string, args ...any) error {
	return dataset.Errorf(dataset.ErrInvalid, "%w; see %s --help", fmt.Errorf(format, args...), cmd.CommandPath())
}

// Args checks the number of arguments. It accepts minimum or more of them, up to the number that the use line of the
// command names, or any number if the use line ends in "...]". The error names the missing or unexpected argument.
func Args(minimum int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		_, names, _ := strings.Cut(cmd.Use, " ")
		hint := argumentAdvice(cmd, args)
		if hint != "" {
			hint = " (" + hint + ")"
		}
		maximum := len(strings.Fields(names))
		if strings.HasSuffix(names, "...]") {
			maximum = max(maximum, len(args))
		}
		switch {
		case len(args) >= minimum && len(args) <= maximum:
			return nil
		case len(args) > maximum:
			return UsageError(cmd, "unexpected argument: %s%s", dataset.Clip(args[maximum]), hint)
		}
		return UsageError(cmd, "missing argument: %s%s", strings.Fields(names)[len(args)], hint)
	}
}

// PrintError writes an error as one line.
func PrintError(w io.Writer, err error) {
	// If standard error is closed too, the error cannot be reported.
	_, _ = fmt.Fprintln(w, "drover: "+show.Clean(err.Error()))
}

// PrintMistakes prints each mistake in a file on a line, and returns an error with their number. If there is only one
// mistake, it prints nothing and returns the mistake.
func PrintMistakes(a *App, file string, all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	for _, m := range all {
		PrintError(a.ErrOut, m)
	}
	return dataset.Errorf(dataset.KindOf(all[0]), "%s has %d errors", file, len(all))
}
