package servers

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/dataset"
)

// AgentCommand makes drover agent.
func AgentCommand(a *cli.App) *cobra.Command {
	var f Flags
	var join string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a host of a cluster",
		Long: `Run a host of a cluster: the agent, which mounts volumes and keeps their data
in this host's pools, the Docker volume plugin and the API. What is to be
decided it asks of the control replicas that drover.yaml names (control); other
hosts fetch volumes from it where drover.yaml says (listen). With control away,
containers and their volumes go on, and what is home here is mounted as before.

The first time it joins the cluster with a token, which drover node token makes
on a control host; from then on it has a certificate in the root, which it
renews by itself. Everybody on the host can read a command line, so the token is
read from a file (@FILE) or from standard input (-). A token is of no use once
it was used.

Stopping it leaves the mounts of running containers; starting it again finds
them.`,
		Args: cli.Args(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := ReadToken(a, join)
			if err != nil {
				return err
			}
			return runProcess(cmd.Context(), a, f, func(ctx context.Context, o daemon.Options) error {
				o.Join = token
				return daemon.Agent(ctx, o)
			})
		},
	}
	f.common(cmd.Flags())
	f.ofHost(cmd.Flags())
	f.publishing(cmd.Flags(), toSwarm)
	cmd.Flags().StringVar(&join, "join", "", "where the token to join the cluster with is: `@FILE`, or - "+
		"for standard input; a host that has joined stays what it is")
	return cmd
}

// maxToken bounds the length of a token.
const maxToken = 4 << 10

// ReadToken returns the join token that is in a file (@FILE) or comes on standard input (-), and none for
// an empty source. A token on the command line is refused, as every user of the host can read that (I12);
// the error does not repeat it.
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
			"--join takes no token on the command line, which every user of this host can read: put it in a "+
				"file that only root can read and say --join @FILE, or say --join - and send it on standard "+
				"input (if that was a token, it can still be used: have another made, drover node token)")
	}
	b, err := io.ReadAll(io.LimitReader(from, maxToken))
	if err != nil {
		return "", fmt.Errorf("join token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
