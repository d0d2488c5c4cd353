package volumes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME [NAME...]",
		Short: "Delete volumes",
		Long: `Delete volumes. Their names can be used again at once. Their profiles decide
what happens to the data, and the command prints it: by default it stays in the
trash for a time (drover trash). A volume in use is not deleted. If some of
several volumes cannot be deleted, the others are. -o json prints a list.

A volume whose home is unreachable may be in use there, and is not deleted. If
the home is lost, use --force and --fenced NODE: the volume goes to the trash,
even if its profile says to destroy it. --fenced confirms that the node writes
to the volume no more: it is off, or cut off for good. This requires the role
admin. If the node returns later, it finds the volume in the trash.`,
		Example: `  drover volume rm db
  drover volume rm db --force --fenced host-a`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.CompleteEach(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, false)
	req := api.Request{Kind: dataset.OpDelete}
	cmd.Flags().BoolVar(&req.Force, "force", false, "delete protected volumes too")
	cmd.Flags().StringVar(&req.Fenced, "fenced", "",
		"with --force: confirm that the unreachable home `NODE` is fenced and writes no more")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			req.Volume = args[0]
			return a.Change(cmd, o, req, describeDeleted)
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		return deleteVolumes(cmd.Context(), a, c, o, args, req)
	}
	return cmd
}

// deleteVolumes continues after volumes that cannot be deleted, but not after an interrupt.
func deleteVolumes(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, names []string,
	req api.Request) error {
	var outs []api.Outcome
	failed := 0
	for _, name := range names {
		req.Volume = name
		out, err := a.Submit(ctx, c, o, req)
		if errors.Is(err, dataset.ErrCancelled) {
			return err
		}
		if err != nil {
			failed++
			cli.PrintError(a.ErrOut, err)
			continue
		}
		if outs = append(outs, out); o.JSON() {
			continue
		}
		if err := a.Report(o, out, describeDeleted); err != nil {
			return err
		}
	}
	if o.JSON() {
		if err := show.List(a.Out, outs); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d volumes were not deleted", failed, len(names))
	}
	return nil
}

func describeDeleted(out api.Outcome) (uuid.UUID, string) {
	d := cli.MadeDataset(out)
	line := "deleted volume " + d.Volume
	if op := out.Operation; op != nil && op.OtherNode != uuid.Nil { // the volume is deleted without its home
		return d.ID, fmt.Sprintf("%s; its data stays in place, in the trash (drover trash restore %s)", line,
			d.ID.String()[:show.ShortLength])
	}
	switch d.Profile.OnDelete.Mode {
	case dataset.DeletePurge:
		line += "; its data is destroyed"
	case dataset.DeleteTrash, dataset.DeleteKeep:
		line += fmt.Sprintf("; its data stays %s (drover trash restore %s)", cli.OnDelete(d.Profile.OnDelete),
			d.ID.String()[:show.ShortLength])
	default: // the server did not return the volume's OnDelete
		line += "; drover trash ls shows whether its data still exists"
	}
	return d.ID, line
}

func describePurgeTime(now, t time.Time) string {
	if t.IsZero() {
		return "until someone purges it"
	}
	return "until " + show.When(now, t)
}
