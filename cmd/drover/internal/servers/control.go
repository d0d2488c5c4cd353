package servers

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
)

// ControlCommand makes drover control.
func ControlCommand(a *cli.App) *cobra.Command {
	var f Flags
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run a control replica of a cluster",
		Long: `Run one of the control replicas of a cluster: it decides what the cluster's
agents do, keeps all it knows in Consul, and answers agents and operators on the
network, and root of this host at control.sock. Any number run side by side; one
that is stopped or lost is not missed as long as another runs. With Consul away
it serves, says so, and goes on when Consul is back.

drover.yaml names the store, the cluster's certificate authority (ca) and where
to listen. SIGHUP reads profiles.yaml again; give each replica the same.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runProcess(cmd.Context(), a, f, daemon.Control) },
	}
	f.common(cmd.Flags())
	f.ofControl(cmd.Flags())
	f.publishing(cmd.Flags(), toConsul)
	return cmd
}
