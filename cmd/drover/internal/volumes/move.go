package volumes

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeMoveCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "move NAME NODE",
		Short: "Make another node a volume's home",
		Long: `Make another node a volume's home. Most of it is copied while it is in use;
then it must not be mounted for a moment: a volume that stays in use is not
moved, and the error names who holds it.

With --force and --fenced NODE it goes on from the copy that the target has,
without its home: for a node that is lost. What was written since that copy was
taken is not in it, and of when it is is said first. --fenced is your word that
the node writes to the volume no more: that it is off, or cut off for good. It
takes the role admin. A node that comes back after that keeps what it had as a
superseded copy.`,
		Example: `  drover volume move db host-b
  drover volume move db host-b --force --fenced host-a`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	req := api.Request{Kind: dataset.OpMove}
	cmd.Flags().BoolVar(&req.Force, "force", false, "go on without the home, from the target's copy")
	cmd.Flags().StringVar(&req.Fenced, "fenced", "", "the home `NODE`, which writes to the volume no more")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Volume, req.Node = args[0], args[1]
		if req.Force {
			if err := printLoss(cmd.Context(), a, req); err != nil {
				return err
			}
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			line := fmt.Sprintf("volume %s lives on node %s%s", d.Volume, args[1], already(out))
			if out.Operation != nil && out.Operation.Loss != nil {
				line += ", without what was written since " + show.When(a.Now(), out.Operation.Loss.Taken)
			}
			return d.ID, line
		})
	}
	return cmd
}

// printLoss prints the loss of a move without the home, before it is done.
func printLoss(ctx context.Context, a *cli.App, req api.Request) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	v, err := c.Volume(ctx, req.Volume)
	if err != nil {
		return err
	}
	for _, k := range v.Kept {
		if k.NodeName != req.Node && k.Node.String() != req.Node || k.Snapshot == uuid.Nil {
			continue
		}
		_, err := fmt.Fprintf(a.ErrOut, "drover: the copy of volume %s on node %s is of %s: what node %s "+
			"wrote to it since is not in it\n", v.Volume, k.NodeName, show.When(a.Now(), k.Taken), v.Node)
		return err
	}
	return nil // there is none, as the answer says
}
