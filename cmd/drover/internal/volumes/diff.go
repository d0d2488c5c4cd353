package volumes

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
