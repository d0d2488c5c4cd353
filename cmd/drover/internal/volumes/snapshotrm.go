package volumes

import (
	"cmp"
	"context"
	"errors"
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

func newSnapshotRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "rm [VOLUME] SNAPSHOT [SNAPSHOT...]",
		Aliases:    []string{"remove", "delete"},
		SuggestFor: []string{"destroy", "forget", "prune"},
		Short:      "Delete snapshots",
		Long: `Delete snapshots. SNAPSHOT is a unique prefix of its UUID, VOLUME@NAME or, after
the volume, its name. If some of several snapshots cannot be deleted, the others
are, and -o json prints a list.

With --older-than, --keep or both, the arguments are volumes, and their old
snapshots are deleted. --keep N keeps the newest N in each volume, whatever
their age. Only snapshots of one kind are deleted: without --kind those that a
person took (manual). Snapshots that a schedule took (scheduled) are deleted by
the retention of the profile, and those that a restore made (restore) have the
replaced data: both are only deleted if --kind names them. The command lists the
snapshots, and the word prune must be typed to confirm it, unless --yes is
given.`,
		Example: `  drover snapshot rm db before-upgrade
  drover snapshot rm db monday tuesday
  drover snapshot rm db@monday web@monday
  drover snapshot rm db web --older-than 30d --keep 2 --dry-run`,
		Args:              cli.Args(1),
		ValidArgsFunction: completeRm(a),
	}
	o := cli.WorkFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	volume := volumeFlag(cmd)
	var byRule pruneFlags
	byRule.add(cmd)
	yes := cli.AddFlag(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		if byRule.given(cmd) {
			rules, err := byRule.rules(cmd, a.Now())
			if err != nil {
				return err
			}
			return prune(cmd, a, c, o, yes, args, rules)
		}
		refs, err := snapshotRefs(cmd.Context(), cmd, c, *volume, args)
		if err != nil {
			return err
		}
		var reqs []api.Request
		for _, r := range refs {
			reqs = append(reqs, api.Request{Kind: dataset.OpSnapshotDelete, Volume: r.volume, Snapshot: r.snapshot})
		}
		describe := func(req api.Request, out api.Outcome) (uuid.UUID, string) {
			s := takenSnapshot(out)
			s.Volume = cmp.Or(req.Volume, s.Volume) // a record has the name that the volume had at the snapshot
			if o.DryRun {
				return s.ID, fmt.Sprintf("would delete snapshot %s of %s for good%s", side(s.ID.String(), s.Name),
					s.Volume, freedSpace(cmd.Context(), a, s.ID))
			}
			return s.ID, fmt.Sprintf("deleted snapshot %s of %s", side(s.ID.String(), s.Name), s.Volume)
		}
		return submitSnapshots(cmd.Context(), a, c, o, reqs, "deleted", describe)
	})
	return cmd
}

// completeRm completes a volume or a snapshot, and then any number of snapshots of the volume.
func completeRm(a *cli.App) cobra.CompletionFunc {
	complete := cli.Complete(a, cli.VolumeWords, cli.SnapshotWords)
	return func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		return complete(cmd, given[:min(1, len(given))], begun)
	}
}

// A snapshotRef names a snapshot as a request does. volume is empty if snapshot is a prefix of its UUID.
type snapshotRef struct{ volume, snapshot string }

// snapshotRefs parses [VOLUME] SNAPSHOT [SNAPSHOT...], where each SNAPSHOT may be VOLUME@NAME if no volume precedes it.
// The first of several arguments is the volume, unless all of them are prefixes of UUIDs of snapshots: a mistyped name
// of a volume must not turn the names of its snapshots into prefixes that match snapshots of another volume.
func snapshotRefs(ctx context.Context, cmd *cobra.Command, c cli.Remote, flag string, args []string) (
	refs []snapshotRef, err error) {
	volume := flag
	if len(args) > 1 && len(splitName(args[:1])) == 1 {
		isVolume, err := volumeExists(ctx, c, args[0])
		if err != nil {
			return nil, err
		}
		if isVolume && flag != "" {
			return nil, cli.UsageError(cmd, "duplicate volume: %q, and --volume %s", args[0], flag)
		}
		onlyIDs := false
		if !isVolume && flag == "" {
			if onlyIDs, err = areSnapshotIDs(ctx, c, args); err != nil {
				return nil, err
			}
		}
		if flag == "" && !onlyIDs {
			volume, args = args[0], args[1:]
		}
	}
	previous := "" // the volume of the last VOLUME@NAME
	for _, arg := range args {
		parts := splitName([]string{arg})
		switch {
		case len(parts) == 1:
			refs = append(refs, snapshotRef{cmp.Or(volume, previous), arg})
		case volume == "" || volume == parts[0]:
			previous = parts[0]
			refs = append(refs, snapshotRef{parts[0], parts[1]})
		default:
			return nil, cli.UsageError(cmd, "two volumes for one snapshot: %s, and %s", volume, arg)
		}
	}
	return refs, nil
}

// minListedPrefix is the minimum length of the prefixes of UUIDs in a list without a volume. It is that of the first
// group of a UUID, so that a date or a short word is hardly ever taken for one.
const minListedPrefix = 8

// areSnapshotIDs reports whether all words are prefixes of UUIDs, each of one snapshot.
func areSnapshotIDs(ctx context.Context, c cli.Remote, words []string) (bool, error) {
	for _, word := range words {
		if len(word) < minListedPrefix || dataset.CheckPrefix(strings.ToLower(word)) != nil {
			return false, nil
		}
		_, err := c.Snapshot(ctx, "", word)
		switch kind := dataset.KindOf(err); {
		case err == nil:
		case kind == dataset.ErrNotFound || kind == dataset.ErrInvalid || kind == dataset.ErrAmbiguous:
			return false, nil
		default:
			return false, err
		}
	}
	return true, nil
}

// freedSpace returns a clause about the space that the deletion of a snapshot frees. Only the host with the pool can
// know it.
func freedSpace(ctx context.Context, a *cli.App, id uuid.UUID) string {
	const unknown = "; how much space that frees is not known here"
	c, err := a.Connect()
	if err != nil {
		return unknown
	}
	space, err := c.SnapshotSpace(ctx, id.String())
	if err != nil {
		return unknown
	}
	return ", which frees " + space.Unique.Human()
}

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
	return submitSnapshots(ctx, a, c, o, reqs, "deleted", func(_ api.Request, out api.Outcome) (uuid.UUID, string) {
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

func newSnapshotRestoreCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "restore VOLUME SNAPSHOT",
		SuggestFor: []string{"rollback", "revert"},
		Short:      "Restore a volume to one of its snapshots",
		Long: `Restore a volume to one of its snapshots. The volume must not be in use. Its
current data is saved as a snapshot first, and newer snapshots stay, so the
restore can be undone. VOLUME@SNAPSHOT is accepted as well.`,
		Example: `  drover snapshot restore db before-upgrade`,
		Args: func(cmd *cobra.Command, args []string) error {
			return cli.Args(2)(cmd, splitName(args))
		},
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.SnapshotWords),
	}
	o := cli.WorkFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		args = splitName(args)
		req := api.Request{Kind: dataset.OpRestore, Volume: args[0], Snapshot: args[1]}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, fmt.Sprintf("would restore volume %s to snapshot %s, and keep its present data as a "+
					"snapshot", d.Volume, args[1])
			}
			line := "restored volume " + d.Volume
			if out.Operation != nil && out.Operation.Source != nil {
				line += " to snapshot " + side(out.Operation.Source.Snapshot.String(), args[1])
			}
			if snapshot := takenSnapshot(out); snapshot.ID != uuid.Nil {
				line += fmt.Sprintf("; its previous data is snapshot %s", snapshot.ID)
			}
			return d.ID, line
		})
	}
	return cmd
}

// submitEach submits a request for each item, one after the other, and prints the outcomes. Without several, it returns
// the error of the only item. Otherwise, if a request fails, it prints the error and continues with the next item, and
// -o json prints a list. After an interrupt it stops. failure says what is wrong with the items whose request failed,
// such as "snapshots were not deleted".
func submitEach[T any](ctx context.Context, a *cli.App, o *cli.Output, several bool, items []T, failure string,
	submit func(T) (api.Outcome, error), describe func(T, api.Outcome) (uuid.UUID, string)) error {
	var outs []api.Outcome
	failed := 0
	for _, item := range items {
		out, err := submit(item)
		if err != nil && !several {
			return err
		}
		if errors.Is(err, dataset.ErrCancelled) {
			return a.ReportInterrupt(o, outs, out, err)
		}
		if err != nil {
			failed++
			a.PrintError(ctx, err)
			continue
		}
		if outs = append(outs, out); o.JSON() && several {
			continue
		}
		err = a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) { return describe(item, out) })
		if err != nil {
			return err
		}
	}
	if o.JSON() && several {
		if err := cli.JSONList(a.Out, outs); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d %s", failed, len(items), failure)
	}
	return nil
}

// submitSnapshots sends requests about snapshots: see submitEach.
func submitSnapshots(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, reqs []api.Request, done string,
	describe func(api.Request, api.Outcome) (uuid.UUID, string)) error {
	submit := func(req api.Request) (api.Outcome, error) { return a.Submit(ctx, c, o, req) }
	return submitEach(ctx, a, o, len(reqs) > 1, reqs, "snapshots were not "+done, submit, describe)
}
