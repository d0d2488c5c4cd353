package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

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
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/freezer"
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
	root.PersistentFlags().StringVar(&a.Endpoint, "api", "",
		"`ADDRESS` of the API (or DROVER_API; default "+cli.DefaultEndpoint+")")
	root.PersistentFlags().StringVar(&a.Files.Cert, "cert", "",
		"`FILE` with the client certificate for https (or DROVER_CERT)")
	root.PersistentFlags().StringVar(&a.Files.Key, "key", "",
		"`FILE` with the key of the client certificate (or DROVER_KEY)")
	root.PersistentFlags().StringVar(&a.Files.CA, "ca", "",
		"`FILE` with the certificates of the cluster's authority (or DROVER_CA)")
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

// versions is what version prints as JSON.
type versions struct {
	Client string       `json:"client"`
	Server *api.Version `json:"server,omitempty"`
	Error  string       `json:"error,omitempty"` // why the server did not answer
}

func newVersionCmd(a *cli.App) *cobra.Command {
	return cli.Query(a, &cobra.Command{
		Use:               "version",
		Short:             "Print the version of this command and of the server",
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}, false, func(cmd *cobra.Command, c cli.Remote, o *cli.Output, _ []string) error {
		v := versions{Client: a.Version}
		// An unreachable server is a part of the answer, not a failure of this command.
		if s, err := c.Version(cmd.Context()); err != nil {
			v.Error = err.Error()
		} else {
			v.Server = &s
		}
		return cli.PrintObject(a, o, v, func(v versions) *cli.Form { return versionForm(a, v) })
	})
}

func versionForm(a *cli.App, v versions) *cli.Form {
	f := &cli.Form{}
	f.Add("Client", v.Client)
	f.Add("Server", v.Error)
	if s := v.Server; s != nil {
		f.Add("Server", s.Version)
		f.Add("API", s.API)
		f.Add("Node", s.Node)
		f.Add("Store", s.Store)
		f.Add("Started", cli.When(a.Now(), s.Started))
	}
	return f
}

func newCompletionCmd(a *cli.App) *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:    "completion SHELL",
		Short:  "Print a completion script for bash, fish or zsh",
		Hidden: true, // make install writes the scripts
		Long: `Print a completion script for bash, fish or zsh. The scripts ask drover for the
words, so they also complete the names of volumes, nodes and pools. make install
installs them. The script for bash needs the package bash-completion.`,
		Example: `  source <(drover completion bash)
  drover completion bash > /etc/bash_completion.d/drover
  drover completion zsh > "${fpath[1]}/_drover"
  drover completion fish > ~/.config/fish/completions/drover.fish`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.UsageError(cmd, "missing argument: SHELL (available: %s)", dataset.FormatChoices(shells))
			}
			return cli.Args(1)(cmd, args)
		},
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			}
			return cli.UnknownWord(cmd, "shell", "completion", args[0], shells)
		},
	}
}

func newManCmd(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into a folder",
		Hidden: true,
		Args:   cli.Args(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if !info.IsDir() {
				return cli.UsageError(cmd, "man: %s is not a folder", args[0])
			}
			if err := doc.GenManTree(cmd.Root(), &doc.GenManHeader{
				Section: "1", Source: "drover " + a.Version, Manual: "Drover",
			}, args[0]); err != nil {
				return err
			}
			for _, p := range settings.ReferencePages() {
				text, err := p.Man(a.Version)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(args[0], p.File+".5"), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newFreezerCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "freezer",
		Short:  "Freeze a filesystem during a snapshot (used by the agent)",
		Hidden: true,
		Args:   cli.Args(0),
		Run:    func(*cobra.Command, []string) { freezer.Serve() },
	}
}
