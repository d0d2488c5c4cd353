package daemon

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

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
