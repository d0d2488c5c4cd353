package snapshots

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create VOLUME [NAME]",
		Short: "Take a snapshot of a volume",
		Long: `Take a snapshot of a volume, also while it is in use. It contains the whole
volume at one moment, as a database would find it after a power cut. It is kept
until it is deleted: retention does not apply to it. NAME is unique among the
snapshots of the volume. --name NAME is the same.`,
		Example:           `  drover snapshot create db before-upgrade -m "10.11 to 11.4"`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NoWords),
	}
	o := cli.WorkFlags(cmd, true)
	var name, message string
	cmd.Flags().StringVar(&name, "name", "", "`NAME`, unique among the volume's snapshots")
	cmd.Flags().StringVarP(&message, "message", "m", "", "a message about it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 && name != "" && name != args[1] {
			return cli.UsageError(cmd, "two names for one snapshot: %s, and --name %s (use only one)", args[1], name)
		}
		if len(args) > 1 {
			if err := refuseSecondVolume(cmd, a, args[0], args[1], name); err != nil {
				return err
			}
			name = args[1]
		}
		req := api.Request{Kind: dataset.OpSnapshot, Volume: args[0], Name: name, Message: message}
		err := a.Change(cmd, o, req, describeSnapshot)
		if volume, after, at := strings.Cut(args[0], "@"); at && name == "" && errors.Is(err, dataset.ErrInvalid) {
			err = fmt.Errorf("%w; for a snapshot of that name: drover snapshot create %s %s", err, volume, after)
		}
		return err
	}
	return cmd
}

// refuseSecondVolume fails if the second argument is the name of a volume, and is not the value of --name as well:
// other commands take several volumes.
func refuseSecondVolume(cmd *cobra.Command, a *cli.App, volume, second, name string) error {
	if name == second {
		return nil
	}
	c, err := a.Connect()
	if err != nil {
		return err
	}
	switch _, err := c.Volume(cmd.Context(), second); {
	case err == nil:
		return cli.UsageError(cmd, "%s is a volume: a command takes the snapshot of one volume (for a snapshot of %s "+
			"with this name: drover snapshot create %s --name %s)", second, volume, volume, second)
	case dataset.KindOf(err) == dataset.ErrNotFound, dataset.KindOf(err) == dataset.ErrInvalid:
		return nil
	default:
		return err
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
