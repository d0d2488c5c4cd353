package volumes

import (
	"cmp"
	"context"
	"fmt"
	"strings"

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
		return submitEach(cmd.Context(), a, c, o, reqs, "deleted", func(req api.Request, out api.Outcome) (uuid.UUID,
			string) {
			s := takenSnapshot(out)
			s.Volume = cmp.Or(req.Volume, s.Volume) // a record has the name that the volume had at the snapshot
			if o.DryRun {
				return s.ID, fmt.Sprintf("would delete snapshot %s of %s for good%s", side(s.ID.String(), s.Name),
					s.Volume, freedSpace(cmd.Context(), a, s.ID))
			}
			return s.ID, fmt.Sprintf("deleted snapshot %s of %s", side(s.ID.String(), s.Name), s.Volume)
		})
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
