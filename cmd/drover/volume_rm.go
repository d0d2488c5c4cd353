package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeRmCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rm NAME [NAME...]",
		Short: "Delete volumes",
		Long: `Delete volumes. Their names are free at once; what becomes of the data is said,
and their profiles decide it: by default it stays in the trash for a time
(drover trash). A volume in use is not deleted. Of several, those that can be
are deleted, and -o json prints a list.`,
		Args:              args(1),
		ValidArgsFunction: completeEach(a, volumeWords),
	}
	o := workFlags(cmd, false)
	var force bool
	cmd.Flags().BoolVar(&force, "force", false, "delete what is protected too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return a.change(cmd, o, deletion(args[0], force), describeDeleted)
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		return a.deleteAll(cmd.Context(), c, o, args, force)
	}
	return cmd
}

func deletion(volume string, force bool) api.Request {
	return api.Request{Kind: dataset.OpDelete, Volume: volume, Force: force}
}

// deleteAll goes on past what cannot be deleted, but not past an interrupt.
func (a *app) deleteAll(ctx context.Context, c remote, o *output, names []string, force bool) error {
	var outs []api.Outcome
	failed := 0
	for _, name := range names {
		out, err := a.submit(ctx, c, o, deletion(name, force))
		if errors.Is(err, dataset.ErrCancelled) {
			return err
		}
		if err != nil {
			failed++
			complain(a.errOut, err)
			continue
		}
		if outs = append(outs, out); o.json() {
			continue
		}
		if err := a.report(o, out, describeDeleted); err != nil {
			return err
		}
	}
	if o.json() {
		if err := show.List(a.out, outs); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d volumes were not deleted", failed, len(names))
	}
	return nil
}

func describeDeleted(out api.Outcome) (uuid.UUID, string) {
	d := made(out)
	line := "deleted volume " + d.Volume
	switch d.Profile.OnDelete.Mode {
	case dataset.DeletePurge:
		line += "; its data is destroyed"
	case dataset.DeleteTrash, dataset.DeleteKeep:
		line += fmt.Sprintf("; its data stays %s (drover trash restore %s)", onDelete(d.Profile.OnDelete), d.ID.String()[:show.ShortLength])
	default: // the server said nothing of it
		line += "; drover trash ls shows whether its data is still there"
	}
	return d.ID, line
}

// onDelete says what becomes of the data when the name is deleted.
func onDelete(o dataset.OnDelete) string {
	switch o.Mode {
	case dataset.DeletePurge:
		return "destroyed at once"
	case dataset.DeleteKeep:
		return "in the trash until it is purged"
	case dataset.DeleteTrash:
		return "in the trash for " + units.HumanDuration(time.Duration(o.Trash))
	}
	return string(o.Mode)
}

func until(now, t time.Time) string {
	if t.IsZero() {
		return "until someone purges it"
	}
	return "until " + show.When(now, t)
}
