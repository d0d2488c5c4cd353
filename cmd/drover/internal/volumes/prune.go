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

// pruneFlags are the flags of drover snapshot rm that choose snapshots by a rule.
type pruneFlags struct {
	age, kind string
	keep      uint
}

func (p *pruneFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.age, "older-than", "", "delete what was taken more than `AGE` ago, such as 3d")
	f.StringVar(&p.kind, "kind", string(dataset.SnapshotManual),
		"with a rule, the `KIND` to delete: "+strings.Join(prunable, ", "))
	f.UintVar(&p.keep, "keep", 0, "delete all but the newest `N` of the kind in each volume")
	cli.CompleteFlag(cmd, "kind", prunable...)
}

// given reports whether the command has one of the flags, so that its arguments are volumes.
func (p *pruneFlags) given(cmd *cobra.Command) bool {
	f := cmd.Flags()
	return f.Changed("older-than") || f.Changed("keep") || f.Changed("kind")
}

func (p *pruneFlags) rules(cmd *cobra.Command, now time.Time) (rules pruneRules, err error) {
	switch {
	case p.age != "":
		d, err := cli.ParseAge(cmd, "older-than", p.age)
		if err != nil {
			return rules, err
		}
		rules.before = now.Add(-d)
	case p.keep == 0:
		return rules, cli.UsageError(cmd, "missing flag: --older-than AGE, such as --older-than 30d, or --keep N")
	}
	if !slices.Contains(prunable, p.kind) {
		return rules, cli.UnknownWord(cmd, "kind", "--kind", p.kind, prunable)
	}
	rules.kind, rules.keep = dataset.SnapshotKind(p.kind), int(min(p.keep, maxKept))
	return rules, nil
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
