package volumes

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newCopyMountCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount NAME [NODE]",
		Short: "Mount a superseded copy read-only",
		Long: `Mount a superseded copy read-only on the node that has it, and print the mount
point. Data that is missing in the volume can be copied from there by hand. A
clone is mounted, so the superseded copy itself does not change.

It stays mounted, also after a restart of the host, until --off unmounts it. It
cannot be discarded before.`,
		Example: `  drover copy mount db host-a
  drover copy mount db host-a --off`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "unmount it")
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

// showSuperseded requests that a superseded copy is mounted or unmounted, and waits until its node reports that.
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
	k, err := awaitMount(ctx, a, c, *out.Operation)
	switch {
	case err != nil:
		return err
	case o.JSON():
		return cli.JSON(a.Out, k)
	case k.MountReadOnly:
		return a.PrintLine("the superseded copy of volume %s is mounted read-only on node %s, at %s", k.Volume,
			k.NodeName, k.Path)
	}
	return a.PrintLine("the superseded copy of volume %s is no longer mounted on node %s", k.Volume, k.NodeName)
}

const (
	// pollPause is the pause between two requests for the state of the mount.
	pollPause = 200 * time.Millisecond
	// maxPolls is the maximum number of these requests. A clone and a mount take far less time.
	maxPolls = 300
)

// awaitMount waits until the node of an operation has mounted or unmounted the superseded copy as requested.
func awaitMount(ctx context.Context, a *cli.App, c cli.Remote, op dataset.Operation) (k volumeCopy, err error) {
	for range maxPolls {
		k, err = findSuperseded(ctx, c, a.Now(), op.DatasetID, op.OtherNode)
		switch {
		case errors.Is(err, dataset.ErrUnavailable): // a server that restarts is unreachable for a moment
		case err != nil && ctx.Err() == nil:
			return k, err
		case err != nil:
		case k.MountReadOnly != (op.Kind == dataset.OpShow):
			return k, dataset.Errorf(dataset.ErrConflict,
				"volume %s: a concurrent request changed the superseded copy (drover copy ls shows "+
					"its state)", k.Volume)
		case k.Problem != "":
			return k, dataset.Errorf(dataset.ErrConflict, "node %s: %s (the node retries)", k.NodeName, k.Problem)
		case k.MountReadOnly == (k.Path != ""):
			return k, nil
		}
		if err := a.Sleep(ctx, pollPause); err != nil {
			return k, dataset.Errorf(dataset.ErrCancelled,
				"interrupted: the node continues (drover copy ls shows the state)")
		}
	}
	if err != nil {
		return k, err
	}
	return k, dataset.Errorf(dataset.ErrPending,
		"node %s has not confirmed the change: it applies it when it is reachable (drover node ls, drover copy "+
			"ls)", k.NodeName)
}

// findSuperseded returns the superseded copy of a dataset that a node keeps. The dataset may be in the trash.
func findSuperseded(ctx context.Context, c cli.Remote, now time.Time, id, node uuid.UUID) (k volumeCopy, err error) {
	v, err := c.Volume(ctx, id.String())
	list := []api.Volume{v}
	if errors.Is(err, dataset.ErrNotFound) {
		list, err = cli.FetchAll(ctx, c.Trash)
	}
	if err != nil {
		return k, err
	}
	for _, k := range copiesOf(list, now) {
		if k.Kind == dataset.CopySuperseded && k.Dataset == id && k.Node == node {
			return k, nil
		}
	}
	return k, dataset.Errorf(dataset.ErrNotFound,
		"the superseded copy of dataset %s was discarded meanwhile", id)
}
