package backups

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// PushCommand makes drover push.
func PushCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "push VOLUME REPOSITORY",
		SuggestFor: []string{"upload"},
		Short:      "Push a volume or a snapshot to a repository, as a new version",
		Long: `Push a volume, or a snapshot of it, to a repository, as a new version of a name.
VOLUME is the name of a volume, or VOLUME@SNAPSHOT. REPOSITORY is the name of a
repository, or REPOSITORY/NAME: without NAME, the version gets the name of the
volume, or that of --as. The volume may be in use. The version has the content
of one moment. The home of the volume makes it, as a backup, and sends only data
that the repository does not have.

The repository keeps the history of each name: every version names the one that
it continues. If the repository has a version that the volume does not continue,
both sides have changed. Then the push is refused, and nothing in the repository
changes: push the volume under another name with --as, or pull the other version
as another volume. drover operation cancel cancels a push.

A pool that copies the whole volume for a snapshot (dir, nfs) can push only a
snapshot.`,
		Example: `  drover push db offsite
  drover push db@before-upgrade offsite/db-prod
  drover push db offsite --as db-mine`,
		Args: cli.Args(2), ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.RepositoryWords),
	}
	o := cli.WorkFlags(cmd, true)
	as := cmd.Flags().String("as", "", "`NAME` in the repository")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		repository, name, err := parsePlace(args[1])
		if err != nil {
			return err
		}
		if *as != "" && name != "" {
			return cli.UsageError(cmd, "--as and %s both name the volume in the repository", args[1])
		}
		if *as != "" {
			name = *as
		}
		req := api.Request{Kind: dataset.OpPush, Repository: repository, Name: name}
		if req.Volume, req.Snapshot, err = splitSnapshot(cmd.Context(), c, args[0]); err != nil {
			return err
		}
		out, err := a.Submit(cmd.Context(), c, o, req)
		if err != nil {
			return err
		}
		PrintLacks(a, out.Operation)
		return a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) {
			op := out.Operation
			to := repository + "/" + name
			if op.Push != nil {
				to = repository + "/" + op.Push.Name
			}
			return op.ID, fmt.Sprintf("pushed volume %s to %s: version %s (%s added)", op.Volume, to, shortUUID(op.ID),
				dataset.Size(op.BytesAdded).Human())
		})
	})
	return cmd
}

// splitSnapshot splits VOLUME[@SNAPSHOT]. An engine can have requested volume db by the name db@gold. So db@gold means
// the volume if it has no snapshot gold.
func splitSnapshot(ctx context.Context, c cli.Remote, text string) (volume, snapshot string, err error) {
	volume, snapshot, at := strings.Cut(text, "@")
	if !at {
		return volume, "", nil
	}
	_, err = c.Snapshot(ctx, volume, snapshot)
	if errors.Is(err, dataset.ErrNotFound) {
		if v, verr := c.Volume(ctx, volume); verr == nil && v.RequestedAs == text {
			return volume, "", nil
		}
	}
	return volume, snapshot, err
}
