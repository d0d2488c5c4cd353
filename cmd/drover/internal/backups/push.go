package backups

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

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

const pullHelp = `Create a volume from a version in a repository. SOURCE is REPOSITORY/NAME for
the newest version of NAME, or REPOSITORY/NAME@VERSION for the one whose UUID
begins with VERSION (at least 4 digits). The volume is visible only when it is
complete. No existing volume is changed. The new volume continues the version,
so it can be pushed to the same name.

NEW, or --as NEW, is the name of the new volume, or NAME@PROFILE. Without it,
the volume gets the name that it has in the repository. If that volume exists
and continues the version, there is nothing to do. If it does not, the command
is refused, and shows both histories.

The volume gets the size that the pushed volume had, and the profile that NEW or
-o names, or the default one. An encrypted volume is not pulled into a profile
that does not encrypt, unless the profile is named. The host of the new volume
reads the repository, and needs its password.`

// PullCommand makes drover pull.
func PullCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "pull SOURCE [NEW]",
		SuggestFor: []string{"fetch", "download"},
		Short:      "Create a volume from a version in a repository",
		Long:       pullHelp,
		Example: `  drover pull offsite/db
  drover pull offsite/db@1f2e3d4c --as db-before
  drover pull offsite/db db-test@bronze -o size=40GiB`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.RepositoryWords),
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	as := cmd.Flags().String("as", "", "`NEW` volume, the same as the second argument")
	profileSize := cmd.Flags().Bool("profile-size", false, "give the new volume the size of its profile")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx := cmd.Context()
		if _, help := opts["help"]; help {
			return cli.UsageError(cmd, "drover volume create -o help lists the options")
		}
		from, err := parseSource(args[0])
		if err != nil {
			return err
		}
		spec := *as
		switch {
		case len(args) > 1 && spec != "":
			return cli.UsageError(cmd, "--as and %s both name the new volume", args[1])
		case len(args) > 1:
			spec = args[1]
		}
		h, err := history(ctx, c, from.repository)
		if err != nil {
			return err
		}
		v, err := from.find(h)
		if err != nil {
			return err
		}
		if spec == "" {
			spec = from.name
			existing, err := from.existing(ctx, c, h, v)
			if err != nil {
				return err
			}
			if existing != nil {
				return a.Report(o, api.Outcome{Volume: existing}, func(api.Outcome) (uuid.UUID, string) {
					return existing.ID, fmt.Sprintf("volume %s already continues version %s of %s: there is nothing "+
						"to pull", existing.Volume, shortUUID(v.ID), from)
				})
			}
		}
		req, err := from.request(ctx, a, c, v, NewVolume{
			Spec: spec, Options: opts, ProfileSize: *profileSize, Command: "drover pull " + args[0],
		})
		if err != nil {
			return err
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("pulled version %s of %s as volume %s: dataset %s, profile %s", shortUUID(v.ID),
				from, d.Volume, d.ID, d.Profile.Name)
		})
	})
	return cmd
}

// existing returns the volume that has the name of s. It returns nil if there is no such volume. It fails with
// dataset.ErrExists if the volume does not continue version v.
func (s source) existing(ctx context.Context, c cli.Remote, h dataset.History, v dataset.PushedVersion) (*api.Volume,
	error) {
	existing, err := c.Volume(ctx, s.name)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
		return nil, nil //nolint:nilnil // the name is free
	case err != nil:
		return nil, err
	}
	return &existing, s.existsError(h, existing, v)
}

// request returns the request that makes a volume from a version. A stranger can have written the tags and the record
// of the backup. They choose neither the profile nor the filesystem and the labels of the volume: only its size.
func (s source) request(ctx context.Context, a *cli.App, c cli.Remote, v dataset.PushedVersion, w NewVolume) (
	api.Request, error) {
	b, err := c.VolumeBackup(ctx, s.repository, v.Backup)
	if err != nil {
		return api.Request{}, err
	}
	b.Profile = ""
	if b.Record != nil {
		b.Record = &api.BackupRecord{Size: b.Record.Size, Encrypted: b.Record.Encrypted}
	}
	req, err := RestoreRequest(ctx, a, c, b, w)
	req.Version = &dataset.VersionRef{Repository: s.repository, Name: v.Name, Version: v.ID}
	return req, err
}

// newVersionsCmd makes drover repository versions.
func newVersionsCmd(a *cli.App) *cobra.Command {
	var incomplete error // why the list lacks versions
	cmd := cli.New(a, cli.List[dataset.PushedVersion]{
		Use:   "versions REPOSITORY",
		Short: "List the versions of volumes that were pushed to a repository",
		Long: `List the versions of volumes that were pushed to a repository, in the order in
which they were pushed: of all names, or of one name with REPOSITORY/NAME. The
server's host reads the list from the repository. Versions that other clusters
pushed are listed, too. BY and NODE are who pushed a version, and where.

A version is newest if no other version of its name continues it. Two newest
versions of a name mean that both sides have changed. If the data of a version
was removed with drover backup rm, the version is listed as removed. If a
version cannot be read, the others are listed, and the command fails.`,
		ValidArgs: cli.Complete(a, cli.RepositoryWords),
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, q cli.ListQuery) ([]dataset.PushedVersion, error) {
			repository, name, err := parsePlace(q.Args[0])
			if err != nil {
				return nil, err
			}
			list, err := c.Versions(ctx, repository, name)
			incomplete = list.Problem.Err()
			return list.Items, err
		}),
		WatchPause: 30 * time.Second, // restic reads the repository for every list

		ID:      func(v dataset.PushedVersion) string { return v.ID.String() },
		Columns: func([]dataset.PushedVersion) []cli.Column[dataset.PushedVersion] { return versionColumns(a) },
		Compare: func(x, y dataset.PushedVersion) int { return x.Pushed.Compare(y.Pushed) },
		Moment: &cli.Moment[dataset.PushedVersion]{
			Of: func(v dataset.PushedVersion) time.Time { return v.Pushed }, Verb: "pushed",
		},
	})
	cmd.Args = cli.Args(1)
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := list(cmd, args); err != nil {
			return err
		}
		return incomplete
	}
	return cmd
}

func versionColumns(a *cli.App) []cli.Column[dataset.PushedVersion] {
	type version = dataset.PushedVersion
	id := func(v version) string { return v.ID.String() }
	return []cli.Column[version]{
		{Header: "VERSION", Cell: func(v version) string { return shortUUID(v.ID) }, Whole: id},
		cli.Volume("NAME", func(v version) string { return v.Name }),
		cli.Time(a, "PUSHED", func(v version) time.Time { return v.Pushed }),
		{Header: "BY", Cell: func(v version) string { return v.By }},
		{Header: "NODE", Cell: func(v version) string { return v.Node }},
		{Header: "STATE", Cell: state},
		{Header: "PARENT", Wide: true, Cell: func(v version) string { return shortUUID(v.Parent) }},
		{Header: "VOLUME", Wide: true, Cell: func(v version) string { return v.Volume }},
		{Header: "BACKUP", Wide: true, Cell: func(v version) string { return v.Backup }},
		{Header: "ID", Wide: true, Cell: id},
	}
}

// state says whether a version can be pulled, and whether it is the last of its name.
func state(v dataset.PushedVersion) string {
	switch {
	case v.Removed:
		return "removed"
	case v.Newest:
		return "newest"
	}
	return ""
}

// history returns all versions in a repository. It fails if a version cannot be read.
func history(ctx context.Context, c cli.Remote, repository string) (dataset.History, error) {
	list, err := c.Versions(ctx, repository, "")
	if err == nil {
		err = list.Problem.Err()
	}
	return list.Items, err
}
