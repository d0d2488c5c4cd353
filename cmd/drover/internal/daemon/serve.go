package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// ServeCommand makes drover serve.
func ServeCommand(a *cli.App) *cobra.Command {
	var f Flags
	cmd := &cobra.Command{
		Use:        "serve",
		SuggestFor: []string{"daemon", "start"},
		Short:      "Run Drover on this host",
		Long: `Run everything for a single host in one process: the control service with its
store, the agent, the API and the Docker volume plugin. Stopping it keeps the
mounts of running containers. The next start finds them again.

SIGHUP reloads profiles.yaml. If the file has a mistake, nothing changes.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runProcess(cmd.Context(), a, f, Serve) },
	}
	f.common(cmd.Flags())
	f.ofControl(cmd.Flags())
	f.ofHost(cmd.Flags())
	f.publishing(cmd.Flags(), toSwarm)
	return cmd
}

// AgentCommand makes drover agent.
func AgentCommand(a *cli.App) *cobra.Command {
	var f Flags
	var join string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of a cluster host",
		Long: `Run the agent of a cluster host. It mounts volumes, keeps their data in the
pools of this host, and provides the Docker volume plugin and the API. It gets
its decisions from the control replicas in drover.yaml (key control). Other
hosts fetch volumes from it at the address in drover.yaml (key listen). While
control is unreachable, containers keep running, and volumes whose home is this
host can still be mounted. The commands that list and inspect volumes,
snapshots, the trash and pools then print what this host knows, and how old that
is.

To join the cluster, the agent needs a token once: drover node token creates it
on a control host. The token is read from a file (@FILE) or from standard input
(-), because every user of a host can read command lines. After that the agent
has a certificate in the root folder and renews it automatically. A token can be
used only once.

Stopping the agent keeps the mounts of running containers. The next start finds
them again. SIGHUP is ignored: restart the agent after a change of drover.yaml.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := ReadToken(a, join)
			if err != nil {
				return err
			}
			return runProcess(cmd.Context(), a, f, func(ctx context.Context, o Options) error {
				o.Join = token
				return Agent(ctx, o)
			})
		},
	}
	f.common(cmd.Flags())
	f.ofHost(cmd.Flags())
	f.publishing(cmd.Flags(), toSwarm)
	cmd.Flags().StringVar(&join, "join", "", "the join token: `@FILE`, or - for standard input; ignored if the "+
		"host has joined already")
	return cmd
}

// maxToken bounds the length of a token.
const maxToken = 4 << 10

// ReadToken returns the join token from a file (@FILE) or from standard input (-). If source is empty, it returns no
// token. It refuses a token on the command line, because every user of the host can read the command line (invariant
// I12 in docs/invariants.md). The error does not contain that token.
func ReadToken(a *cli.App, source string) (string, error) {
	var from io.Reader
	switch file, ok := strings.CutPrefix(source, "@"); {
	case source == "":
		return "", nil
	case source == "-":
		from = a.In
	case ok:
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("join token: %w", err)
		}
		defer f.Close()
		from = f
	default:
		return "", dataset.Errorf(dataset.ErrInvalid,
			"--join: expected @FILE or -, because every user of this host can read the command line: put the "+
				"token in a file that only root can read and use --join @FILE, or use --join - and send it on "+
				"standard input (a token that was shown this way is still valid; create another with drover "+
				"node token)")
	}
	b, err := io.ReadAll(io.LimitReader(from, maxToken))
	if err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// ControlCommand makes drover control.
func ControlCommand(a *cli.App) *cobra.Command {
	var f Flags
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run a control replica of a cluster",
		Long: `Run a control replica of a cluster. It decides what the agents do and stores all
records in Consul. It serves agents and operators on the network, and root of
this host at control.sock. Any number of replicas can run at the same time, and
one of them is enough. While Consul is unreachable, the replica keeps serving,
reports the problem, and continues when Consul is reachable again.

drover.yaml names the store, the cluster's certificate authority (ca) and the
address to listen at. SIGHUP reloads profiles.yaml, which must be the same on
all replicas.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runProcess(cmd.Context(), a, f, Control) },
	}
	f.common(cmd.Flags())
	f.ofControl(cmd.Flags())
	f.publishing(cmd.Flags(), toConsul)
	return cmd
}
