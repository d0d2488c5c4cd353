// Package backups has the commands of drover backup, drover repository, drover push and drover pull, and drover
// recover. The commands call the API, and keep no state: the repositories have the only list of the backups. drover
// recover restores volumes in several goroutines (function each). A candidate belongs to one of them, and a mutex
// protects the lines that they print (printer).
package backups

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

// Command makes drover backup with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "backup",
		Short: "Manage backups of volumes",
	},
		newCreateCmd(a), newLsCmd(a), newInspectCmd(a), newRestoreCmd(a), newVerifyCmd(a), newRmCmd(a), newPruneCmd(a),
	)
}

// shortID is how many digits of the ID of a backup are printed. restic prints as many.
const shortID = 8

func short(id string) string { return id[:min(shortID, len(id))] }

func newLsCmd(a *cli.App) *cobra.Command {
	var repository string
	var incomplete error                                    // why the list lacks backups
	var unrecorded bool                                     // no repository is recorded
	var verified func() func(api.VolumeBackup) verification // read only for an output that has them
	cmd := cli.New(a, cli.List[api.VolumeBackup]{
		Use:   "ls [VOLUME]",
		Short: "List the backups of a volume, or of all volumes, oldest first",
		Long: `List the backups of a volume, or of all volumes, oldest first. The server's host
reads the list from the repositories. Backups of volumes that no longer exist
are listed, too. VOLUME is the name that the volume had when it was backed up.
If other clusters have backups in a repository, CLUSTER and NODE show who made
each backup.
If a repository or a backup cannot be read, the others are listed, and the
command fails.

-o wide shows when a backup was last verified. If its volume does not exist any
more, that is known for a day.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, q cli.ListQuery) (list []api.VolumeBackup, err error) {
			volume := ""
			if len(q.Args) > 0 {
				volume = q.Args[0]
			}
			list, incomplete, err = fetch(ctx, c, repository, volume)
			unrecorded = len(list) == 0 && repository == "" && err == nil && hasNoRepository(ctx, c)
			verified = sync.OnceValue(func() func(api.VolumeBackup) verification {
				return verifications(ctx, c, list)
			})
			return list, err
		}),
		WatchPause: 30 * time.Second, // restic reads each repository for every list

		ID: func(b api.VolumeBackup) string { return b.ID },
		Columns: func(list []api.VolumeBackup) []cli.Column[api.VolumeBackup] {
			return columns(a, list, func(b api.VolumeBackup) string { return verified()(b).String(a.Now()) })
		},
		Compare: func(x, y api.VolumeBackup) int { return x.Taken.Compare(y.Taken) },
		Moment: &cli.Moment[api.VolumeBackup]{
			Of: func(b api.VolumeBackup) time.Time { return b.Taken }, Verb: "taken",
		},
	})
	cmd.Flags().StringVar(&repository, "repository", "", "list only the backups in the `REPOSITORY`")
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := list(cmd, args); err != nil {
			return err
		}
		if unrecorded {
			_, _ = fmt.Fprintln(a.ErrOut, "drover: no repository is recorded (drover repository add)")
		}
		return incomplete
	}
	return cmd
}

// hasNoRepository reports whether no repository is recorded. It returns false if the store was lost: the records of
// repositories may be lost, too.
func hasNoRepository(ctx context.Context, c cli.Remote) bool {
	recorded, err := c.Repositories(ctx)
	health, failed := c.ClusterHealth(ctx)
	return err == nil && len(recorded) == 0 && failed == nil && health.Store.Halted == ""
}

// columns are those of a list of backups. They say who made each backup if other clusters made some of them.
func columns(a *cli.App, list []api.VolumeBackup,
	verified func(api.VolumeBackup) string) []cli.Column[api.VolumeBackup] {
	mixed, id := slices.ContainsFunc(list, func(b api.VolumeBackup) bool { return b.Elsewhere }),
		func(b api.VolumeBackup) string { return b.ID }
	return []cli.Column[api.VolumeBackup]{
		{Header: "BACKUP", Cell: func(b api.VolumeBackup) string { return short(b.ID) }, Whole: id},
		cli.Volume("VOLUME", func(b api.VolumeBackup) string { return b.Volume }),
		cli.Time(a, "TAKEN", func(b api.VolumeBackup) time.Time { return b.Taken }),
		{Header: "PROFILE", Cell: func(b api.VolumeBackup) string { return b.Profile }},
		{Header: "REPOSITORY", Cell: func(b api.VolumeBackup) string { return b.Repository }},
		{Header: "CLUSTER", Wide: !mixed, Cell: clusterOf},
		{Header: "NODE", Wide: !mixed, Cell: func(b api.VolumeBackup) string { return b.Node }},
		{Header: "VERIFIED", Wide: true, Cell: verified},
		{Header: "SNAPSHOT", Wide: true, Cell: func(b api.VolumeBackup) string { return orNone(b.Snapshot) }},
		{Header: "DATASET", Wide: true, Cell: func(b api.VolumeBackup) string { return b.Dataset.String() }},
		{Header: "ID", Wide: true, Cell: id},
	}
}

// clusterOf returns the first digits of the UUID of the cluster that made a backup.
func clusterOf(b api.VolumeBackup) string {
	switch {
	case !b.Elsewhere:
		return "this"
	case b.Cluster == uuid.Nil:
		return "unknown"
	}
	return b.Cluster.String()[:shortID]
}

// orNone returns a UUID as text, or "" if it is uuid.Nil.
func orNone(id uuid.UUID) string {
	if id == uuid.Nil {
		return ""
	}
	return id.String()
}

func newInspectCmd(a *cli.App) *cobra.Command {
	var repository *string
	cmd := cli.Inspect(a, "inspect BACKUP [BACKUP...]", "Show backups in detail", noWords,
		cli.Inspected[api.VolumeBackup]{
			Get: func(ctx context.Context, c cli.Remote, ref string) (api.VolumeBackup, error) {
				b, err := find(ctx, c, *repository, ref)
				if err != nil {
					return b, err
				}
				return c.VolumeBackup(ctx, b.Repository, b.ID)
			},
			Form: func(_ context.Context, _ cli.Remote, b api.VolumeBackup) *cli.Form {
				f := &cli.Form{}
				f.Add("Backup", b.ID)
				f.Add("Repository", b.Repository)
				f.Add("Volume", b.Volume)
				f.Add("Taken", cli.When(a.Now(), b.Taken))
				addRecord(f, b)
				f.Add("Dataset", b.Dataset.String())
				f.Add("Cluster", clusterOf(b))
				f.Add("Snapshot", orNone(b.Snapshot))
				f.Add("Operation", orNone(b.Operation))
				return f
			},
		})
	cmd.Long = "Show backups in detail. " + referenceHelp + `
The server's host reads them from the repositories.`
	repository = cmd.Flags().String("repository", "", "look only in the `REPOSITORY`")
	return cmd
}

// addRecord adds the record of the volume to the form of a backup.
func addRecord(f *cli.Form, b api.VolumeBackup) {
	r := b.Record
	if r == nil {
		f.Add("Profile", b.Profile)
		return
	}
	profile := b.Profile
	if r.Revision != "" {
		profile += " (revision " + r.Revision + ")"
	}
	f.Add("Profile", profile)
	size := "not limited"
	if r.Size > 0 {
		size = r.Size.Readable()
	}
	f.Add("Size", size)
	f.Add("Labels", cli.LabelLines(r.Labels)...)
	f.Add("Filesystem", r.Filesystem)
	f.Add("Encrypted", map[bool]string{true: "yes, in its pool", false: "no"}[r.Encrypted])
	f.Add("Made by", strings.Trim(r.Node+", drover "+r.Drover, ", "))
}

// noWords completes nothing: to list the backups, restic would have to read each repository.
func noWords(context.Context, cli.Remote, []string, string) ([]string, error) { return nil, nil }
