package backups

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newRestoreCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore BACKUP [NEW]",
		Short: "Create a volume from a backup",
		Long: `Create a volume with the content of a backup.
` + referenceHelp + `
If you give the name of a volume, its newest backup is restored. Backups of
other clusters, and of other volumes that had the name, are only taken by their
IDs. If the volume does not exist any more, its name means the backups that this
cluster made of it.

The new volume is visible only when it is complete. No existing volume is
changed.

NEW is the name of the new volume, or NAME@PROFILE. Without NEW, it gets the
name that the backed-up volume had. Without a profile, it gets the profile that
the volume had. Without -o size=SIZE, it gets the size that the volume had; with
--profile-size, that of its profile. Without -o label.KEY=VALUE, it gets the
labels that the volume had. Protection is not restored. The host of the new
volume reads the repository, and needs its password.

If NEW is another name, and no profile is named, the schedules of the profile do
not apply to the new volume: no snapshots and backups of it are made, unless
--keep-schedules is given.`,
		Example: `  drover backup restore db db-restored
  drover backup restore 5f1c09aa db-before@gold -o size=40GiB`,
		Args: cli.Args(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	repository := cmd.Flags().String("repository", "", "look only in the `REPOSITORY`")
	keep := cli.KeepSchedulesFlag(cmd)
	profileSize := cmd.Flags().Bool("profile-size", false, "give the new volume the size of its profile")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		if _, help := opts["help"]; help {
			return cli.UsageError(cmd, "drover volume create -o help lists the options")
		}
		ctx := cmd.Context()
		b, err := findForRestore(ctx, a, c, *repository, args[0])
		if err != nil {
			return err
		}
		spec := b.Volume
		if len(args) > 1 {
			spec = args[1]
		} else if err := checkFree(ctx, c, b); err != nil {
			return err
		}
		req, err := RestoreRequest(ctx, a, c, b, NewVolume{
			Spec: spec, Options: opts, ProfileSize: *profileSize, KeepSchedules: *keep,
			Command: "drover backup restore " + short(b.ID),
		})
		if err != nil {
			return err
		}
		if b.Elsewhere {
			req.KeptApart = b.Cluster
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("restored volume %s from backup %s: dataset %s, profile %s", d.Volume, short(b.ID),
				d.ID, d.Profile.Name)
		})
	})
	return cmd
}

// checkFree fails if the name of the volume of a backup is in use.
func checkFree(ctx context.Context, c cli.Remote, b api.VolumeBackup) error {
	_, err := c.Volume(ctx, b.Volume)
	switch {
	case err == nil:
		return dataset.Errorf(dataset.ErrExists,
			"volume %s exists (name the new volume: drover backup restore %s NEW)", b.Volume, short(b.ID))
	case !errors.Is(err, dataset.ErrNotFound):
		return err
	}
	return nil
}

// NewVolume is what a user wants of the volume that is made from a backup.
type NewVolume struct {
	Spec        string
	Options     map[string]string
	ProfileSize bool // the volume gets the size of its profile, and not that of the backed-up volume
	// KeepSchedules says that the schedules of the profile apply although the volume gets another name.
	KeepSchedules bool
	Command       string // the command line without the spec, for errors
}

// RestoreRequest returns the request that makes a volume from a backup, with what the backup has recorded and the user
// has not chosen. It prints what cannot be restored. It fails with dataset.ErrUnsupported if the volume was encrypted
// and would not be, unless the user chose the profile.
func RestoreRequest(ctx context.Context, a *cli.App, c cli.Remote, b api.VolumeBackup, w NewVolume) (api.Request,
	error) {
	b, options, leftOut, err := recordedOptions(ctx, a, c, b, w, w.Command+" "+w.Spec+"@")
	if err != nil {
		return api.Request{}, err
	}
	hasProfile := strings.Contains(w.Spec, "@") || w.Options["profile"] != ""
	name, _, _ := strings.Cut(w.Spec, "@")
	if _, chosen := options[dataset.OptionSchedules]; !chosen && (w.KeepSchedules || name != b.Volume && !hasProfile) {
		options[dataset.OptionSchedules] = strconv.FormatBool(w.KeepSchedules)
	}
	for _, err := range leftOut {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: not restored: %v\n", err)
	}
	return api.Request{
		Kind: dataset.OpImport, Volume: w.Spec, Options: options, Repository: b.Repository, Backup: b.ID,
	}, nil
}

// recordedOptions returns the options of a volume that is made from a backup: those that the user has chosen, and the
// recorded ones. full is the backup with its record. leftOut says which parts of the record are not valid: see
// withRecord. choose is the command that names another profile, without the profile. recordedOptions fails with
// dataset.ErrUnsupported if the volume was encrypted and would not be, unless the user chose the profile.
func recordedOptions(ctx context.Context, a *cli.App, c cli.Remote, b api.VolumeBackup, w NewVolume, choose string) (
	full api.VolumeBackup, options map[string]string, leftOut []error, err error) {
	options, err = withProfile(ctx, c, b, w.Spec, w.Options, choose)
	if err == nil && b.Record == nil { // b is an item of a list
		b, err = c.VolumeBackup(ctx, b.Repository, b.ID)
	}
	if err != nil {
		return b, nil, nil, err
	}
	chosen := w.Options["profile"]
	if _, profile, at := strings.Cut(w.Spec, "@"); at {
		chosen = profile
	}
	profiles, err := c.Profiles(ctx)
	if err != nil {
		return b, nil, nil, err
	}
	note, err := checkEncryption(b, profiles, chosen, choose)
	if err != nil {
		return b, nil, nil, err
	}
	_, _ = io.WriteString(a.ErrOut, note)
	options, leftOut = withRecord(b.Record, options, w.ProfileSize, chosen == "")
	return b, options, leftOut, nil
}

// withProfile returns the options with the profile of the backed-up volume, unless the user has chosen one. It fails
// with dataset.ErrNotFound if that profile no longer exists. choose is the command that names another one, without it.
func withProfile(ctx context.Context, c cli.Remote, b api.VolumeBackup, spec string, opts map[string]string,
	choose string) (map[string]string, error) {
	if strings.Contains(spec, "@") || opts["profile"] != "" || b.Profile == "" {
		return opts, nil
	}
	profiles, err := c.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range profiles {
		if p.Name == b.Profile {
			opts = maps.Clone(opts)
			opts["profile"] = b.Profile
			return opts, nil
		}
	}
	return nil, dataset.Errorf(dataset.ErrNotFound, "profile %s of the backed-up volume no longer exists (choose one: "+
		"%sPROFILE)", b.Profile, choose)
}

// checkEncryption fails with dataset.ErrUnsupported if the volume of a backup was encrypted, and the profile that it
// had does not encrypt now. An empty profile is the default one. If the user chose another profile that does not
// encrypt, checkEncryption returns the note to print. choose is the command that chooses a profile, without it.
func checkEncryption(b api.VolumeBackup, profiles []api.ListedProfile, chosen, choose string) (note string, err error) {
	name := cmp.Or(chosen, b.Profile)
	i := slices.IndexFunc(profiles, func(p api.ListedProfile) bool {
		return p.Name == name || name == "" && p.Default
	})
	if b.Record == nil || !b.Record.Encrypted || i < 0 || profiles[i].Encryption.Wanted() {
		return "", nil
	}
	if chosen != "" {
		return fmt.Sprintf("drover: volume %s was encrypted, and profile %s does not encrypt: its files are "+
			"written unencrypted\n", cli.Clean(b.Volume), chosen), nil
	}
	return "", dataset.Errorf(dataset.ErrUnsupported, "volume %s was encrypted, and profile %s does not encrypt (add "+
		"its encryption to profiles.yaml, or write the files unencrypted: %s%[2]s)", b.Volume, profiles[i].Name,
		choose)
}

// withRecord returns the options with the size and the labels of the backed-up volume, unless the user has chosen
// others. With profileSize, it adds no size. With filesystem, it adds the filesystem, if a user or the profile had
// named it. leftOut says what is not valid: another program can have written the backup.
func withRecord(r *api.BackupRecord, opts map[string]string, profileSize, filesystem bool) (with map[string]string,
	leftOut []error) {
	if r == nil {
		return opts, nil
	}
	with = maps.Clone(opts)
	if with == nil {
		with = map[string]string{}
	}
	if _, chosen := opts["size"]; !chosen && !profileSize && r.Size > 0 {
		with["size"] = r.Size.String()
	}
	if _, chosen := opts["fs"]; !chosen && filesystem && r.FilesystemGiven {
		if _, err := dataset.ParseOptions(map[string]string{"fs": r.Filesystem}); err != nil {
			leftOut = append(leftOut, err)
		} else {
			with["fs"] = r.Filesystem
		}
	}
	for key := range opts {
		if strings.HasPrefix(key, labelOption) {
			return with, leftOut
		}
	}
	labels := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		labels[labelOption+key] = r.Labels[key]
		if _, err := dataset.ParseOptions(labels); err != nil {
			delete(labels, labelOption+key)
			leftOut = append(leftOut, err)
		}
	}
	maps.Copy(with, labels)
	return with, leftOut
}

// labelOption begins the name of an option that sets a label.
const labelOption = "label."

// dropLabels removes the labels from options: a temporary volume has none.
func dropLabels(opts map[string]string) {
	maps.DeleteFunc(opts, func(key, _ string) bool { return strings.HasPrefix(key, labelOption) })
}
