package volumes

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeResizeCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resize NAME SIZE",
		Short: "Change a volume's size",
		Long: `Change the size of a volume, also while it is in use. K, M, G, T and KiB … are
binary, KB … decimal. Not every backend can shrink a volume.`,
		Example:           `  drover volume resize db 50GiB`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NoWords),
	}
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := dataset.ParseSize(args[1]); err != nil {
			return err
		}
		req := api.Request{Kind: dataset.OpResize, Volume: args[0], Size: args[1]}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s has %s%s", d.Volume, d.Size.Readable(d.Profile.Size),
				unchangedNote(out))
		})
	}
	return cmd
}

// unchangedNote is the end of a line about a volume that needed no change.
func unchangedNote(out api.Outcome) string {
	if out.Operation == nil {
		return " already"
	}
	return " now"
}
