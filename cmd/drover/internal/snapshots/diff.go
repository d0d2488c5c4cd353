package snapshots

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotDiffCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [VOLUME] A [B]",
		Short: "Show how much changed between two snapshots, or since one",
		Long: `Show how much changed between two snapshots, or since one. A is the older
snapshot, and B the newer one; without B, A is compared with the current data.
A and B are unique prefixes of UUIDs or, with a volume, names.`,
		Example: `  drover snapshot diff db before-upgrade
  drover snapshot diff f23ca986 4be1c07d`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.CloneSourceWords, cli.DiffWords, cli.DiffWords),
	}
	o := cli.OutputFlags(cmd, false)
	volume := volumeFlag(a, cmd)
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
		return cli.PrintObject(a, o, d, func(d api.Diff) *show.Form { return diffForm(d, named) })
	})
	return cmd
}

// diffArgs parses [VOLUME] A [B]. Without the flag, the first of two arguments can be a snapshot or a volume. It is a
// snapshot if a snapshot has that UUID. Otherwise it is the volume with that name. If neither exists, diffArgs fails.
func diffArgs(cmd *cobra.Command, c cli.Remote, flag string, args []string) (volume string, points []string,
	err error) {
	if flag == "" && len(args) == 1 {
		args = splitName(args)
		if len(args) == 2 {
			return args[0], []string{args[1], ""}, nil
		}
	}
	first := 0
	switch {
	case len(args) == 3 && flag != "":
		return "", nil, cli.UsageError(cmd, "duplicate volume: %q, and --volume %s", args[0], flag)
	case len(args) == 3:
		first = 1
	case len(args) == 2 && flag == "":
		_, err := c.Snapshot(cmd.Context(), "", args[0])
		if errors.Is(err, dataset.ErrNotFound) {
			if _, volumeErr := c.Volume(cmd.Context(), args[0]); volumeErr == nil {
				first, err = 1, nil
			}
		}
		if err != nil {
			return "", nil, err
		}
	}
	volume, points = flag, append(points, args[first:]...)
	if first == 1 {
		volume = args[0]
	}
	return volume, append(points, "")[:2], nil
}

// diffForm shows a comparison. The names are those that were typed for its two sides.
func diffForm(d api.Diff, names []string) *show.Form {
	f := &show.Form{}
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
