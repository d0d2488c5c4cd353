package main

import (
	"context"
	"time"

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
profiles, snapshots and clones, and this command line for it.

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
	})
	addGroup(root, groupVolumes, "Volumes:",
		volumes.Command(a), settings.Command(a), volumes.TrashCommand(a), projects.Command(a, projects.ThisHost()))
	addGroup(root, groupSnapshots, "Snapshots and copies:",
		volumes.SnapshotCommand(a), volumes.CloneCommand(a), backups.PushCommand(a), backups.PullCommand(a))
	addGroup(root, groupBackups, "Backups:",
		backups.Command(a), backups.RepositoryCommand(a), backups.RecoverCommand(a))
	addGroup(root, groupHost, "Host:",
		daemon.ServeCommand(a), daemon.ConfigCommand(a), pools.Command(a), verification.Command(a),
		status.Command(a), status.DoctorCommand(a), status.OperationCommand(a), newEventsCmd(a),
		status.BundleCommand(a, runIn(a), status.ThisHost(a.EngineVersion)),
		nodes.StoreCommand(a), newVersionCmd(a), newCompletionCmd(a), newManCmd(a), newFreezerCmd())
	addGroup(root, groupCluster, "Cluster:",
		nodes.Command(a), nodes.CertificateCommand(a), volumes.CopyCommand(a),
		daemon.ControlCommand(a), daemon.AgentCommand(a), nodes.GuardCommand(a))
	root.SetHelpFunc(helpFunc(a, root))
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

// The IDs of the groups in drover --help.
const (
	groupVolumes   = "volumes"
	groupSnapshots = "snapshots"
	groupBackups   = "backups"
	groupHost      = "host"
	groupCluster   = "cluster"
)

func addGroup(root *cobra.Command, id, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: id, Title: title})
	for _, c := range commands {
		c.GroupID = id
	}
	root.AddCommand(commands...)
}

// helpFunc prints the help of a command, without the subcommands that only a cluster needs if the server runs a single
// host.
func helpFunc(a *cli.App, root *cobra.Command) func(*cobra.Command, []string) {
	whole := root.HelpFunc()
	return func(cmd *cobra.Command, args []string) {
		if cmd.HasSubCommands() && isSingleHost(root.Context(), a) {
			for _, c := range cmd.Commands() {
				c.Hidden = c.Hidden || c.GroupID == groupCluster || cli.IsClusterOnly(c)
			}
			for _, g := range cmd.Groups() {
				if g.ID == groupCluster {
					g.Title = "Cluster: commands not shown on a single host (docs/cluster.md)"
				}
			}
		}
		whole(cmd, args)
	}
}

// singleHostWithin bounds how long the help waits for the server.
const singleHostWithin = time.Second

// isSingleHost reports whether the server answers and keeps its store in a file, as drover serve does. A cluster has
// its store in Consul.
func isSingleHost(ctx context.Context, a *cli.App) bool {
	ctx, cancel := context.WithTimeout(ctx, singleHostWithin)
	defer cancel()
	c, err := a.Dial(a.Address())
	if err != nil {
		return false
	}
	v, err := c.Version(ctx)
	return err == nil && v.Store == "bolt"
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
		Use:     "help [COMMAND...]",
		Short:   "Show the help of a command",
		GroupID: groupHost,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
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
