package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
	"github.com/spf13/cobra"
)

// group makes cmd the parent of others. By itself it is wrong usage: cobra would
// print help and call it a success.
func group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return usage(cmd, "%s needs a command (have: %s)", words(cmd), dataset.Have(commandNames(cmd)))
	}
	return cmd
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

func unknownCommand(cmd *cobra.Command, word string) error {
	names := commandNames(cmd)
	hint := ""
	if n := dataset.Nearest(word, names); n != "" {
		hint = ", did you mean " + n + "?"
	}
	return usage(cmd, "unknown command %q for %s%s (have: %s)", word, words(cmd), hint, dataset.Have(names))
}

// words is how a command is called, without the program's name.
func words(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Name()
	}
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return path
}

// usage is an error about how a command was called: exit code 2 and a hint.
func usage(cmd *cobra.Command, format string, args ...any) error {
	return dataset.Errorf(dataset.ErrInvalid, "%w; see %s --help", fmt.Errorf(format, args...), cmd.CommandPath())
}

// args accepts from least to as many arguments as are named in the command's use
// line, any number where that ends in "...]", and otherwise says what it wants.
func args(least int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		_, names, _ := strings.Cut(cmd.Use, " ")
		most := len(strings.Fields(names))
		if strings.HasSuffix(names, "...]") {
			most = max(most, len(args))
		}
		switch {
		case len(args) >= least && len(args) <= most:
			return nil
		case most == 0:
			return usage(cmd, "%s takes no arguments, got %q", words(cmd), args[0])
		}
		return usage(cmd, "%s wants %s, got %d", words(cmd), names, len(args))
	}
}

func complain(w io.Writer, err error) {
	// Nothing is left to tell it to when standard error is gone too.
	_, _ = fmt.Fprintln(w, "drover: "+show.Clean(err.Error()))
}
