package stores

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newStoreRecoverCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Bring a cluster's store that went back up to date from what the hosts hold",
		Long: `Bring a cluster's store up to date that went back to an older state, as Consul
does when it is restored from a snapshot. It asks every agent what it holds,
prints by what that differs from the store, and names the nodes that did not
answer; once that is confirmed it writes what agents know to be newer, and ends
the halt that keeps anything from being decided. Cut short, it is run again.

What two nodes claim at once takes a person's word: --fenced NODE says that a
node, which is not alive, writes no more. What it claims is over; a volume that
others know to be on it goes on from a copy: drover volume move --force --fenced.`,
		Example:           "  drover store recover\n  drover store recover --confirm --fenced host-c",
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	var yes bool
	var fenced []string
	cmd.Flags().BoolVar(&yes, "confirm", false, "do not ask: mend what is found")
	cmd.Flags().StringArrayVar(&fenced, "fenced", nil, "a node that writes no more, on your word")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		return recoverStore(cmd.Context(), a, c, o, fenced, yes)
	}
	return cmd
}

func recoverStore(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, fenced []string, yes bool) error {
	found, err := c.Recover(ctx, api.Recover{Fenced: fenced})
	if err != nil {
		return err
	}
	if o.JSON() && (!yes || found.Halted == "") {
		return show.JSON(a.Out, found)
	}
	if found.Halted == "" {
		return a.Say("the store is believed by all: there is nothing to bring up to date")
	}
	if !o.JSON() {
		if err := printRecovery(a, found); err != nil {
			return err
		}
	}
	if !yes && !cli.IsTerminal(a.In) {
		return dataset.Errorf(dataset.ErrCancelled,
			"nothing was changed, as there is no terminal to ask at (--confirm mends what is found)")
	}
	if !yes {
		if err := a.Confirm("yes", "this writes what is above into the store, and has the cluster go on"); err != nil {
			return err
		}
	}
	done, err := c.Recover(ctx, api.Recover{Fenced: fenced, Confirm: found.Digest})
	if err != nil {
		return err
	}
	if o.JSON() {
		return show.JSON(a.Out, done)
	}
	return a.Say("the store is up to date: decisions are made again")
}

// printRecovery prints the changes that a person must confirm.
func printRecovery(a *cli.App, r api.Recovery) error {
	if err := a.Say("%s", r.Halted); err != nil {
		return err
	}
	if err := a.Say("nodes heard: %s", orNone(r.Heard)); err != nil {
		return err
	}
	if err := a.Say("NOT heard, so that what they alone know is not here: %s", orNone(r.Silent)); err != nil {
		return err
	}
	if len(r.Different) == 0 {
		return a.Say("nothing differs")
	}
	t := show.NewTable("VOLUME", "DATASET", "STORE", "AGENTS", "ACTION", "NOTE")
	for _, d := range r.Different {
		t.Row(cli.ShortName(d.Volume), d.Dataset.String()[:8], d.Store, d.Agents, d.Action, d.Note)
	}
	return t.Write(a.Out)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
