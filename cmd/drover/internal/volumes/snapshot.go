package volumes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// SnapshotCommand makes drover snapshot with its subcommands.
func SnapshotCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snap"},
		Short:   "Manage snapshots",
	},
		newSnapshotCreateCmd(a), newSnapshotLsCmd(a), newSnapshotInspectCmd(a), newSnapshotRmCmd(a),
		newSnapshotRestoreCmd(a), newSnapshotDiffCmd(a),
	)
}

func newSnapshotCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "create VOLUME [VOLUME...]",
		SuggestFor: []string{"add", "new", "take"},
		Short:      "Take snapshots of volumes",
		Long: `Take a snapshot of a volume, also while it is in use. It contains the whole
volume at one moment, as a database would find it after a power cut. It is kept
until it is deleted: retention does not apply to it.

A name is unique among the snapshots of its volume. VOLUME NAME, VOLUME@NAME and
VOLUME --name NAME are the same, unless NAME is a volume, or the profile of the
volume. With several volumes, a snapshot is taken of each, one after the other,
and --name names all of them. If some volumes cannot be snapshotted, the others
are. -o json prints a list then.`,
		Example: `  drover snapshot create db before-upgrade -m "10.11 to 11.4"
  drover snapshot create db web --name before-upgrade`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.CompleteEach(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, true)
	var name, message string
	cmd.Flags().StringVar(&name, "name", "", "`NAME`, unique among the volume's snapshots")
	cmd.Flags().StringVarP(&message, "message", "m", "", "a message about it")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		args, name, err := separateName(cmd, c, args, name)
		if err != nil {
			return err
		}
		var reqs []api.Request
		for _, arg := range args {
			req := api.Request{Kind: dataset.OpSnapshot, Volume: arg, Name: name, Message: message}
			if name == "" {
				if req.Volume, req.Name, err = splitNewName(cmd.Context(), c, arg); err != nil {
					return err
				}
			}
			reqs = append(reqs, req)
		}
		describe := func(_ api.Request, out api.Outcome) (uuid.UUID, string) { return describeSnapshot(out) }
		return submitSnapshots(cmd.Context(), a, c, o, reqs, "taken", describe)
	})
	return cmd
}

// separateName returns the volumes and the name of their snapshots. The second of two arguments is the name of the
// snapshots, unless it is the name of a volume.
func separateName(cmd *cobra.Command, c cli.Remote, args []string, name string) ([]string, string, error) {
	if len(args) != 2 || strings.Contains(args[1], "@") {
		return args, name, nil
	}
	if name != "" && name == args[1] {
		return args[:1], name, nil
	}
	isVolume, err := volumeExists(cmd.Context(), c, args[1])
	switch {
	case err != nil:
		return nil, "", err
	case isVolume:
		return args, name, nil
	case name != "":
		return nil, "", cli.UsageError(cmd, "two names for one snapshot: %s, and --name %s (use only one)", args[1],
			name)
	}
	return args[:1], args[1], nil
}

// splitNewName splits VOLUME@NAME, as zfs names a new snapshot. It returns the argument unchanged if NAME is a profile
// or the whole argument names a volume, because a volume can be named with its profile. If the volume has another
// profile, the error of the server says so.
func splitNewName(ctx context.Context, c cli.Remote, arg string) (volume, name string, err error) {
	before, after, at := strings.Cut(arg, "@")
	if !at || before == "" || after == "" {
		return arg, "", nil
	}
	profiles, err := c.Profiles(ctx)
	if err != nil {
		return "", "", err
	}
	if slices.ContainsFunc(profiles, func(p api.ListedProfile) bool { return p.Name == after }) {
		return arg, "", nil
	}
	if whole, err := volumeExists(ctx, c, arg); err != nil || whole {
		return arg, "", err
	}
	return before, after, nil
}

func volumeExists(ctx context.Context, c cli.Remote, name string) (bool, error) {
	_, err := c.Volume(ctx, name)
	switch kind := dataset.KindOf(err); {
	case err == nil:
		return true, nil
	case kind == dataset.ErrNotFound || kind == dataset.ErrInvalid:
		return false, nil
	default:
		return false, err
	}
}

func describeSnapshot(out api.Outcome) (uuid.UUID, string) {
	s := takenSnapshot(out)
	if s.Name != "" {
		return s.ID, fmt.Sprintf("created snapshot %s of %s: %s", s.Name, s.Volume, s.ID)
	}
	return s.ID, fmt.Sprintf("created snapshot of %s: %s", s.Volume, s.ID)
}

func takenSnapshot(out api.Outcome) dataset.Snapshot {
	if out.Operation == nil || out.Operation.Snapshot == nil {
		return dataset.Snapshot{}
	}
	return *out.Operation.Snapshot
}

func newSnapshotLsCmd(a *cli.App) *cobra.Command {
	var size bool
	cmd := cli.New(a, cli.List[measured]{
		Use:   "ls [VOLUME]",
		Short: "List the snapshots of a volume, or of all volumes, oldest first",
		Long: `List the snapshots of a volume, or of all volumes, oldest first. UNIQUE is
how much space the deletion of a snapshot frees: the bytes that no other
snapshot and not the volume uses. Blocks that only two snapshots share are
counted for neither. Pools of the backends loop and zfs know this, on their own
host. The table of one volume shows it, as far as it is measured within two
seconds. --size measures for up to 30 seconds, for all volumes and formats.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, q cli.ListQuery) ([]measured, error) {
			ref := ""
			if len(q.Args) > 0 {
				ref = q.Args[0]
			}
			snaps, err := cli.FetchAll(ctx, cli.SnapshotsOf(c, ref))
			if err != nil {
				return nil, err
			}
			switch {
			case size:
				return measureAll(ctx, c, snaps, measureWithin), nil
			case ref != "" && q.Table:
				return measureAll(ctx, c, snaps, tableWithin), nil
			}
			return measureAll(ctx, c, snaps, 0), nil
		}),
		ID:      func(s measured) string { return s.ID.String() },
		Columns: func(snaps []measured) []cli.Column[measured] { return snapshotColumns(a, snaps, size) },
		Compare: func(x, y measured) int { return x.Created.Compare(y.Created) },
		Moment: &cli.Moment[measured]{
			Of: func(s measured) time.Time { return s.Created }, Verb: "taken",
		},
		Labels: func(ctx context.Context, c cli.Remote) (func(measured) map[string]string, error) {
			of, err := cli.VolumeLabels(ctx, c)
			return func(s measured) map[string]string { return of(s.Dataset) }, err
		},
	})
	cmd.Flags().BoolVar(&size, "size", false, "show how much space the deletion of each snapshot frees")
	return cmd
}

// measureAll measures the snapshots until the time within has passed. The others are returned without a measurement. If
// the pool of a dataset cannot measure one of its snapshots, measureAll does not try the others.
func measureAll(ctx context.Context, c cli.Remote, snaps []dataset.Snapshot, within time.Duration) []measured {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out := make([]measured, 0, len(snaps))
	unable := map[uuid.UUID]bool{}
	for _, s := range snaps {
		m := measured{Snapshot: s}
		if ctx.Err() == nil && !unable[s.Dataset] {
			switch dataset.KindOf(m.measure(ctx, c)) { // drover snapshot inspect shows why
			case dataset.ErrUnsupported, dataset.ErrNotFound, dataset.ErrOffline:
				unable[s.Dataset] = true
			}
		}
		out = append(out, m)
	}
	return out
}

func snapshotColumns(a *cli.App, snaps []measured, size bool) []cli.Column[measured] {
	hasUnique := size || slices.ContainsFunc(snaps, func(s measured) bool { return s.Unique != nil })
	return []cli.Column[measured]{
		cli.UUID("SNAPSHOT", snaps, func(s measured) uuid.UUID { return s.ID }),
		cli.Volume("VOLUME", func(s measured) string { return s.Volume }),
		{Header: "NAME", Cell: func(s measured) string { return s.Name }},
		{Header: "KIND", Cell: func(s measured) string { return string(s.Kind) }},
		{Header: "SIZE", Cell: func(s measured) string { return cli.SizeOr(s.Size, "") },
			Compare: cli.By(func(s measured) dataset.Size { return s.Size })},
		cli.Time(a, "CREATED", func(s measured) time.Time { return s.Created }),
		{Header: "MESSAGE", Cell: func(s measured) string { return s.Message }},
		{Header: "UNIQUE", Wide: !hasUnique, Cell: func(s measured) string {
			if s.Unique == nil {
				return ""
			}
			return s.Unique.Human()
		}, Compare: cli.By(func(s measured) dataset.Size { return *s.Unique })},
		{Header: "PROFILE", Wide: true, Cell: func(s measured) string { return s.Profile.Name }},
		{Header: "DATASET", Wide: true, Cell: func(s measured) string { return s.Dataset.String() }},
		{Header: "UUID", Wide: true, Cell: func(s measured) string { return s.ID.String() }},
	}
}

func newSnapshotInspectCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect [VOLUME] SNAPSHOT",
		Aliases: []string{"show"},
		Short:   "Show a snapshot in detail",
		Long: `Show a snapshot in detail. SNAPSHOT is a unique prefix of its UUID or, after the
volume, its name.`,
		Example:           `  drover snapshot inspect db before-upgrade`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.SnapshotWords),
	}
	o := cli.OutputFlags(cmd, false)
	volume := volumeFlag(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		volume, id, err := snapshotArgs(cmd, *volume, args)
		if err != nil {
			return err
		}
		s, err := c.Snapshot(cmd.Context(), volume, id)
		if err != nil {
			return err
		}
		return cli.PrintObject(a, o, s, func(s dataset.Snapshot) *cli.Form {
			m := measured{Snapshot: s}
			why := m.measure(cmd.Context(), c)
			return snapshotForm(a, m, why)
		})
	})
	return cmd
}

// volumeFlag adds a flag for the volume of a snapshot. A snapshot can be given by name only together with its volume.
func volumeFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("volume", "", "`VOLUME` of the snapshots, so that their names can be used")
}

// splitName returns VOLUME and SNAPSHOT for the single argument VOLUME@SNAPSHOT, and any other arguments unchanged.
// zfs, and drover clone, name a snapshot like this.
func splitName(args []string) []string {
	if len(args) == 1 {
		if volume, name, at := strings.Cut(args[0], "@"); at && volume != "" && name != "" {
			return []string{volume, name}
		}
	}
	return args
}

// snapshotArgs parses [VOLUME] ID, or VOLUME@SNAPSHOT. The volume may also be given by the flag.
func snapshotArgs(cmd *cobra.Command, flag string, args []string) (volume, id string, err error) {
	args = splitName(args)
	if len(args) == 1 {
		return flag, args[0], nil
	}
	if flag != "" {
		return "", "", cli.UsageError(cmd, "duplicate volume: %q, and --volume %s", args[0], flag)
	}
	return args[0], args[1], nil
}

func snapshotForm(a *cli.App, s measured, why error) *cli.Form {
	f := &cli.Form{}
	f.Add("Snapshot", s.ID.String())
	f.Add("Name", s.Name)
	f.Add("Message", s.Message)
	f.Add("Volume", s.Volume)
	f.Add("Dataset", s.Dataset.String())
	f.Add("Kind", string(s.Kind))
	f.Add("Size", cli.ExactSize(s.Size))
	f.Add("Unique", uniqueText(s, why))
	f.Add("Profile", s.Profile.Name+"@"+s.Profile.Revision)
	if s.Parent != uuid.Nil {
		f.Add("Parent", s.Parent.String())
	}
	f.Add("Created", cli.When(a.Now(), s.Created))
	f.Add("To clone it", "drover clone "+s.ID.String()[:cli.ShortLength]+" NEW")
	f.Add("To go back", "drover snapshot restore "+s.Volume+" "+s.ID.String()[:cli.ShortLength])
	return f
}

// measureWithin bounds how long snapshot ls --size measures snapshots. tableWithin bounds it for a table without
// --size.
const (
	measureWithin = 30 * time.Second
	tableWithin   = 2 * time.Second
)

// measured is a snapshot with the space that its deletion frees, if that was measured.
type measured struct {
	dataset.Snapshot
	Unique *dataset.Size `json:"unique,omitempty"` // bytes that only the snapshot uses
}

// measure measures a snapshot. It returns why the space is not known, or nil.
func (m *measured) measure(ctx context.Context, c cli.Remote) error {
	space, err := c.SnapshotSpace(ctx, m.ID.String())
	if err == nil {
		m.Unique = &space.Unique
	}
	return err
}

// uniqueText says how much space the deletion of a snapshot frees, or why that is not known.
func uniqueText(m measured, why error) string {
	if m.Unique == nil {
		return "not known: " + why.Error()
	}
	return m.Unique.Human() + ", which its deletion frees"
}

func newSnapshotDiffCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [VOLUME] A [B]",
		Short: "Show how much changed between two snapshots, or since one",
		Long: `Show how much changed between two snapshots, or since one. A is the older
snapshot, and B the newer one; without B, or if B is the volume, A is compared
with the current data. A and B are unique prefixes of UUIDs, VOLUME@NAME or,
with a volume, names. The output has bytes and ranges, but no names of files. To
list the files that differ, clone a snapshot (drover clone VOLUME@NAME NEW),
mount the clone and the volume in a container, and run diff -r.`,
		Example: `  drover snapshot diff db before-upgrade
  drover snapshot diff db@monday db@tuesday
  drover snapshot diff f23ca986 4be1c07d`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.SnapshotWords),
	}
	o := cli.OutputFlags(cmd, false)
	volume := volumeFlag(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		volume, points, err := diffArgs(cmd, c, *volume, args)
		if err != nil {
			return err
		}
		named := slices.Clone(points)
		for i, p := range points {
			// The name of a snapshot is unique only in its volume.
			if volume == "" || p == "" {
				continue
			}
			s, err := c.Snapshot(cmd.Context(), volume, p)
			if err != nil {
				return err
			}
			points[i] = s.ID.String()
		}
		d, err := c.Diff(cmd.Context(), points[0], points[1])
		if err != nil {
			return err
		}
		return cli.PrintObject(a, o, d, func(d api.Diff) *cli.Form { return diffForm(d, named) })
	})
	return cmd
}

// diffArgs parses [VOLUME] A [B]. The volume may also be given by the flag, or before A or B with @. If B is the volume
// itself, or is left out, the second point is "": the present data.
func diffArgs(cmd *cobra.Command, c cli.Remote, flag string, args []string) (volume string, points []string,
	err error) {
	volume = flag
	if len(args) == 3 && flag != "" {
		return "", nil, cli.UsageError(cmd, "duplicate volume: %q, and --volume %s", args[0], flag)
	}
	if len(args) == 3 {
		volume, args = args[0], args[1:]
	}
	for i, arg := range args {
		parts := splitName([]string{arg})
		switch {
		case len(parts) == 1:
			points = append(points, arg)
		case i > 0 && volume == "" || volume != "" && volume != parts[0]:
			return "", nil, cli.UsageError(cmd, "%s: both sides must be of one volume", arg)
		default:
			volume, points = parts[0], append(points, parts[1])
		}
	}
	if volume == "" {
		return diffPoints(cmd, c, points)
	}
	points = append(points, "")
	if points[1] == volume {
		points[1] = ""
	}
	return volume, points[:2], nil
}

// diffPoints is diffArgs for one or two words without a volume. Each can be a prefix of the UUID of a snapshot, or the
// name of a volume. A word that is both is a snapshot.
func diffPoints(cmd *cobra.Command, c cli.Remote, words []string) (volume string, points []string, err error) {
	_, err = c.Snapshot(cmd.Context(), "", words[0])
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return "", nil, err
	}
	for i, word := range words {
		if i == 0 && err == nil {
			continue
		}
		isVolume, volumeErr := volumeExists(cmd.Context(), c, word)
		switch {
		case volumeErr != nil:
			return "", nil, volumeErr
		case !isVolume:
			continue
		case len(words) == 1:
			return "", nil, cli.UsageError(cmd, "%s is a volume: name one of its snapshots, too (drover snapshot ls "+
				"%[1]s lists them)", word)
		}
		return word, []string{words[1-i], ""}, nil
	}
	if len(words) == 1 {
		err = nil // the comparison fails with the same error
	}
	return "", append(words, "")[:2], err
}

// diffForm shows a comparison. The names are those that were typed for its two sides.
func diffForm(d api.Diff, names []string) *cli.Form {
	f := &cli.Form{}
	f.Add("From", side(d.Older, names[0]))
	f.Add("To", side(d.Newer, names[1]))
	changed := dataset.Size(d.Bytes).Human()
	if d.Ranges > 0 { // the result is exact
		changed += fmt.Sprintf(" in %d ranges", d.Ranges)
	}
	f.Add("Changed", changed)
	zeroed := dataset.Size(d.Zeroed).Human()
	if d.Zeroed > 0 {
		zeroed += " (deleted or trimmed)"
	}
	f.Add("Zeroed", zeroed)
	return f
}

// side returns a side of a comparison, with the name that was typed for it.
func side(id, name string) string {
	if name == "" || strings.HasPrefix(id, name) {
		return id
	}
	return name + " (" + id + ")"
}
