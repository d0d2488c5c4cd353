// Package backups has the commands of drover backup, drover repository, drover push and drover pull, and drover
// recover. The commands call the API, and keep no state: the repositories have the only list of the backups. drover
// recover restores volumes in several goroutines (function each). A candidate belongs to one of them, and a mutex
// protects the lines that they print (printer).
package backups

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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

func newRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "rm BACKUP",
		Aliases:    []string{"remove", "delete"},
		SuggestFor: []string{"forget"},
		Short:      "Remove a backup from its repository",
		Long: `Remove a backup from its repository. ` + referenceHelp + `
The data that no other backup needs stays in the repository until
drover backup prune frees the space.

The first 8 digits of the ID must be typed to confirm the command, unless --yes
is given.`,
		Example: `  drover backup rm 5f1c09aa`,
		Args:    cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o, yes := cli.OutputFlags(cmd, false), cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	repository := cmd.Flags().String("repository", "", "look only in the `REPOSITORY`")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx := cmd.Context()
		b, err := find(ctx, c, *repository, args[0])
		if err != nil {
			return err
		}
		taken := cli.When(a.Now(), b.Taken)
		format := "removed backup %s of volume %s, taken %s, from %s (drover backup prune frees its space)"
		if o.DryRun {
			format = "dry run: would remove backup %s of volume %s, taken %s, from %s"
		} else {
			err := yes.Ask(a, cli.Question{
				Action: "remove backup " + short(b.ID), Name: short(b.ID),
				Effects: []string{"removes the backup of volume " + b.Volume + ", taken " + taken +
					", from repository " + b.Repository + " for good"},
			})
			if err != nil {
				return err
			}
			if err := c.RemoveBackup(ctx, b.Repository, b.ID); err != nil {
				return err
			}
		}
		return a.PrintResult(o, b, format, short(b.ID), b.Volume, taken, b.Repository)
	})
	return cmd
}

// pruned is the JSON output of prune.
type pruned struct {
	Repository string `json:"repository"`
}

func newPruneCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free the space of removed backups in a repository",
		Long: `Free the space of removed backups: remove the data that no backup in a
repository needs. No backup is removed. drover backup rm removes one backup, and
scheduled backups are removed as keep in the profile says (drover profile show).

The server's host does it, at idle I/O priority. It can take hours. Ctrl-C ends
it without harm.

restic has the repository for itself meanwhile: it refuses backups to it.`,
		Example: `  drover backup prune --repository offsite`,
		Args:    cli.Args(0), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	repository := cmd.Flags().String("repository", "", "prune the `REPOSITORY`; needed if several are recorded")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		ctx := cmd.Context()
		name := *repository
		if name == "" {
			list, err := c.Repositories(ctx)
			switch {
			case err != nil:
				return err
			case len(list) == 0:
				return dataset.Errorf(dataset.ErrNotFound, "no repository is recorded (drover repository add adds one)")
			case len(list) > 1:
				return cli.UsageError(cmd, "missing flag: --repository NAME, because several are recorded")
			}
			name = list[0].Name
		}
		if err := c.PruneRepository(ctx, name); err != nil {
			return err
		}
		return a.PrintResult(o, pruned{name}, "pruned repository %s", name)
	})
	return cmd
}
