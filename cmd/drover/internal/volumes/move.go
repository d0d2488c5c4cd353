package volumes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeMoveCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "move NAME NODE",
		SuggestFor: []string{"mv", "migrate"},
		Short:      "Move a volume to another node",
		Long: `Move a volume to another node, its new home. Most data is copied while the
volume is in use. Then it must be unmounted for a moment. A volume that stays in
use is not moved, and the error names its users.

If the home is lost, use --force and --fenced NODE: the volume continues from
the copy on the target. Data that was written after that copy was taken is
missing; the command prints the time of the copy first. --fenced confirms that
the node writes to the volume no more: it is off, or cut off for good. This
requires the role admin. If the node returns later, its data becomes a
superseded copy.`,
		Example: `  drover volume move db host-b
  drover volume move db host-b --force --fenced host-a`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	req := api.Request{Kind: dataset.OpMove}
	cmd.Flags().BoolVar(&req.Force, "force", false, "continue without the home, from the copy on the target")
	cmd.Flags().StringVar(&req.Fenced, "fenced", "", "confirm that the home `NODE` is fenced and writes no more")
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req.Volume, req.Node = args[0], args[1]
		if req.Force {
			if err := printLoss(cmd.Context(), a, req); err != nil {
				return err
			}
		}
		err := a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, wouldMove(out, args[1])
			}
			line := fmt.Sprintf("volume %s is on node %s%s", d.Volume, args[1], unchangedNote(out))
			if out.Operation != nil && out.Operation.Loss != nil {
				line += ", without the data written since " + cli.When(a.Now(), out.Operation.Loss.Taken)
			}
			return d.ID, line
		})
		return explainPool(cmd.Context(), a, req, err)
	}
	return cmd
}

// explainPool returns a clearer error if a move failed because its target is a pool, and no node. Otherwise it returns
// err.
func explainPool(ctx context.Context, a *cli.App, req api.Request, err error) error {
	name := strings.TrimPrefix(req.Node, "pool=")
	if !errors.Is(err, dataset.ErrInvalid) {
		return err
	}
	c, dialErr := a.Connect()
	if dialErr != nil {
		return err
	}
	pools, poolsErr := c.Pools(ctx)
	nodes, nodesErr := c.NodeList(ctx, "")
	from, fromErr := c.Volume(ctx, req.Volume)
	isPool := slices.ContainsFunc(pools, func(p api.Pool) bool { return p.Name == name })
	isNode := slices.ContainsFunc(nodes, func(n api.Node) bool { return n.Name == name })
	if errors.Join(poolsErr, nodesErr, fromErr) != nil || !isPool || isNode {
		return err // as the server said
	}
	return dataset.Errorf(dataset.KindOf(err), "%s is a pool, and volume %s moves only to another node (for a full "+
		"copy in that pool: drover volume export %[2]s | drover volume import NEW@%[3]s -o pool=%[1]s --from "+
		"-)", name, req.Volume, from.Profile.Name)
}

// wouldMove says what a move would do.
func wouldMove(out api.Outcome, target string) string {
	v := cli.MadeDataset(out)
	switch {
	case out.Operation == nil:
		return fmt.Sprintf("nothing to do: volume %s is on node %s already", v.Volume, target)
	case out.Volume == nil:
		return fmt.Sprintf("would move volume %s to node %s", v.Volume, target)
	case out.Operation.Loss != nil:
		return fmt.Sprintf("would continue volume %s on node %s from its copy, without node %s", v.Volume, target,
			out.Volume.Node)
	}
	line := fmt.Sprintf("would move volume %s from node %s to node %s", v.Volume, out.Volume.Node, target)
	if s := out.Volume.Status; s != nil && len(s.Mounts) > 0 {
		line += "; it is in use, and must be unmounted before the end of the move"
	}
	return line
}

// printLoss prints which data a move without the home would lose, before the move.
func printLoss(ctx context.Context, a *cli.App, req api.Request) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	v, err := c.Volume(ctx, req.Volume)
	if err != nil {
		return err
	}
	for _, k := range v.CopyDetails {
		if k.NodeName != req.Node && k.Node.String() != req.Node || k.Snapshot == uuid.Nil {
			continue
		}
		_, err := fmt.Fprintf(a.ErrOut, "drover: the copy of volume %s on node %s was taken %s: data that node "+
			"%s wrote later is missing\n", v.Volume, k.NodeName, cli.When(a.Now(), k.Taken), v.Node)
		return err
	}
	return nil // that node has no data: the response of the server says so
}
