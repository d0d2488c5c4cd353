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
