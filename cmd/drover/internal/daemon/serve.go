package daemon

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
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
