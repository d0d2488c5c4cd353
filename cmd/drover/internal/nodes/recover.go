package nodes

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newStoreRecoverCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Update a store that lost records or was restored from a backup",
		Long: `With --from-pools, restore the records that the store lost from the pools of the
server's host. Every dataset has a copy of its record beside its data. Existing
records are not changed, unless the record beside the data is newer, and a name
that is taken stays with its volume. What is in the trash gets its whole time
again. --dry-run shows the outcome for each dataset.

Without it, update a cluster's store that was restored from a backup, such as a
snapshot of Consul, with what the agents know. The command asks every agent for
its records, prints the differences to the store, and names the nodes that did
not respond. After a confirmation (type recover, or use --yes) it writes the
newer records into the store, and resumes decisions. If it is interrupted, run
it again. A dry run asks no agent: it uses the records that were collected
within the last hour, by a run that was not confirmed. With -o json, the command
never asks: without --yes it prints the differences, writes nothing and fails.

If two nodes claim the same volume, an operator must decide: --fenced NODE
confirms that a node, which must not be alive, writes no more. Its claims end.
If other nodes know that a volume was there, it can continue from a copy: drover
volume move --force --fenced.`,
		Example: "  drover store recover --from-pools --dry-run\n  drover store recover\n" +
			"  drover store recover --yes --fenced host-c",
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, true)
	yes := cli.AddFlag(cmd)
	var in api.Recover
	var fromPools bool
	var rebuild api.RebuildStore
	cmd.Flags().BoolVar(&fromPools, "from-pools", false, "restore lost records from the pools of the server's host")
	cmd.Flags().BoolVar(&rebuild.SkipOffline, "skip-offline", false,
		"with --from-pools: ignore offline pools; the names of their volumes can then be taken by others")
	cmd.Flags().StringArrayVar(&in.FencedNodes, "fenced", nil, "confirm that this `NODE` is fenced and writes no more")
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		in.DryRun, rebuild.DryRun = o.DryRun, o.DryRun
		switch {
		case fromPools && len(in.FencedNodes) > 0:
			return cli.UsageError(cmd, "--fenced is for a recovery without --from-pools")
		case fromPools:
			return rebuildStore(cmd.Context(), a, c, o, rebuild)
		case rebuild.SkipOffline:
			return cli.UsageError(cmd, "--skip-offline requires --from-pools")
		}
		return recoverStore(cmd.Context(), a, c, o, in, yes)
	})
	return cmd
}

func recoverStore(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, in api.Recover,
	yes *cli.Flag) error {
	found, err := c.Recover(ctx, in)
	if err != nil {
		return err
	}
	if o.JSON() && (!yes.Given() || o.DryRun || found.Halted == "") {
		if err := cli.JSON(a.Out, found); err != nil || o.DryRun || found.Halted == "" {
			return err
		}
		return dataset.Errorf(dataset.ErrInvalid, "nothing was changed: store recover with -o json does not ask, and "+
			"writes only with --yes (--dry-run prints the same without this error)")
	}
	if found.Halted == "" {
		return a.PrintLine("the store is consistent: nothing to update")
	}
	if !o.JSON() {
		if err := printRecovery(a, found); err != nil {
			return err
		}
	}
	if o.DryRun {
		return a.PrintLine("dry run: would write these differences into the store, and resume decisions")
	}
	if err := yes.Ask(a, recoverQuestion(found)); err != nil {
		return err
	}
	in.Digest = found.Digest
	done, err := c.Recover(ctx, in)
	if err != nil {
		return err
	}
	if o.JSON() {
		return cli.JSON(a.Out, done)
	}
	return a.PrintLine("the store is up to date: decisions resume")
}

// RecoverWord is the word that an operator types to confirm a recovery.
const RecoverWord = "recover"

// recoverQuestion says how many records a recovery changes, and which nodes did not respond.
func recoverQuestion(r api.Recovery) cli.Question {
	q := cli.Question{Action: "recover the store", Name: RecoverWord, Effects: []string{
		"writes " + cli.Count(len(r.Differences), "difference") + " into the store and resumes decisions",
	}}
	if len(r.SilentNodes) > 0 {
		q.Effects = append(q.Effects, "the records of nodes that did not respond are missing: "+
			strings.Join(r.SilentNodes, ", "))
	}
	return q
}

// printRecovery prints the changes that a person must confirm.
func printRecovery(a *cli.App, r api.Recovery) error {
	if err := a.PrintLine("%s", r.Halted); err != nil {
		return err
	}
	if err := a.PrintLine("nodes that responded: %s", orNone(r.ReportedNodes)); err != nil {
		return err
	}
	err := a.PrintLine("nodes that did NOT respond, so that their records are missing: %s", orNone(r.SilentNodes))
	if err != nil {
		return err
	}
	if len(r.Differences) == 0 {
		return a.PrintLine("no differences")
	}
	t := cli.NewTable("VOLUME", "DATASET", "STORE", "AGENTS", "ACTION", "NOTE")
	for _, d := range r.Differences {
		t.Row(cli.ShortName(d.Volume), d.Dataset.String()[:8], d.InStore, d.OnAgents, string(d.Action), d.Note)
	}
	return t.Write(a.Out)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
