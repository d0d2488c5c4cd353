package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/dataset"
)

// newRootCmd makes the whole command tree. Every command is made by a function
// of its own, in a file of its own.
func newRootCmd(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "drover",
		Short: "named, portable data for containers",
		Long: `Drover gives containers named, portable data: a Docker volume plugin with
profiles, snapshots and clones, and this command line for it.

A volume, snapshot, node or dataset may be named by any unique prefix of its
UUID. Tables are for people; -o json gives the API's objects to programs, and
-q the IDs alone. Exit codes: 0 fine, 1 failed, 2 wrong usage.`,
		Version:           a.version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	},
		newServeCmd(a), newControlCmd(a), newAgentCmd(a), newGuardCmd(a), newVolumeCmd(a), newSnapshotCmd(a),
		newCloneCmd(a), newTrashCmd(a), newProfileCmd(a),
		newPoolCmd(a), newBackendCmd(a), newNodeCmd(a), newStoreCmd(a), newCACmd(a), newOperationCmd(a),
		newEventsCmd(a),
		newDoctorCmd(a), newVersionCmd(a), newCompletionCmd(a), newManCmd(a),
	)
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	root.SetHelpCommand(newHelpCmd())
	root.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd, a.args, err) })
	root.PersistentFlags().StringVar(&a.endpoint, "api", "",
		"the API's `ADDRESS` (or DROVER_API; default "+defaultEndpoint+")")
	root.PersistentFlags().StringVar(&a.files.Cert, "cert", "",
		"`FILE` of the certificate to show over https (or DROVER_CERT)")
	root.PersistentFlags().StringVar(&a.files.Key, "key", "", "`FILE` of its key (or DROVER_KEY)")
	root.PersistentFlags().StringVar(&a.files.CA, "ca", "",
		"`FILE` of the cluster's certificate authority (or DROVER_CA)")
	root.CompletionOptions.DisableDefaultCmd = true
	cobra.CheckErr(root.RegisterFlagCompletionFunc("api", cobra.NoFileCompletions))
	return root
}

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

func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usage(cmd.Root(), "%w", err)
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
