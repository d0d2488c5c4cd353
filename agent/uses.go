package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/plugin"
)

// usesOf lists the uses of a dataset for people, in the order of their IDs.
func (a *Agent) usesOf(r mounting.Record) []dataset.Mount {
	out := make([]dataset.Mount, 0, len(r.IDs))
	for _, id := range r.SortedIDs() {
		c := r.IDs[id]
		out = append(out, dataset.Mount{
			ID:         id,
			Count:      c.Count,
			Since:      c.Since,
			Tool:       string(c.ToolOf(id)),
			Unverified: c.Ended || a.engines.HasEnded(id, c.Generation),
		})
	}
	return out
}

// unuse ends one use of an ID, durably, and reports whether it was the dataset's last one. An unknown ID
// changes nothing. If Podman stops waiting before the end is recorded, its use stays, because Podman also
// keeps its count of the uses unless it receives an answer without an error.
func (a *Agent) unuse(ctx context.Context, d dataset.Dataset, id string) (last bool, err error) {
	unlock, err := a.Locks.Lock(ctx, d.ID, "unmount of volume "+d.Volume)
	if err != nil {
		return false, err
	}
	defer unlock()
	before, r := a.uses.Get(d.ID), a.uses.Get(d.ID)
	if !a.endUse(ctx, d, &r, id) {
		return false, nil
	}
	if err := a.saveUses(ctx, d, r); err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil && id == mounting.PodmanID {
		return false, errors.Join(fmt.Errorf("unmount of volume %s: %w", d.Volume, err), a.saveUses(ctx, d, before))
	}
	steps.At("unmount.recorded")
	a.News.Changed(d.ID)
	a.yieldIfAsked(d.ID)
	return len(r.IDs) == 0, nil
}

// saveUses saves a record even if ctx has ended: an Unmount that was received must not be forgotten.
func (a *Agent) saveUses(ctx context.Context, d dataset.Dataset, r mounting.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.uses.Save(ctx, d, r, nil); err != nil {
		return fmt.Errorf("unmount of volume %s: %w", d.Volume, err)
	}
	return nil
}

// endUse applies an Unmount of an ID to a record and reports whether the record changed. It looks at the
// host unless mayEndWithoutLook allows an end without that. The dataset's lock is held.
func (a *Agent) endUse(ctx context.Context, d dataset.Dataset, r *mounting.Record, id string) (changed bool) {
	c, ok := r.IDs[id]
	switch {
	case !ok:
		return false
	case c.Count > 1:
		c.Count--
		r.IDs[id] = c
		return true
	case a.mayEndWithoutLook(*r, id):
		delete(r.IDs, id)
		return true
	}
	held := a.unexplainedMount(ctx, d, r.ExpectedMounts(id))
	if held == "" {
		delete(r.IDs, id)
		return true
	}
	a.verifyBy(a.Clock.Steady())
	if c.Ended {
		return false
	}
	const stays = "the engine unmounted the volume, but it stays mounted as long as a process has it: "
	a.LogOf(d).WithField("id", id).Warn(stays + held)
	c.Ended, c.Count = true, 1
	r.IDs[id] = c
	return true
}

// mayEndWithoutLook reports whether the last use of an ID may end without a look at the host. That
// requires that other IDs use the dataset, and that one engine process made and ends the use. Such a
// process unmounts as often as it mounted, after the container has ended. The count of its uses is
// never too low: if the agent misses a Mount, the Mount fails, and if it misses an Unmount, the count
// is too high.
//
// The last ID of a dataset never ends without a look. When docker cp fails for any volume of a running
// container, even a volume of another driver, dockerd sends Unmount with the container's ID for all of
// its volumes (containerStatPath in moby's daemon/archive.go, seen with 20.10).
//
// Nor does an ID of an older engine process, whose count can be too low (see add), nor Podman's ID: a
// user can run podman volume unmount while a container runs.
func (a *Agent) mayEndWithoutLook(r mounting.Record, id string) bool {
	c := r.IDs[id]
	if c.Older || c.Ended || c.Generation == 0 || id == mounting.PodmanID || a.engines.HasEnded(id, c.Generation) {
		return false
	}
	return len(r.IDs) > 1
}

// unexplainedMount counts the mounts of a dataset besides its mount point. If there are more than
// expected, it returns a description of one of them, otherwise "". If the look at the host fails, it
// returns a description of the failure. The dataset's lock is held.
//
// It looks at mounts only, because the engine waits for each last Unmount, and a look at open files takes about
// ten times as long. Without that look a process that a container handed a file to can lose its mount here, but
// no data: the file stays open, and restore, removal, move and the release of the guard look at open files.
func (a *Agent) unexplainedMount(ctx context.Context, d dataset.Dataset, expected int) string {
	look, err := a.holders.LookAtMounts()
	if err != nil {
		return "cannot tell whether a process has it mounted: " + dataset.OneLine(err)
	}
	if list := a.holders.Of(ctx, look, d); len(list) > expected {
		return list[0]
	}
	return ""
}

// unverified returns the uses of a dataset that may have ended:
//
//   - uses that the engine unmounted while a process still had the dataset mounted,
//   - uses of an engine process that has ended,
//   - uses from before the agent started, except Podman's: an engine that cannot reach the agent does
//     not repeat its Unmount. A Mount with the same ID since then proves nothing: the container may have
//     been stopped while there was no agent, and started again.
func (a *Agent) unverified(id uuid.UUID) map[string]mounting.Use {
	uses := a.uses.Get(id).IDs
	maps.DeleteFunc(uses, func(id string, c mounting.Use) bool {
		return !c.Ended && !a.engines.HasEnded(id, c.Generation) && (!c.Inherited || id == mounting.PodmanID)
	})
	return uses
}

const (
	// unverifiedGrace is how long an engine may take after its start to mount the volumes of its
	// containers again.
	unverifiedGrace = 20 * time.Second
	// inheritedGrace is how long an engine may take to start a container whose volume it mounted
	// just before this agent started. The mount of another volume of the container can take two
	// minutes.
	inheritedGrace = 3 * time.Minute
	// verifyEvery is the interval of the checks of unverified uses. A check reads all of /proc.
	verifyEvery = time.Minute
)

// delayVerify postpones the check of unverified uses by unverifiedGrace, because an engine may have
// restarted and needs the time to mount the volumes of its containers again.
func (a *Agent) delayVerify() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restarted = a.Clock.Steady() + unverifiedGrace
	a.verifyAt = a.restarted
}

// verifyBy schedules a check of the unverified uses for the first heartbeat after at.
func (a *Agent) verifyBy(at time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.verifyAt == 0 || at < a.verifyAt {
		a.verifyAt = max(at, 1)
	}
}

// verifyUses checks whether unverified uses have ended, if the check is due. A use has not ended as
// long as the dataset is mounted anywhere besides its mount point, for instance in a container that
// outlived its engine (live-restore). An ID cannot be assigned to a container, so all unverified uses of
// a dataset end together, when it has no other mount.
func (a *Agent) verifyUses(ctx context.Context) {
	now := a.Clock.Steady()
	a.mu.Lock()
	at, again := a.verifyAt, a.restarted
	a.mu.Unlock()
	if at == 0 || now < at {
		return
	}
	open := map[uuid.UUID]map[string]mounting.Use{}
	for _, id := range a.uses.InUse() {
		if uses := a.unverified(id); len(uses) > 0 {
			open[id] = uses
		}
	}
	var next time.Duration
	if len(open) > 0 {
		next = now + verifyEvery
	}
	if now < again {
		next = min(next, again)
	}
	a.mu.Lock()
	if a.verifyAt == at { // otherwise an engine has started meanwhile
		a.verifyAt = next
	}
	a.mu.Unlock()
	if len(open) == 0 {
		return
	}
	look, err := a.holders.LookAtMounts()
	if err != nil {
		a.Log.WithError(err).Warn("cannot check whether unverified uses have ended")
		return
	}
	for id, uses := range open {
		d, ok := a.knownHere(id)
		if !ok {
			continue
		}
		if err := a.dropUnverified(ctx, d, uses, len(a.holders.Of(ctx, look, d))); err != nil {
			a.LogOf(d).WithError(err).Warn("cannot remove uses that have ended")
		}
	}
}

// verifyEnded ends the uses that the engine unmounted while a process had the dataset mounted, if no
// process has it mounted any more. Operations that need an unused dataset call it first, so that they do
// not wait for verifyUses. If a process still has it mounted, and the engine has unmounted all uses,
// verifyEnded fails with ErrInUse and names the process: no container of the engine would be found. what
// names the work for the error message. If the look at the host fails, the uses stay. The dataset's lock
// is held.
func (a *Agent) verifyEnded(ctx context.Context, d dataset.Dataset, what string) error {
	r := a.uses.Get(d.ID)
	if !r.HasEnded() {
		return nil
	}
	uses := r.IDs
	maps.DeleteFunc(uses, func(_ string, c mounting.Use) bool { return !c.Ended })
	look, err := a.holders.LookAtMounts()
	if err != nil {
		return nil
	}
	held := a.holders.Of(ctx, look, d)
	if err := a.dropUnverifiedLocked(ctx, d, uses, len(held)); err != nil {
		return err
	}
	var ids []string
	for id, c := range a.uses.Get(d.ID).IDs {
		if !c.Ended {
			return nil
		}
		ids = append(ids, mounting.ShortID(id))
	}
	if len(ids) == 0 || len(held) == 0 {
		return nil
	}
	slices.Sort(ids)
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: the engine on node %s has unmounted it "+
		"(%s), but %s (end that first)",
		what, d.Volume, a.NodeName, strings.Join(ids, ", "), held[0])
}

// dropUnverified takes the dataset's lock and calls dropUnverifiedLocked.
func (a *Agent) dropUnverified(ctx context.Context, d dataset.Dataset, looked map[string]mounting.Use,
	holders int) error {
	unlock, err := a.Locks.Lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	return a.dropUnverifiedLocked(ctx, d, looked, holders)
}

// dropUnverifiedLocked ends unverified uses of a dataset after a look at the host. looked are the uses
// that were unverified before the look, holders is the number of mounts besides the mount point. A use
// that changed since the look stays. If there are no holders, all other uses in looked end. Otherwise
// only uses that the engine has unmounted end, as long as the remaining uses explain all holders. The
// dataset's lock is held.
func (a *Agent) dropUnverifiedLocked(ctx context.Context, d dataset.Dataset, looked map[string]mounting.Use,
	holders int) error {
	now := a.Clock.Steady()
	a.mu.Lock()
	restarting := now < a.restarted
	a.mu.Unlock()
	over := func(id string, c mounting.Use) bool {
		return !restarting && a.engines.HasEnded(id, c.Generation) || c.Inherited &&
			now >= max(a.began+inheritedGrace, c.VerifyFrom())
	}
	r := a.uses.Get(d.ID)
	n := len(r.IDs)
	for id, was := range looked {
		switch c, there := r.IDs[id]; {
		case !there || c != was:
		case c.Ended && holders <= r.ExpectedMounts(id), holders == 0 && over(id, c):
			delete(r.IDs, id)
		}
	}
	if len(r.IDs) == n {
		return nil
	}
	if err := a.uses.Save(ctx, d, r, nil); err != nil {
		return err
	}
	a.LogOf(d).WithField("count", n-len(r.IDs)).Info("removed uses that ended while the engine or drover was down")
	a.News.Changed(d.ID)
	if len(r.IDs) > 0 {
		return nil
	}
	return a.unmountUnheld(ctx, d)
}

// Activated is called when a process activates the plugin. If an engine that had mounted volumes has
// ended, its uses are unverified from now on. Safe for concurrent use.
func (a *Agent) Activated(ctx context.Context) {
	ended, err := a.engines.Activate(ctx, plugin.Caller(ctx))
	if err != nil {
		a.Log.WithError(err).Error("cannot record on disk that an engine has ended")
	}
	if ended {
		a.delayVerify()
	}
}
