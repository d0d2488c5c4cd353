package backups

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "create VOLUME [VOLUME...]",
		SuggestFor: []string{"add", "run"},
		Short:      "Back up volumes to a repository",
		Long: `Back up volumes to a repository, also while they are in use. A backup has the
content of one moment, as a database would find it after a power cut. The home
of the volume makes it, at idle I/O priority, and needs the password of the
repository. Only data that the repository does not have is sent.

--to can be left out if the profile of the volume names a repository, or if
there is only one. A host makes two backups at a time to a repository, not two
of one volume; the others wait. If some of several volumes cannot be backed up,
the others are. drover operation cancel cancels a backup. -o json prints a list
for several volumes.

A pool that copies the whole volume for a snapshot (dir, nfs) cannot back up a
volume, but a snapshot of it: use --snapshot.`,
		Example: `  drover backup create db
  drover backup create db web --to offsite
  drover backup create db --snapshot before-upgrade`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.CompleteEach(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, true)
	req := api.Request{Kind: dataset.OpBackup}
	cmd.Flags().StringVar(&req.Repository, "to", "", "name of the `REPOSITORY`")
	cmd.Flags().StringVar(&req.Snapshot, "snapshot", "", "back up this `SNAPSHOT` of the volume")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, volumes []string) error {
		if len(volumes) > 1 && req.Snapshot != "" {
			return cli.UsageError(cmd, "--snapshot needs exactly one volume")
		}
		if len(volumes) == 1 {
			req.Volume = volumes[0]
			out, err := a.Submit(cmd.Context(), c, o, req)
			if err != nil {
				return err
			}
			return report(a, o, out)
		}
		return backUpAll(cmd.Context(), a, c, o, volumes, req)
	})
	return cmd
}

// backUpAll requests the backups of several volumes, which then run at the same time, and waits for them. If a volume
// cannot be backed up, it continues with the next one. After an interrupt it stops, and the backups continue.
func backUpAll(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, volumes []string, req api.Request) error {
	begin := *o
	begin.Detach = true
	var outs []api.Outcome
	failed := 0
	for _, volume := range volumes {
		req.Volume = volume
		out, err := a.Submit(ctx, c, &begin, req)
		switch {
		case errors.Is(err, dataset.ErrCancelled):
			return a.ReportInterrupt(o, outs, out, err)
		case err != nil:
			failed++
			if _, rerr := c.Repository(ctx, volume); rerr == nil && errors.Is(err, dataset.ErrNotFound) {
				err = dataset.Errorf(dataset.ErrNotFound, "%s is a repository: use --to %[1]s", volume)
			}
			a.PrintError(ctx, err)
		default:
			outs = append(outs, out)
		}
	}
	ctx, stop := a.Signals(ctx)
	defer stop()
	var done []api.Outcome
	for i, out := range outs {
		if !o.Detach {
			op, err := await(ctx, a, c, o, *out.Operation)
			if err != nil && ctx.Err() != nil {
				return a.ReportInterrupt(o, append(done, outs[i:]...), api.Outcome{}, err)
			}
			if err != nil {
				failed++
				a.PrintError(ctx, err)
				continue
			}
			out.Operation = &op
		}
		if done = append(done, out); o.JSON() {
			continue
		}
		if err := report(a, o, out); err != nil {
			return err
		}
	}
	if o.JSON() {
		if err := cli.JSONList(a.Out, done); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d volumes were not backed up", failed, len(volumes))
	}
	return nil
}

// await waits for the end of a backup, and shows its progress.
func await(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, op dataset.Operation) (dataset.Operation,
	error) {
	m := a.Meter(string(op.Kind)+" "+op.Volume, o.Quiet)
	defer m.Close()
	return a.Wait(ctx, c, op, m)
}

// report prints a backup: with --quiet only its ID.
func report(a *cli.App, o *cli.Output, out api.Outcome) error {
	PrintLacks(a, out.Operation)
	if o.Quiet && !o.JSON() && !o.Detach {
		return a.PrintLine("%s", out.Operation.Backup)
	}
	return a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) {
		op := out.Operation
		return op.ID, fmt.Sprintf("backed up volume %s to %s: %s (%s added)", op.Volume, op.Repository,
			op.Backup[:min(cli.ShortLength, len(op.Backup))], dataset.Size(op.BytesAdded).Human())
	})
}

// PrintLacks prints what the backup of an operation lacks of the files of its volume, if it lacks anything. op can be
// nil.
func PrintLacks(a *cli.App, op *dataset.Operation) {
	if op != nil && op.Lacks != "" {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: backup %s of volume %s does not have: %s\n", short(op.Backup), op.Volume,
			cli.Clean(op.Lacks))
	}
}
