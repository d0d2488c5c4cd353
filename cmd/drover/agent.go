package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/host"
)

func newAgentCmd(a *app) *cobra.Command {
	var f processFlags
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a host of a cluster",
		Long: `Run a host of a cluster: the agent, which mounts volumes and keeps their data
in this host's pools, the Docker volume plugin and the API. What is to be
decided it asks of the control replicas that drover.yaml names (control); other
hosts fetch volumes from it where drover.yaml says (listen). With control away,
containers and their volumes go on, and what is home here is mounted as before.

Stopping it leaves the mounts of running containers; starting it again finds
them.`,
		Args: args(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runProcess(cmd.Context(), a, f, host.Agent) },
	}
	f.common(cmd.Flags())
	f.ofHost(cmd.Flags())
	return cmd
}
