package volumes

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeSupersededMountCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount NAME [NODE]",
		Short: "Mount a head that was overtaken read-only, to look at it",
		Long: `Mount a head that was overtaken on the node that keeps it, read-only, and print
where: what was written there and is not in the volume can be read, and copied
from there by hand. It is a clone that is mounted: what is kept stays as it is.

It stays mounted, also after a restart of the host, until --off takes it away;
until then it cannot be discarded.`,
		Example: `  drover volume superseded mount db host-a
  drover volume superseded mount db host-a --off`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "mount it no more")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpShow, Volume: args[0]}
		if *off {
			req.Kind = dataset.OpHide
		}
		if len(args) > 1 {
			req.Node = args[1]
		}
		return showSuperseded(a, cmd, o, req)
	}
	return cmd
}

// showSuperseded has a head that was overtaken mounted, or no more, and waits until its node says that
// it is so.
func showSuperseded(a *cli.App, cmd *cobra.Command, o *cli.Output, req api.Request) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	out, err := a.Submit(cmd.Context(), c, o, req)
	if err != nil {
		return err
	}
	if o.Detach {
		return a.Report(o, out, nil)
	}
	ctx, stop := a.Signals(cmd.Context())
	defer stop()
	k, err := awaitShown(ctx, a, c, *out.Operation)
	switch {
	case err != nil:
		return err
	case o.JSON():
		return show.JSON(a.Out, k)
	case k.Shown:
		return a.Say("the head of volume %s that was overtaken is mounted read-only on node %s, at %s", k.Volume,
			k.NodeName, k.Path)
	}
	return a.Say("the head of volume %s that was overtaken is mounted on node %s no more", k.Volume, k.NodeName)
}

const (
	// lookPause is how long the next question waits for a node that has not answered yet.
	lookPause = 200 * time.Millisecond
	// lookMost bounds them: a clone and a mount take far less.
	lookMost = 300
)

// awaitShown waits until the node of an operation has mounted or unmounted the head as requested.
func awaitShown(ctx context.Context, a *cli.App, c cli.Remote, op dataset.Operation) (k overtaken, err error) {
	for range lookMost {
		k, err = findOvertaken(ctx, c, op.DatasetID, op.From)
		switch {
		case errors.Is(err, dataset.ErrUnavailable): // a server that restarts is away for a moment
		case err != nil && ctx.Err() == nil:
			return k, err
		case err != nil:
		case k.Shown != (op.Kind == dataset.OpShow):
			return k, dataset.Errorf(dataset.ErrConflict,
				"volume %s: somebody else asked for something else meanwhile (drover volume superseded ls "+
					"shows how it is)", k.Volume)
		case k.Problem != "":
			return k, dataset.Errorf(dataset.ErrConflict, "node %s: %s (it is tried again)", k.NodeName, k.Problem)
		case k.Shown == (k.Path != ""):
			return k, nil
		}
		if err := a.Sleep(ctx, lookPause); err != nil {
			return k, dataset.Errorf(dataset.ErrCancelled,
				"interrupted: its node goes on with that (drover volume superseded ls shows how it is)")
		}
	}
	if err != nil {
		return k, err
	}
	return k, dataset.Errorf(dataset.ErrPending,
		"node %s has not said yet that it has done so: it is to do it when it is heard of (drover node ls, "+
			"drover volume superseded ls)", k.NodeName)
}

// findOvertaken returns the head of a dataset, live or in the trash, that a node keeps.
func findOvertaken(ctx context.Context, c cli.Remote, id, node uuid.UUID) (k overtaken, err error) {
	v, err := c.Volume(ctx, id.String())
	list := []api.Volume{v}
	if errors.Is(err, dataset.ErrNotFound) {
		list, err = cli.FetchAll(ctx, c.Trash)
	}
	if err != nil {
		return k, err
	}
	for _, k := range overtakenOf(list) {
		if k.Dataset == id && k.Node == node {
			return k, nil
		}
	}
	return k, dataset.Errorf(dataset.ErrNotFound,
		"the head of dataset %s that was overtaken was discarded meanwhile", id)
}
