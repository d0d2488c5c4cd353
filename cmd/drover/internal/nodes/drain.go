package nodes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newNodeDrainCmd(a *cli.App) *cobra.Command {
	var fenced bool
	cmd := &cobra.Command{
		Use:        "drain NODE",
		SuggestFor: []string{"evacuate"},
		Short:      "Move everything off a node, and place nothing new on it",
		Long: `Move everything off a node. Each volume goes to another node that its profile
allows, preferably to one with a replica. Replicas of the node are removed once
other nodes have replaced them; the last line names the volumes whose only
replica is still there. Nothing new is placed on the node until
drover node cordon --off.

A volume that is in use stays, and an error names its users. Stop them, and run
drain again: it continues with the volumes that are left.

The only node cannot be drained, and stays as it is.

Use --fenced if the node is lost and you confirm that it writes no more. Its
volumes then continue from the newest copies on other nodes. The command shows
for each volume since when its data is lost, and the name of the node must be
typed to confirm it, unless --yes is given.`,
		Example:           "  drover node drain host-a",
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.NodeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.Flags().BoolVar(&fenced, "fenced", false, "confirm that the node is lost and writes no more; continue "+
		"from copies")
	cli.DryRunFlag(cmd, o)
	yes := cli.AddFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, n, nodes, err := findNode(cmd.Context(), a, args[0])
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(nodes, func(o api.Node) bool { return o.ID != n.ID && o.Removed.IsZero() }) {
			return dataset.Errorf(dataset.ErrConflict,
				"drain of node %s: it is the only node, so its volumes can go nowhere (add another host first: drover "+
					"node token; drover node cordon %s only refuses new volumes)", n.Name, n.Name)
		}
		d := drain{
			App: a, c: c, node: n, json: o.JSON(), dryRun: o.DryRun, names: nodeNames(nodes), outcomes: []drained{},
		}
		if fenced {
			d.fenced = n.Name
		}
		if fenced && !yes.Given() && !o.DryRun {
			// Signals still end the command at once: nothing would end the wait for an answer otherwise.
			if err := d.confirmLosses(cmd.Context(), yes); err != nil {
				return err
			}
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		if o.DryRun {
			return d.run(ctx)
		}
		if _, err := c.Cordon(ctx, n.ID, api.Cordoned{Cordoned: true, Draining: true}); err != nil {
			return err
		}
		if err := d.print("node %s is cordoned: nothing new is placed on it (drover node cordon --off %s ends that)",
			n.Name, n.Name); err != nil {
			return err
		}
		return d.run(ctx)
	}
	return cmd
}

func nodeNames(nodes []api.Node) map[uuid.UUID]string {
	names := map[uuid.UUID]string{}
	for _, n := range nodes {
		names[n.ID] = n.Name
	}
	return names
}

// maxMoves is the maximum number of volumes that are moved at the same time.
const maxMoves = 8

// drain is one attempt to move all volumes off a node. One goroutine uses it.
type drain struct {
	*cli.App
	c      cli.Remote
	node   api.Node
	names  map[uuid.UUID]string
	fenced string // name of the node if --fenced was given, otherwise empty
	json   bool
	dryRun bool // only ask for the decisions

	open        []dataset.Operation // moves in progress, the oldest first
	outcomes    []drained
	all, failed int // numbers of volumes
}

// drained is the outcome for one volume.
type drained struct {
	Volume string `json:"volume"`
	Node   string `json:"node,omitempty"` // the volume's node after the move
	// LosesSince is the time since which written data is lost, because the volume continues from a copy. It is zero if
	// no data is lost.
	LosesSince time.Time        `json:"loses_since,omitzero"`
	Problem    *dataset.Problem `json:"problem,omitempty"` // why the volume was not moved
}

// homed returns those of the volumes whose home is the node.
func (d *drain) homed(volumes []api.Volume) []api.Volume {
	return slices.DeleteFunc(slices.Clone(volumes), func(v api.Volume) bool { return v.Home != d.node.ID })
}

func (d *drain) request(v api.Volume, dryRun bool) api.Request {
	return api.Request{
		ID: d.NewID(), Kind: dataset.OpMove, Volume: v.ID.String(), Force: d.fenced != "", Fenced: d.fenced,
		DryRun: dryRun,
	}
}

// confirmLosses asks for a confirmation of a drain with --fenced. It shows for each volume which data is lost.
func (d *drain) confirmLosses(ctx context.Context, yes *cli.Flag) error {
	volumes, err := cli.FetchAll(ctx, d.c.Volumes)
	if err != nil {
		return err
	}
	effects := []string{"you confirm that the node is off, or cut off for good: what it still writes is lost"}
	for _, v := range d.homed(volumes) {
		out, err := d.c.Submit(ctx, d.request(v, true))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			effects = append(effects, fmt.Sprintf("volume %s stays: %v", v.Volume, err))
		case out.Operation != nil:
			made := drained{Volume: v.Volume, Node: d.names[out.Operation.Node]}
			if out.Operation.Loss != nil {
				made.LosesSince = out.Operation.Loss.Taken
			}
			effects = append(effects, fmt.Sprintf("volume %s continues on node %s%s", v.Volume, made.Node,
				d.describeLoss(made)))
		}
	}
	return yes.Ask(d.App, cli.Question{
		Action: "drain node " + d.node.Name + " without it", Effects: effects, Name: d.node.Name,
	})
}

func (d *drain) run(ctx context.Context) error {
	volumes, err := cli.FetchAll(ctx, d.c.Volumes)
	if err != nil {
		return err
	}
	homed := d.homed(volumes)
	d.all = len(homed)
	for _, v := range homed {
		if err := d.startMove(ctx, v); err != nil {
			return err
		}
	}
	for len(d.open) > 0 {
		if err := d.awaitMove(ctx); err != nil {
			return err
		}
	}
	if d.json {
		if err := cli.JSON(d.Out, d.outcomes); err != nil {
			return err
		}
	}
	if d.failed > 0 {
		return dataset.Errorf(dataset.ErrConflict,
			"%d of %d volumes stay on node %s: fix the errors above and retry", d.failed, d.all,
			d.node.Name)
	}
	if d.dryRun {
		return d.print("dry run: node %s would be cordoned, and have no volumes left%s", d.node.Name,
			describeReplicas(onlyReplicas(volumes, d.node.ID)))
	}
	if volumes, err = cli.FetchAll(ctx, d.c.Volumes); err != nil {
		return err
	}
	return d.print("node %s has no volumes left%s", d.node.Name, describeReplicas(onlyReplicas(volumes, d.node.ID)))
}

// onlyReplicas returns the names of the volumes whose home is another node, and whose only replica is on the node.
func onlyReplicas(volumes []api.Volume, node uuid.UUID) (names []string) {
	for _, v := range volumes {
		replicas, here := 0, false
		for _, c := range v.CopyDetails {
			if c.Kind == dataset.CopyReplica {
				replicas++
				here = here || c.Node == node
			}
		}
		if here && replicas == 1 && v.Home != node {
			names = append(names, v.Volume)
		}
	}
	slices.Sort(names)
	return names
}

// describeReplicas returns the end of a line that names volumes whose only replica is on a drained node. It returns ""
// if there are none.
func describeReplicas(volumes []string) string {
	if len(volumes) == 0 {
		return ""
	}
	return ", but the only replica of " + strings.Join(volumes, ", ") +
		": it is removed once another node has one (drover volume inspect " + volumes[0] + ")"
}

// startMove requests the move of a volume. If too many moves are in progress, it first waits for the oldest one.
func (d *drain) startMove(ctx context.Context, v api.Volume) error {
	if len(d.open) == maxMoves {
		if err := d.awaitMove(ctx); err != nil {
			return err
		}
	}
	out, err := d.c.Submit(ctx, d.request(v, d.dryRun))
	if err == nil && out.Operation != nil && d.dryRun {
		made := d.record(*out.Operation, v.Volume)
		return d.print("dry run: volume %s would move to node %s%s", v.Volume, made.Node, d.describeLoss(made))
	}
	if err == nil && out.Operation != nil {
		d.open = append(d.open, *out.Operation)
		return nil
	}
	if err == nil {
		return nil // the volume is no longer on the node
	}
	return d.recordFailure(ctx, v.Volume, err)
}

// awaitMove waits for the oldest move that is in progress.
func (d *drain) awaitMove(ctx context.Context) error {
	op := d.open[0]
	d.open = d.open[1:]
	m := d.Meter(fmt.Sprintf("%s %s (%d of %d)", op.Action(), op.Volume, len(d.outcomes)+1, d.all), d.json)
	op, err := d.Wait(ctx, d.c, op, m)
	m.Close()
	if err != nil {
		return d.recordFailure(ctx, op.Volume, err)
	}
	made := d.record(op, op.Volume)
	return d.print("volume %s is on node %s%s", op.Volume, made.Node, d.describeLoss(made))
}

func (d *drain) record(op dataset.Operation, volume string) drained {
	made := drained{Volume: volume, Node: d.names[op.Node]}
	if op.Loss != nil {
		made.LosesSince = op.Loss.Taken
	}
	d.outcomes = append(d.outcomes, made)
	return made
}

// describeLoss returns which data a moved volume loses, as the end of a line; "" if it loses nothing.
func (d *drain) describeLoss(made drained) string {
	if made.LosesSince.IsZero() {
		return ""
	}
	return ", without the data written since " + cli.When(d.Now(), made.LosesSince)
}

// print prints a line for people, unless the output is JSON.
func (d *drain) print(format string, args ...any) error {
	if d.json {
		return nil
	}
	return d.PrintLine(format, args...)
}

// recordFailure records and prints why a volume was not moved. It returns an error if the problem concerns all volumes,
// and the drain ends.
func (d *drain) recordFailure(ctx context.Context, volume string, err error) error {
	if ctx.Err() != nil || errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, dataset.ErrForbidden) {
		return err
	}
	d.failed++
	d.outcomes = append(d.outcomes, drained{Volume: volume, Problem: dataset.ProblemOf(err)})
	return d.print("volume %s stays: %v", volume, err)
}
