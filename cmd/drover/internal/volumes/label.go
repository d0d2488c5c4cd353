package volumes

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
