package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/backups"
	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/cmd/drover/internal/projects"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/cmd/drover/internal/status"
	"github.com/droverhq/drover/cmd/drover/internal/verification"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"
)

// newRootCmd makes the whole command tree from the commands of the packages below internal and of this package.
func newRootCmd(a *cli.App) *cobra.Command {
	root := cli.Group(&cobra.Command{
		Use:   "drover",
		Short: "Named, portable data for containers",
		Long: `Drover gives containers named, portable data: a Docker volume plugin with
profiles, snapshots and clones, and this command line for it. drover help tasks
lists the command for each task.

A volume can be named as docker volume ls shows it, db@gold, if that is its
profile. Any unique prefix of a UUID names a volume, snapshot, node or dataset.
Tables are for people. -o json prints the objects of the API for programs, and
-q only IDs. list, delete, remove and show are other names of ls, rm and
inspect, and vol, snap, op and repo of volume, snapshot, operation and
repository. Exit codes: 0 success, 1 failure or a finding of status or doctor
that needs attention, 2 wrong usage. See drover.yaml(5) and profiles.yaml(5).`,
		Version:           a.Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	},
		status.Command(a),
		daemon.ServeCommand(a),
		daemon.ControlCommand(a),
		daemon.AgentCommand(a),
		daemon.ConfigCommand(a),
		nodes.GuardCommand(a),
		volumes.Command(a),
		volumes.SnapshotCommand(a),
		volumes.CloneCommand(a),
		volumes.ReplicaCommand(a),
		projects.Command(a, projects.ThisHost()),
		volumes.TrashCommand(a),
		settings.Command(a),
		pools.Command(a),
		pools.DFCommand(a),
		backups.RepositoryCommand(a),
		backups.Command(a), backups.RecoverCommand(a),
		backups.PushCommand(a), backups.PullCommand(a),
		verification.Command(a),
		nodes.Command(a),
		nodes.StoreCommand(a),
		nodes.CertificateCommand(a),
		status.OperationCommand(a),
		newEventsCmd(a),
		status.DoctorCommand(a),
		status.BundleCommand(a, runIn(a), status.ThisHost(a.EngineVersion)),
		newVersionCmd(a),
		newCompletionCmd(a),
		newManCmd(a),
		newFreezerCmd(),
	)
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return cli.UnknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	root.SetHelpCommand(newHelpCmd())
	root.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	root.SetFlagErrorFunc(cli.FlagError)
	serverFlags(a, root)
	root.CompletionOptions.DisableDefaultCmd = true
	cli.CompleteFlags(a, root)
	return root
}

// serverFlags adds the flags of all commands that say how the server is reached.
func serverFlags(a *cli.App, root *cobra.Command) {
	root.PersistentFlags().StringVar(&a.Endpoint, "api", "",
		"`ADDRESS` of the API (or DROVER_API; default "+cli.DefaultEndpoint+")")
	root.PersistentFlags().StringVar(&a.Files.Cert, "cert", "",
		"`FILE` with the client certificate for https (or DROVER_CERT)")
	root.PersistentFlags().StringVar(&a.Files.Key, "key", "",
		"`FILE` with the key of the client certificate (or DROVER_KEY)")
	root.PersistentFlags().StringVar(&a.Files.CA, "ca", "",
		"`FILE` with the certificates of the cluster's authority (or DROVER_CA)")
}

func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Show the help of a command, or with tasks the command for each task",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "tasks" {
				return writeTasks(cmd.OutOrStdout())
			}
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return cli.UsageError(cmd.Root(), "%w", err)
			}
			if len(rest) > 0 {
				return cli.UnknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
