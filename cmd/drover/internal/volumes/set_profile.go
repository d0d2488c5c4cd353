package volumes

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeSetProfileCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "set-profile NAME PROFILE",
		SuggestFor: []string{"set", "update", "edit"},
		Short:      "Change a volume's profile, or update it to the newest revision",
		Long: `Change the profile of a volume, or update it to the newest revision. A profile
is frozen into a volume when the volume is created; editing the file changes no
existing volume. The volume also gets the size of the profile. It shrinks only
for another profile, if the pool can shrink volumes, and the command fails if it
contains too much data. Otherwise the size stays, and the command says so.

If the profile has more replicas, the other nodes copy the data in the
background, while the volume is in use. Until the replicas are complete, drover
volume inspect and drover status report the volume as degraded. If the profile
has fewer replicas, those that are not needed are destroyed, and the name of the
volume must be typed to confirm it, unless --yes is given.

The filesystem and the encryption of existing data cannot change, so a profile
with others is refused. To copy the data into a new volume with the profile:
drover volume export NAME | drover volume import NEW@PROFILE --from -

The failover of the profile applies at once, also while the volume is in use.
For failover auto, the home of the volume must be reachable, and its guard must
be able to fence the volume. Failover and size cannot change at once.`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.ProfileWords),
	}
	o := cli.WorkFlags(cmd, false)
	cli.DryRunFlag(cmd, o)
	yes := cli.AddFlag(cmd)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		req := api.Request{Kind: dataset.OpUpdate, Volume: args[0], Profile: args[1]}
		confirmed, err := confirmFewerReplicas(cmd.Context(), a, c, o, yes, req)
		if err != nil {
			return err
		}
		if confirmed != uuid.Nil { // another volume may have got the name since
			req.Volume = confirmed.String()
		}
		out, err := a.Submit(cmd.Context(), c, o, req)
		if err != nil {
			return err
		}
		return a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) {
			if o.DryRun {
				d := cli.MadeDataset(out)
				return d.ID, wouldSetProfile(out, d) + wouldKeepSize(cmd.Context(), c, out) + wouldDestroyReplicas(out)
			}
			d := cli.MadeDataset(out)
			line := fmt.Sprintf("volume %s has profile %s@%s%s", d.Volume, d.Profile.Name, d.Profile.Revision,
				unchangedNote(out))
			if out.Operation != nil && out.Operation.Kind == dataset.OpResize {
				line += "; its size is " + d.Size.Readable()
			}
			// The change has succeeded, whether or not its profile can be read.
			if p, err := c.Profile(cmd.Context(), d.Profile.Name); err == nil {
				line += explainSize(cmd.Context(), c, d, p)
			}
			return d.ID, line + explainReplicas(out)
		})
	})
	return cmd
}

// wouldSetProfile says what a change of the profile would do. d is the present dataset.
func wouldSetProfile(out api.Outcome, d dataset.Dataset) string {
	if out.Operation == nil || out.Operation.DatasetRecord == nil {
		return fmt.Sprintf("nothing to do: volume %s has profile %s@%s already", d.Volume, d.Profile.Name,
			d.Profile.Revision)
	}
	next := out.Operation.DatasetRecord
	line := fmt.Sprintf("would give volume %s profile %s@%s", d.Volume, next.Profile.Name, next.Profile.Revision)
	if next.Size != d.Size {
		line += ", and size " + next.Size.Readable()
	}
	return line
}

// wouldKeepSize is explainSize for the outcome of a dry run.
func wouldKeepSize(ctx context.Context, c cli.Remote, out api.Outcome) string {
	if out.Operation == nil || out.Operation.DatasetRecord == nil {
		return ""
	}
	next := out.Operation.DatasetRecord
	p, err := c.Profile(ctx, next.Profile.Name)
	if err != nil { // the change does not depend on it
		return ""
	}
	return explainSize(ctx, c, *next, p)
}

// confirmFewerReplicas asks for a confirmation if the profile has fewer replicas than the volume, so that complete
// replicas are destroyed. It returns the UUID of the dataset that the user confirmed, or uuid.Nil if it did not ask.
func confirmFewerReplicas(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag,
	req api.Request) (confirmed uuid.UUID, err error) {
	if yes.Given() || o.DryRun {
		return uuid.Nil, nil
	}
	v, err := c.Volume(ctx, req.Volume)
	p, perr := c.Profile(ctx, req.Profile)
	if err != nil || perr != nil { // the server refuses the change, and its error says why
		return uuid.Nil, nil
	}
	effects := replicaEffects(v, p)
	if len(effects) == 0 {
		return uuid.Nil, nil
	}
	if err := a.CheckAllowed(ctx, c, o, req); err != nil {
		return uuid.Nil, err
	}
	return v.ID, yes.Ask(a, cli.Question{
		Action:  fmt.Sprintf("give volume %s profile %s", v.Volume, p.Name),
		Effects: effects,
		Name:    v.Volume,
	})
}

// replicaEffects says which complete replicas a volume loses if it gets a profile with fewer replicas. It returns nil
// if it keeps them all.
func replicaEffects(v api.Volume, p dataset.Profile) []string {
	nodes, keep := copyNodes(v.CopyDetails, IsWholeReplica), p.Replicas.Count
	switch {
	case keep >= v.Profile.Replicas.Count || len(nodes) <= keep:
		return nil
	case keep > 0:
		return []string{fmt.Sprintf("keeps %s of its %s, and destroys the others", cli.Count(keep, "replica"),
			onNodes("replica", "replicas", nodes))}
	}
	return []string{"destroys its " + onNodes("replica", "replicas", nodes),
		fmt.Sprintf("its data is then only on node %s, and is lost with that node", v.Node)}
}

// wouldDestroyReplicas is replicaEffects for the outcome of a dry run, as the end of a line.
func wouldDestroyReplicas(out api.Outcome) string {
	if out.Operation == nil || out.Operation.DatasetRecord == nil || out.Volume == nil {
		return ""
	}
	effects := replicaEffects(*out.Volume, out.Operation.DatasetRecord.Profile)
	if len(effects) == 0 {
		return ""
	}
	return "; " + strings.Join(effects, "; ")
}

// explainReplicas says which copies are built or destroyed in the background after a change of the profile.
func explainReplicas(out api.Outcome) string {
	if out.Volume == nil {
		return ""
	}
	text := ""
	if building := DescribeBuilding(out.Volume.CopyDetails); building != "" {
		text = ";" + strings.TrimPrefix(building, ",") + " in the background"
	}
	condemned := func(k api.CopyDetail) bool { return k.Kind == dataset.CopyCondemned }
	if nodes := copyNodes(out.Volume.CopyDetails, condemned); len(nodes) > 0 {
		text += "; destroying the " + onNodes("copy", "copies", nodes) + " in the background"
	}
	return text
}

// explainSize returns why a volume is larger than new ones of its profile, and the command that makes it smaller, or ""
// if it is not larger. A pool that cannot shrink volumes is named, with the way to a smaller copy.
func explainSize(ctx context.Context, c cli.Remote, d dataset.Dataset, p dataset.Profile) string {
	size, want := d.Size.Readable(), p.Size.Readable()
	switch {
	case d.Size == 0 || p.Size >= d.Size:
		return ""
	case p.Size == 0:
		return fmt.Sprintf("; its size stays %s, because the profile has none", size)
	}
	pools, err := c.Pools(ctx)
	i := slices.IndexFunc(pools, func(pool api.Pool) bool { return pool.ID == d.Pool })
	switch {
	case err != nil || i < 0:
		return fmt.Sprintf("; its size stays %s and not %s (drover volume resize %s %s changes it, if its pool can "+
			"shrink volumes)", size, want, d.Volume, want)
	case !pools[i].Capabilities.Shrink:
		return fmt.Sprintf("; its size stays %s and not %s, because pool %s cannot shrink volumes (drover volume "+
			"export %s | drover volume import NEW@%s --from - creates a smaller copy)", size, want, pools[i].Name,
			d.Volume, d.Profile.Name)
	}
	return fmt.Sprintf("; its size stays %s and not %s (drover volume resize %s %s changes it)", size, want, d.Volume,
		want)
}
