package volumes

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// prunable are the kinds of snapshots that prune can delete. The other kinds belong to Drover, or have data that exists
// nowhere else: superseded heads.
var prunable = []string{
	string(dataset.SnapshotManual), string(dataset.SnapshotScheduled), string(dataset.SnapshotRestore),
}

// pruneRules select the snapshots that prune deletes.
type pruneRules struct {
	kind   dataset.SnapshotKind
	before time.Time // only snapshots that were taken before; zero: snapshots of any age
	keep   int       // how many of the newest snapshots of this kind stay in each volume
}

func newSnapshotPruneCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune VOLUME [VOLUME...]",
		Short: "Delete old snapshots of volumes",
		Long: `Delete the snapshots of volumes that are older than AGE. Only snapshots of one
kind are deleted: without --kind those that a person took (manual). Snapshots
that a schedule took (scheduled) are deleted by the retention of the profile,
and those that a restore made (restore) have the replaced data: both are only
deleted if --kind names them. --keep N keeps the newest N snapshots of the kind
in each volume, whatever their age. --keep N without --older-than deletes all
others of the kind. One of the two flags is required.

The command lists the snapshots, and the word prune must be typed to confirm it,
unless --yes is given. A volume or snapshot that cannot be deleted stays, and
the others are deleted.`,
		Example: `  drover snapshot prune db --older-than 30d --dry-run
  drover snapshot prune db --keep 2 --dry-run
  drover snapshot prune db --older-than 7d --kind restore --keep 1`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.CompleteEach(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	yes := cli.AddFlag(cmd)
	var age, kind string
	var keep uint
	f := cmd.Flags()
	f.StringVar(&age, "older-than", "", "delete only what was taken more than `AGE` ago, such as 3d")
	f.StringVar(&kind, "kind", string(dataset.SnapshotManual), "the `KIND` to delete: "+strings.Join(prunable, ", "))
	f.UintVar(&keep, "keep", 0, "keep the newest `N` of the kind in each volume")
	cli.CompleteFlag(cmd, "kind", prunable...)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, volumes []string) error {
		var before time.Time
		switch {
		case age != "":
			d, err := cli.ParseAge(cmd, "older-than", age)
			if err != nil {
				return err
			}
			before = a.Now().Add(-d)
		case keep == 0:
			return cli.UsageError(cmd, "missing flag: --older-than AGE, such as --older-than 30d, or --keep N")
		}
		if !slices.Contains(prunable, kind) {
			return cli.UnknownWord(cmd, "kind", "--kind", kind, prunable)
		}
		rules := pruneRules{kind: dataset.SnapshotKind(kind), before: before, keep: int(min(keep, maxKept))}
		return prune(cmd, a, c, o, yes, volumes, rules)
	})
	return cmd
}

// maxKept bounds --keep, so that it fits in an int. No volume has so many snapshots.
const maxKept = 1 << 30

// prune deletes the snapshots of volumes that match the rules.
func prune(cmd *cobra.Command, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag, volumes []string,
	rules pruneRules) error {
	ctx := cmd.Context()
	var snaps []dataset.Snapshot
	var reqs []api.Request
	names := map[uuid.UUID]string{}
	for _, volume := range volumes {
		v, err := c.Volume(ctx, volume)
		if err != nil {
			return err
		}
		if names[v.ID] != "" { // the volume was named twice
			continue
		}
		names[v.ID] = v.Volume
		all, err := cli.FetchAll(ctx, cli.SnapshotsOf(c, v.ID.String()))
		if err != nil {
			return err
		}
		snaps = append(snaps, rules.choose(v.ID, all)...)
	}
	if len(snaps) == 0 && !o.JSON() {
		if rules.before.IsZero() {
			return a.PrintLine("no volume has more than %d %s snapshots: nothing to delete", rules.keep, rules.kind)
		}
		return a.PrintLine("no %s snapshot is that old: nothing to delete", rules.kind)
	}
	var effects []string
	for _, s := range snaps {
		reqs = append(reqs, api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()})
		effects = append(effects, fmt.Sprintf("deletes snapshot %s of %s for good, taken %s",
			side(s.ID.String(), s.Name), names[s.Dataset], s.Created.In(a.Now().Location()).Format(time.DateTime)))
	}
	if !o.DryRun && len(snaps) > 0 {
		if err := yes.Ask(a, cli.Question{
			Action:  "prune " + cli.Count(len(snaps), string(rules.kind)+" snapshot"),
			Effects: effects, Name: "prune",
		}); err != nil {
			return err
		}
	}
	return submitEach(ctx, a, c, o, reqs, "deleted", func(_ api.Request, out api.Outcome) (uuid.UUID, string) {
		s := takenSnapshot(out)
		verb := "deleted"
		if o.DryRun {
			verb = "would delete"
		}
		return s.ID, fmt.Sprintf("%s snapshot %s of %s", verb, side(s.ID.String(), s.Name), names[s.Dataset])
	})
}

// choose returns those of the snapshots of one dataset that the rules delete, oldest first.
func (r pruneRules) choose(id uuid.UUID, all []dataset.Snapshot) []dataset.Snapshot {
	of := slices.DeleteFunc(slices.Clone(all), func(s dataset.Snapshot) bool {
		return s.Kind != r.kind || s.Dataset != id
	})
	slices.SortStableFunc(of, func(x, y dataset.Snapshot) int { return x.Created.Compare(y.Created) })
	of = of[:max(0, len(of)-r.keep)]
	return slices.DeleteFunc(of, func(s dataset.Snapshot) bool {
		return !r.before.IsZero() && !s.Created.Before(r.before)
	})
}
