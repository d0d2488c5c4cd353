package volumes

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
		return submitEach(cmd.Context(), a, c, o, reqs, "taken", describe)
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

// volumeExists reports whether a volume has a name.
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

// takenSnapshot returns the snapshot that an outcome is about.
func takenSnapshot(out api.Outcome) dataset.Snapshot {
	if out.Operation == nil || out.Operation.Snapshot == nil {
		return dataset.Snapshot{}
	}
	return *out.Operation.Snapshot
}
