package volumes

import (
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

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
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		volume, id, err := snapshotArgs(cmd, *volume, args)
		if err != nil {
			return err
		}
		c, err := a.Connect()
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
	}
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
