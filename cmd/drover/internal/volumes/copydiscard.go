package volumes

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newCopyDiscardCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "discard NAME [NODE]",
		Aliases: []string{"rm", "remove", "delete"},
		Short:   "Destroy a superseded copy",
		Long: `Destroy a superseded copy for good. Check its data first with
drover copy mount. The command shows what is lost, and the name of
the volume must be typed to confirm it, unless --yes is given.`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	yes := cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpDiscard, Volume: args[0]}
		if len(args) > 1 {
			req.Node = args[1]
		}
		req, err := confirmDiscard(cmd.Context(), a, o, yes, req)
		if err != nil {
			return err
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, fmt.Sprintf("would destroy the superseded copy of volume %s for good", d.Volume)
			}
			return d.ID, fmt.Sprintf("discarded the superseded copy of volume %s: its node destroys it",
				d.Volume)
		})
	}
	return cmd
}

// confirmDiscard asks for a confirmation, and names the superseded copies that a request can destroy. It returns the
// request with UUIDs instead of names, because other volumes or nodes may have got the names since. The request gets
// the UUID of the dataset if the volume or exactly one copy is found, and that of the node if exactly one copy is
// found.
func confirmDiscard(ctx context.Context, a *cli.App, o *cli.Output, yes *cli.Flag, req api.Request) (
	confirmed api.Request, err error) {
	confirmed = req
	if yes.Given() || o.DryRun {
		return confirmed, nil
	}
	c, err := a.Connect()
	if err != nil {
		return confirmed, err
	}
	if err := a.CheckAllowed(ctx, c, o, req); err != nil {
		return confirmed, err
	}
	ref := req.Volume
	switch v, err := c.Volume(ctx, ref); { // the reference can be an alias, or NAME@PROFILE
	case err == nil:
		req.Volume, ref = v.Volume, v.ID.String()
		confirmed.Volume = ref
	case dataset.KindOf(err) != dataset.ErrNotFound: // a dataset in the trash is found by the lists below
		return confirmed, err
	}
	copies, err := fetchCopies(ctx, a, c, nil)
	if err != nil {
		return confirmed, err
	}
	q := cli.Question{Action: "discard the superseded copy of volume " + req.Volume, Name: req.Volume}
	var found []volumeCopy
	for _, k := range copies {
		ofVolume := k.Volume == ref || strings.HasPrefix(k.Dataset.String(), strings.ToLower(ref))
		onNode := req.Node == "" || k.NodeName == req.Node ||
			strings.HasPrefix(k.Node.String(), strings.ToLower(req.Node))
		if k.Kind != dataset.CopySuperseded || !ofVolume || !onNode {
			continue
		}
		found = append(found, k)
		q.Effects = append(q.Effects, fmt.Sprintf("destroys the data of epoch %d on node %s for good; no other node "+
			"has what was written there last", k.Epoch, k.NodeName))
	}
	switch len(found) {
	case 0: // the copy was reported just now
		q.Effects = append(q.Effects, "destroys the data of the copy for good")
	case 1:
		confirmed.Volume, confirmed.Node = found[0].Dataset.String(), found[0].Node.String()
	}
	q.Effects = append(q.Effects, "drover copy mount "+req.Volume+" shows the data")
	return confirmed, yes.Ask(a, q)
}
