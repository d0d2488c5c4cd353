package cli

import (
	"fmt"
	"io"
	"strings"

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
			return UnknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	return cmd
}

// clusterOnly is the annotation of a command that only a cluster needs.
const clusterOnly = "cluster-only"

// ClusterOnly marks a command that only a cluster needs. The help does not show it on a single host.
func ClusterOnly(cmd *cobra.Command) *cobra.Command {
	cmd.Annotations = map[string]string{clusterOnly: ""}
	return cmd
}

// IsClusterOnly reports whether ClusterOnly marked a command.
func IsClusterOnly(cmd *cobra.Command) bool {
	_, is := cmd.Annotations[clusterOnly]
	return is
}

// UnknownCommand is the usage error for a word that names no subcommand of cmd. It suggests the commands that cobra
// finds for the word.
func UnknownCommand(cmd *cobra.Command, word string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	cmd.SuggestionsMinimumDistance = 1 // with 2, rm would be suggested for ls
	hint := ""
	if near := cmd.SuggestionsFor(word); word != "" && len(near) > 0 {
		hint = ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return unknownWord(cmd, "command", CommandName(cmd), word, names, hint)
}

// UnknownWord is the usage error for a word that is not in have, the list of the known words. what names the kind of
// word, such as profile. where is the command or flag that expects the word.
func UnknownWord(cmd *cobra.Command, what, where, word string, have []string) error {
	hint := ""
	if n := dataset.Nearest(word, have); n != "" {
		hint = ", did you mean " + n + "?"
	}
	return unknownWord(cmd, what, where, word, have, hint)
}

func unknownWord(cmd *cobra.Command, what, where, word string, have []string, hint string) error {
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
		maximum := len(strings.Fields(names))
		if strings.HasSuffix(names, "...]") {
			maximum = max(maximum, len(args))
		}
		switch {
		case len(args) >= minimum && len(args) <= maximum:
			return nil
		case len(args) > maximum:
			return UsageError(cmd, "unexpected argument: %s", dataset.Clip(args[maximum]))
		}
		return UsageError(cmd, "missing argument: %s", strings.Fields(names)[len(args)])
	}
}

// PrintError writes an error as one line.
func PrintError(w io.Writer, err error) {
	// If standard error is closed too, the error cannot be reported.
	_, _ = fmt.Fprintln(w, "drover: "+Clean(err.Error()))
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
