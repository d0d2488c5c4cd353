package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Command makes drover volume with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "volume",
		Aliases:    []string{"vol"},
		SuggestFor: []string{"ls", "create", "rm", "inspect", "resize"},
		Short:      "Manage volumes",
	},
		newVolumeCreateCmd(a), newVolumeLsCmd(a), newVolumeInspectCmd(a), newVolumeRmCmd(a),
		newVolumeResizeCmd(a), newVolumeImportCmd(a), newVolumeExportCmd(a), newVolumeSetProfileCmd(a),
		newVolumeProtectCmd(a), cli.ClusterOnly(newVolumeMoveCmd(a)),
		newVolumeRekeyCmd(a), newVolumeLabelCmd(a), newVolumeRenameCmd(a),
		newVolumeStatsCmd(a),
	)
}

func newVolumeCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "create SPEC",
		SuggestFor: []string{"add", "new"},
		Short:      "Create a volume",
		Long: `Create a volume. A SPEC is a name for the default profile, NAME@PROFILE, or
NAME@snapshot-PREFIX for a clone of the snapshot or dataset whose UUID begins
with PREFIX. If the volume exists with the same settings, the command changes
nothing and succeeds.`,
		Example: `  drover volume create db@gold
  drover volume create db@gold -o size=50GiB -o owner=999:999 -o label.team=shop
  drover volume create db-test@snapshot-f23ca986`,
		ValidArgsFunction: cli.Complete(a, cli.NewVolumeWords),
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	cmd.Args = makeArgs(1, opts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, help := opts["help"]; help {
			return printOptionHelp(a, cmd)
		}
		req := api.Request{Kind: dataset.OpCreate, Volume: args[0], Options: opts}
		return makeVolume(a, cmd, o, req, "created")
	}
	return cmd
}

// makeArgs checks the arguments of a command that creates a volume, as cli.Args does. With -o help, the command needs
// no arguments.
func makeArgs(minimum int, opts map[string]string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if _, help := opts["help"]; help {
			return nil
		}
		return cli.Args(minimum)(cmd, given)
	}
}

// printOptionHelp prints the help of -o help: the options, and the existing profiles.
func printOptionHelp(a *cli.App, cmd *cobra.Command) error {
	t := cli.NewTable("OPTION", "VALUE", "MEANING")
	for _, h := range dataset.OptionHelp() {
		t.Row(h.Name, h.Value, h.Help)
	}
	if err := t.Write(a.Out); err != nil {
		return err
	}
	c, err := a.Connect()
	if err != nil {
		return err
	}
	list, err := c.Profiles(cmd.Context())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	return settings.Table(list).Write(a.Out)
}

// makeVolume creates a volume and prints the line about it. A clone is never smaller than its source, so the line says
// if a clone did not get the smaller size of its profile.
func makeVolume(a *cli.App, cmd *cobra.Command, o *cli.Output, req api.Request, verb string) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	out, err := a.Submit(cmd.Context(), c, o, req)
	if err != nil {
		return err
	}
	return a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) {
		id, line := describeMade(verb)(out)
		d := cli.MadeDataset(out)
		if out.Operation == nil || d.Origin == nil {
			return id, line
		}
		// The volume exists, whether or not its profile can be read.
		p, err := c.Profile(cmd.Context(), d.Profile.Name)
		if err == nil && p.Size > 0 && p.Size < d.Size && req.Options["size"] == "" {
			line += fmt.Sprintf("; its size is that of its source, not %s as in its profile", p.Size.Readable())
		}
		return id, line
	})
}

// describeMade returns the line about the created volume.
func describeMade(verb string) func(api.Outcome) (uuid.UUID, string) {
	return func(out api.Outcome) (uuid.UUID, string) {
		d := cli.MadeDataset(out)
		size := ""
		if d.Size > 0 {
			size = ", " + d.Size.Readable()
		}
		if out.Operation == nil {
			return d.ID, fmt.Sprintf("volume %s exists already, as requested: dataset %s, profile %s%s", d.Volume,
				d.ID, d.Profile.Name, size)
		}
		return d.ID, fmt.Sprintf("%s volume %s: dataset %s, profile %s%s", verb, d.Volume, d.ID, d.Profile.Name, size)
	}
}

func newVolumeLabelCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "label NAME KEY=VALUE [KEY=VALUE...]",
		SuggestFor: []string{"tag"},
		Short:      "Set and remove labels of a volume",
		Long: `Set and remove labels of a volume, also while it is in use. KEY=VALUE sets a
label, or replaces its value. KEY- removes it. The labels are those that -o
label.KEY=VALUE sets when the volume is created. The labels of docker volume
create --label are kept by the engine, and Drover does not see them.`,
		Example:           "  drover volume label db tier=web owner-",
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		change, err := cli.ParseLabelChange(cmd, args[1:])
		if err != nil {
			return err
		}
		req := api.Request{Kind: dataset.OpUpdate, Volume: args[0], Labels: &change}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			labels := strings.Join(cli.LabelLines(d.Labels), ", ")
			if labels == "" {
				return d.ID, "volume " + d.Volume + " has no labels" + unchangedNote(out)
			}
			return d.ID, fmt.Sprintf("volume %s has the labels %s%s", d.Volume, labels, unchangedNote(out))
		})
	}
	return cmd
}

func newVolumeProtectCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "protect NAME",
		Short: "Protect a volume from deletion, or end that",
		Example: `  drover volume protect db
  drover volume protect db --off`,
		Args: cli.Args(1), ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.OutputFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "allow the deletion again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		protect := !*off
		req := api.Request{Kind: dataset.OpUpdate, Volume: args[0], Protect: &protect}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s is %s%s", d.Volume,
				map[bool]string{true: "protected", false: "not protected"}[protect], unchangedNote(out))
		})
	}
	return cmd
}

func newVolumeRenameCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "rename NAME NEW",
		SuggestFor: []string{"mv"},
		Short:      "Give a volume another name, or end an alias",
		Long: `Give a volume another name, also while it is in use. Only the name changes. The
data, the UUID, the snapshots and all mounts stay.

The former name becomes an alias. Commands, containers and Compose files find
the volume by it, also as ALIAS@PROFILE, and no other volume can get the name.
docker volume ls lists each name that the engine of the host has used. docker
volume rm ALIAS only removes the alias from that list, and never deletes the
volume.

--drop-alias ends an alias. It is refused while running containers use the alias
(--force overrides that). A stopped container that was created with it cannot
start any more, and a Compose file that still has it creates a new, empty
volume. drover volume inspect shows the aliases that the home's engine knows.`,
		Example: `  drover volume rename shop_data shop-db
  drover volume rename --drop-alias shop_data shop-db`,
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NoWords),
	}
	o := cli.OutputFlags(cmd, true)
	cli.DryRunFlag(cmd, o)
	force := cmd.Flags().Bool("force", false, "with --drop-alias: also if running containers use the alias")
	alias := cmd.Flags().String("drop-alias", "", "end this `ALIAS` of volume NAME, instead of a rename")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("drop-alias") && *force:
			return cli.UsageError(cmd, "--force needs --drop-alias")
		case !cmd.Flags().Changed("drop-alias"):
			return cli.Args(2)(cmd, args)
		case len(args) > 1:
			return cli.UsageError(cmd, "unexpected argument: %s (with --drop-alias, give only the name of the volume)",
				dataset.Clip(args[1]))
		}
		return cli.Args(1)(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("drop-alias") {
			return dropAlias(cmd, a, o, api.Request{
				Kind: dataset.OpDropAlias, Volume: args[0], Name: *alias, Force: *force,
			})
		}
		return rename(cmd, a, o, args[0], args[1])
	}
	return cmd
}

// rename gives a volume another name.
func rename(cmd *cobra.Command, a *cli.App, o *cli.Output, volume, name string) error {
	req := api.Request{Kind: dataset.OpRename, Volume: volume, Name: name}
	return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
		d := cli.MadeDataset(out)
		if out.Operation == nil {
			return d.ID, fmt.Sprintf("volume %s has that name already", d.Volume)
		}
		old := out.Operation.Volume
		if o.DryRun {
			return d.ID, fmt.Sprintf("would rename volume %s to %s; %s would stay valid as an alias", old, name, old)
		}
		return d.ID, fmt.Sprintf("renamed volume %s to %s; %s stays valid as an alias", old, name, old)
	})
}

// dropAlias tries dropTries times, with the pause dropPause, while the alias is in use. A container that has just ended
// counts as a user of its volume until the agent has reported the unmount, which takes some tenths of a second.
const (
	dropTries = 4
	dropPause = 500 * time.Millisecond
)

// dropAlias ends an alias of a volume.
func dropAlias(cmd *cobra.Command, a *cli.App, o *cli.Output, req api.Request) error {
	for try := 1; ; try++ {
		err := a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("%s the alias %s of volume %s%s",
				map[bool]string{true: "would drop", false: "dropped"}[o.DryRun], req.Name, d.Volume,
				strandedHint(out.Volume, req.Name))
		})
		if !errors.Is(err, dataset.ErrInUse) || try == dropTries || a.Sleep(cmd.Context(), dropPause) != nil {
			return err
		}
	}
}

// strandedHint returns a hint on containers that cannot start without an alias, or "" if the engine of the home does
// not know the alias. v is the volume before the alias was dropped; it may be nil.
func strandedHint(v *api.Volume, alias string) string {
	if v == nil || v.Status == nil {
		return ""
	}
	known := dataset.SpellingsWithName(v.Status.EngineAliases, alias)
	if len(known) == 0 {
		return ""
	}
	return fmt.Sprintf("; if a stopped container on node %s has this name, it cannot start any more (docker ps -a "+
		"--filter volume=%s there shows it)", v.Node, strings.Join(known, " --filter volume="))
}

func newVolumeResizeCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "resize NAME SIZE",
		SuggestFor: []string{"grow", "shrink", "extend"},
		Short:      "Change a volume's size",
		Long: `Change the size of a volume, also while it is in use. +SIZE adds to the present
size. K, M, G, T and KiB … are binary, KB … decimal. Not every backend can
shrink a volume.`,
		Example: `  drover volume resize db 50GiB
  drover volume resize db +10GiB`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NoWords),
	}
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		size, err := newSize(cmd.Context(), a, args[0], args[1])
		if err != nil {
			return err
		}
		req := api.Request{Kind: dataset.OpResize, Volume: args[0], Size: size}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s has %s%s", d.Volume, d.Size.Readable(), unchangedNote(out))
		})
	}
	return cmd
}

// newSize returns the size that a volume gets for the argument SIZE or +SIZE of resize, as the server parses it.
func newSize(ctx context.Context, a *cli.App, volume, text string) (string, error) {
	amount, isMore := strings.CutPrefix(text, "+")
	size, err := dataset.ParseSize(amount)
	if _, bytesErr := dataset.ParseSize(amount + "B"); isMore && err != nil && bytesErr == nil {
		return "", dataset.Errorf(dataset.ErrInvalid, "bad size %q: a bare number is ambiguous (use +%sGiB for "+
			"gibibytes or +%[2]sB for bytes)", dataset.Clip(text), dataset.Clip(amount))
	}
	if err != nil || !isMore {
		return text, err
	}
	c, err := a.Connect()
	if err != nil {
		return "", err
	}
	v, err := c.Volume(ctx, volume)
	switch {
	case err != nil:
		return "", err
	case v.Size == 0:
		return "", dataset.Errorf(dataset.ErrInvalid, "volume %s has no size limit, so %s cannot be added: use drover "+
			"volume resize %[1]s SIZE to set one", v.Volume, amount)
	}
	return (v.Size + size).String(), nil
}

// unchangedNote returns the end of a line about a change of a volume: " already" if nothing had to be changed,
// otherwise " now".
func unchangedNote(out api.Outcome) string {
	if out.Operation == nil {
		return " already"
	}
	return " now"
}

func newVolumeRekeyCmd(a *cli.App) *cobra.Command {
	var oldKey string
	cmd := &cobra.Command{
		Use:   "rekey NAME",
		Short: "Encrypt a volume's data key with the current key of its profile",
		Long: `Encrypt (wrap) the data key of a volume with the current key of its profile. The
data itself is not touched, the volume may be in use, and its copies get the new
key with the record. The old key is read from the file that the profile named
when the volume was created or last rekeyed. If that file was overwritten, use
--old-key-file with a copy of it on the volume's home. Keep the old key as long
as you keep backups of the records.`,
		Example:           `  drover volume rekey db --old-key-file /root/gold.old`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	cmd.Flags().StringVar(&oldKey, "old-key-file", "", "`FILE` with the old key on the volume's home")
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		if oldKey != "" && !filepath.IsAbs(oldKey) {
			return dataset.Errorf(dataset.ErrInvalid, "--old-key-file %s: expected an absolute path", oldKey)
		}
		if oldKey != "" {
			oldKey = filepath.Clean(oldKey)
		}
		before, err := c.Volume(cmd.Context(), args[0])
		if err != nil && !errors.Is(err, dataset.ErrNotFound) { // control names volumes in the trash
			return err
		}
		req := api.Request{Kind: dataset.OpRekey, Volume: args[0], Path: oldKey}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if before.Encryption == nil || out.Operation == nil || out.Operation.DatasetRecord == nil ||
				out.Operation.DatasetRecord.Encryption == nil {
				return d.ID, fmt.Sprintf("volume %s now has another key", d.Volume)
			}
			previousKey, newKey := before.Encryption.KeyID, out.Operation.DatasetRecord.Encryption.KeyID
			if previousKey == newKey {
				return d.ID, fmt.Sprintf("volume %s: its data key is wrapped by key %s, as before, because its "+
					"profile has no other key (replace the key file of the profile, and retry)", d.Volume, newKey)
			}
			return d.ID, fmt.Sprintf("volume %s: its data key was wrapped by key %s, and is now wrapped by key "+
				"%s", d.Volume,
				previousKey, newKey)
		})
	})
	return cmd
}

// CloneCommand makes drover clone.
func CloneCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "clone SOURCE NEW",
		SuggestFor: []string{"cp", "fork"},
		Short:      "Create a volume as a copy of another, or of a snapshot",
		Long: `Create a volume as a copy of another volume or of a snapshot, and share its
blocks. If the pool can do that, it takes the same time for any size. SOURCE is
the name of a volume, VOLUME@SNAPSHOT with the name of a snapshot, or the UUID
prefix of a snapshot or dataset. A volume may be in use.

The clone has the profile of the source, unless NEW or -o names one. If none is
named, the schedules of the profile do not apply to the clone: no snapshots and
backups of it are made, unless --keep-schedules is given. drover volume
set-profile turns the schedules on later.

The clone stays in the pool of the source, and is never smaller than the source:
if the profile has a smaller size, the command says so. For a copy in another
pool, use
drover volume export SOURCE | drover volume import NEW@PROFILE --from -.`,
		Example: `  drover clone db db-test
  drover clone db@before-upgrade db-test
  drover clone f23ca986 db-test@bronze`,
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NewVolumeWords),
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	keep := cli.KeepSchedulesFlag(cmd)
	cmd.Args = makeArgs(2, opts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, help := opts["help"]; help {
			return printOptionHelp(a, cmd)
		}
		if _, twice := opts["from"]; twice {
			return cli.UsageError(cmd, "unexpected option from: the source is SOURCE, %q", args[0])
		}
		o2 := maps.Clone(opts)
		o2["from"] = args[0]
		if *keep {
			o2[dataset.OptionSchedules] = "true"
		}
		req := api.Request{Kind: dataset.OpClone, Volume: args[1], Options: o2}
		return makeVolume(a, cmd, o, req, "cloned "+args[0]+" to")
	}
	return cmd
}
