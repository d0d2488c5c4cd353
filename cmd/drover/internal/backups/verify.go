package backups

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVerifyCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify BACKUP",
		Short: "Restore a backup for a test, and compare",
		Long: `Restore a backup into a temporary volume, read each file again, compare it with
the repository, count the files, and remove the temporary volume. It has no name
and is in no list. The host that has it needs the password of the repository,
and space for the volume. The files are read at idle I/O priority.

If you give the name of a volume, its newest backup is verified. Backups of
other clusters, and of other volumes that had the name, are only taken by their
IDs. If a backup or a repository cannot be read, the newest one is not known,
and the command fails: give the ID of a backup, or --repository.
` + referenceHelp + `

--check runs a program on the restored volume, before it is removed. The program
must be below /etc/drover/checks on the host that has the temporary volume, and
only root may be able to change it. It gets the path of the volume as its
argument, and may change the files. Exit status 0 means that the volume is
usable, and 1 to 125 that it is not. After any other status, nothing is known.
If the status is not 0, the verification fails with the last line that the
program wrote. It has no network, and may run for six hours.

Without --profile and --size, the temporary volume gets the profile, the size
and the filesystem that drover backup restore would give it. If the volume was
encrypted, and that profile does not encrypt, the backup is not restored.`,
		Example: `  drover backup verify db
  drover backup verify db --check /etc/drover/checks/mariadb
  drover backup verify 5f1c09aa --detach`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, true)
	f := addVerifyFlags(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		if f.check != "" {
			if err := dataset.CheckCheckProgram(f.check); err != nil {
				return fmt.Errorf("--check: %w", err)
			}
		}
		b, err := findNewest(cmd.Context(), a, c, *f.repository, args[0])
		if err != nil {
			return err
		}
		req, b, err := f.request(cmd.Context(), a, c, b)
		if err != nil {
			return err
		}
		out, err := a.Submit(cmd.Context(), c, o, req)
		if err != nil {
			return err
		}
		return a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) {
			format := "verified backup %s of volume %s, taken %s: all files were restored, " +
				"and equal those of the backup"
			if f.check != "" {
				format += ", and " + f.check + " found no problem"
			}
			if o.DryRun {
				format = "would verify backup %s of volume %s, taken %s"
			}
			return out.Operation.ID, fmt.Sprintf(format, short(b.ID), b.Volume, cli.When(a.Now(), b.Taken))
		})
	})
	return cmd
}

// verifyFlags has the flags of drover backup verify that choose the backup and the temporary volume, and the program.
type verifyFlags struct {
	repository           *string
	profile, size, check string
}

func addVerifyFlags(cmd *cobra.Command) *verifyFlags {
	f := &verifyFlags{repository: cmd.Flags().String("repository", "", "look only in the `REPOSITORY`")}
	cmd.Flags().StringVar(&f.profile, "profile", "", "`PROFILE` of the temporary volume")
	cmd.Flags().StringVar(&f.size, "size", "", "`SIZE` of the temporary volume, such as 20GiB")
	cmd.Flags().StringVar(&f.check, "check", "", "run `PROGRAM` on the restored volume")
	return f
}

// request returns the request to verify a backup, and the backup with its record. Without other flags, the temporary
// volume gets what a restored volume would get.
func (f *verifyFlags) request(ctx context.Context, a *cli.App, c cli.Remote, b api.VolumeBackup) (req api.Request,
	full api.VolumeBackup, err error) {
	opts := map[string]string{}
	for key, value := range map[string]string{"profile": f.profile, "size": f.size} {
		if value != "" {
			opts[key] = value
		}
	}
	b, opts, _, err = recordedOptions(ctx, a, c, b, NewVolume{Spec: b.Volume, Options: opts}, "drover backup verify "+
		short(b.ID)+" --profile ")
	if err != nil {
		return req, b, err
	}
	dropLabels(opts)
	return api.Request{
		Kind: dataset.OpVerify, Volume: b.Volume, Options: opts, Repository: b.Repository, Backup: b.ID, Check: f.check,
	}, b, nil
}

// newestOf returns the newest backup of a volume, or nil if no backup is of a volume with this name: see ofVolume. If a
// backup or a repository cannot be read, the newest backup of the volume is not known. Then newestOf also returns the
// reason.
func newestOf(ctx context.Context, a *cli.App, c cli.Remote, repository, volume string) (newest *api.VolumeBackup,
	incomplete, err error) {
	list, incomplete, err := ofVolume(ctx, c, a.Now(), repository, volume)
	if err != nil || len(list) == 0 {
		return nil, incomplete, err
	}
	last := list[len(list)-1]
	newest = &byAge(a.Now(), list)[len(list)-1]
	if newest.ID != last.ID {
		noteFuture(a, last)
	}
	return newest, incomplete, nil
}

// verification is the last known verification of a backup.
type verification struct {
	at      time.Time // zero if there is none, or if it is unknown
	failed  bool
	unknown bool // control could not be asked
}

// String formats a verification for a table.
func (v verification) String(now time.Time) string {
	switch {
	case v.unknown:
		return "unknown"
	case v.at.IsZero():
		return ""
	case v.failed:
		return "failed " + cli.Ago(now, v.at)
	}
	return cli.Ago(now, v.at)
}

// foundUnusable reports whether a verification found that a backup is damaged, or that the repository does not have it.
// Otherwise a failure says nothing about the backup. Package control publishes an event for the same problems.
func foundUnusable(op dataset.Operation) bool {
	kind := dataset.KindOf(op.Problem.Err())
	return op.State == dataset.OpFailed && (kind == dataset.ErrCorrupt || kind == dataset.ErrNotFound)
}

// verifications returns a function that returns the last known verification of a backup in a list. Control records the
// verifications of the backups of volumes that exist. Other ones are known for about a day, as long as control keeps
// their operations. If control cannot be asked, the verification is unknown: the backups are listed in any case.
func verifications(ctx context.Context, c cli.Remote, list []api.VolumeBackup) func(api.VolumeBackup) verification {
	last := map[string]verification{}
	note := func(repository, backup string, at time.Time, failed bool) {
		key := repository + "/" + backup
		if v := last[key]; at.After(v.at) {
			last[key] = verification{at: at, failed: failed}
		}
	}
	asked := map[uuid.UUID]error{}
	for _, b := range list {
		if _, done := asked[b.Dataset]; done {
			continue
		}
		v, err := c.Volume(ctx, b.Dataset.String())
		if errors.Is(err, dataset.ErrNotFound) {
			err = nil
		}
		asked[b.Dataset] = err
		for _, r := range v.Verified {
			note(r.Repository, r.Backup, r.At, r.Failed)
		}
	}
	ops, unread := cli.FetchAll(ctx, c.Operations)
	for _, op := range ops {
		if op.Kind == dataset.OpVerify && (op.State == dataset.OpDone || foundUnusable(op)) {
			note(op.Repository, op.Backup, op.Ended, op.State != dataset.OpDone)
		}
	}
	return func(b api.VolumeBackup) verification {
		v, known := last[b.Repository+"/"+b.ID]
		v.unknown = !known && (unread != nil || asked[b.Dataset] != nil)
		return v
	}
}
