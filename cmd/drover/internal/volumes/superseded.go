package volumes

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeSupersededCmd(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "superseded",
		Short: "Look at heads that were overtaken, and let go of them",
		Long: `Look at heads that were overtaken, and let go of them. When a volume goes on at
another node without its home (volume move --force --fenced), what that had is
kept there aside: it is never merged, and never dropped by itself. mount shows
what it has, discard lets go of it.`,
	},
		newVolumeSupersededLsCmd(a), newVolumeSupersededMountCmd(a), newVolumeSupersededDiscardCmd(a),
	)
}

// overtaken is a superseded copy with the volume that it is of.
type overtaken struct {
	api.KeptCopy
	Volume string `json:"volume"`
}

func newVolumeSupersededLsCmd(a *cli.App) *cobra.Command {
	return cli.NewListCommand(a, cli.Listing[overtaken]{
		Short: "List the heads that were overtaken",
		Fetch: func(ctx context.Context, c cli.Remote) ([]overtaken, error) {
			live, err := cli.FetchAll(ctx, c.Volumes)
			if err != nil {
				return nil, err
			}
			trashed, err := cli.FetchAll(ctx, c.Trash)
			return overtakenOf(append(live, trashed...)), err
		},
		ID:    func(o overtaken) string { return o.Dataset.String() },
		Table: func(list []overtaken) *show.Table { return supersededTable(a, list) },
	})
}

func overtakenOf(volumes []api.Volume) (out []overtaken) {
	for _, v := range volumes {
		for _, k := range v.Kept {
			if k.Kind == dataset.CopySuperseded {
				out = append(out, overtaken{KeptCopy: k, Volume: v.Volume})
			}
		}
	}
	return out
}

func supersededTable(a *cli.App, list []overtaken) *show.Table {
	t := show.NewTable("VOLUME", "DATASET", "NODE", "EPOCH", "SNAPSHOT", "KEPT SINCE", "MOUNTED AT")
	for _, o := range list {
		kept, snapshot := "not yet: it is in use, or its node is away", ""
		if o.Snapshot != uuid.Nil {
			kept, snapshot = show.Ago(a.Now(), o.Taken), o.Snapshot.String()
		}
		t.Row(cli.ShortName(o.Volume), o.Dataset.String(), o.NodeName, fmt.Sprint(o.Epoch), snapshot, kept,
			cmp.Or(o.Path, o.Problem))
	}
	return t
}

func newVolumeSupersededDiscardCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "discard NAME [NODE]",
		Short: "Destroy a head that was overtaken",
		Long: `Destroy a head that was overtaken, on your word with --confirmed. It is gone
for good: look at what it has first, with drover volume superseded mount.`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	var confirmed bool
	cmd.Flags().BoolVar(&confirmed, "confirmed", false, "what it has is wanted by nobody any more")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !confirmed {
			return dataset.Errorf(dataset.ErrInvalid,
				"discard of the head of volume %s that was overtaken: say --confirmed once you know that "+
					"nobody wants what it has, which is gone for good then (drover volume superseded mount "+
					"%s shows it)", args[0], strings.Join(args, " "))
		}
		req := api.Request{Kind: dataset.OpDiscard, Volume: args[0]}
		if len(args) > 1 {
			req.Node = args[1]
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("the head of volume %s that was overtaken is let go of: its node destroys it",
				d.Volume)
		})
	}
	return cmd
}
