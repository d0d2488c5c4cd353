package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// add counts one more use of an ID. If the engine that made the recorded uses has ended, or they have
// ended as far as is known, they are replaced: the engine mounts with the old ID again after a restart,
// and nobody unmounted. But docker cp does so too, for a container that outlived the restart: Older
// notes that, and the use ends only after a look at the host.
func (r mountRecord) add(id string, now idCount, hasEnded func(id string, use idCount) bool) {
	c, ok := r.IDs[id]
	if !ok {
		r.IDs[id] = now
		return
	}
	if c.Ended || hasEnded(id, c) {
		now.Older = true
		r.IDs[id] = now
		return
	}
	c.Count++
	c.inherited = false
	r.IDs[id] = c
}

// ids returns the mount IDs in order.
func (r mountRecord) ids() []string { return slices.Sorted(maps.Keys(r.IDs)) }

// accounts returns for how many mounts besides the mount point the uses account, without that of an
// ID. Podman's use needs no container.
func (r mountRecord) accounts(without string) (n int) {
	for id := range r.IDs {
		if id != without && id != podmanID {
			n++
		}
	}
	return n
}

// mayHaveEnded reports whether the engine has unmounted an ID that stayed, as a process had the dataset.
func (r mountRecord) mayHaveEnded() bool {
	for _, c := range r.IDs {
		if c.Ended {
			return true
		}
	}
	return false
}

// usesOf lists the uses of a dataset for people, in the order of their IDs.
func (a *Agent) usesOf(r mountRecord) []dataset.Mount {
	out := make([]dataset.Mount, 0, len(r.IDs))
	for _, id := range r.ids() {
		c := r.IDs[id]
		out = append(out, dataset.Mount{
			ID:         id,
			Count:      c.Count,
			Since:      c.Since,
			Tool:       string(c.tool(id)),
			Unverified: c.Ended || a.engines.hasEnded(id, c),
		})
	}
	return out
}

// unuse counts one use less and reports whether that was the dataset's last one. An unknown ID changes
// nothing.
func (a *Agent) unuse(ctx context.Context, d dataset.Dataset, id string) (last bool, err error) {
	unlock, err := a.locks.lock(ctx, d.ID, "unmount of volume "+d.Volume)
	if err != nil {
		return false, err
	}
	defer unlock()
	r := a.record(d.ID)
	if !a.endUse(ctx, d, &r, id) {
		return false, nil
	}
	// Its own deadline: an unmount that was heard must not be forgotten.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := a.save(ctx, d, r, nil); err != nil {
		return false, fmt.Errorf("unmount of volume %s: %w", d.Volume, err)
	}
	steps.At("unmount.recorded")
	a.changed(d.ID)
	a.yieldIfAsked(d.ID)
	return len(r.IDs) == 0, nil
}

// endUse changes a record as an Unmount of an ID does, and reports whether it changed. The dataset's
// lock is held.
func (a *Agent) endUse(ctx context.Context, d dataset.Dataset, r *mountRecord, id string) (changed bool) {
	c, ok := r.IDs[id]
	switch {
	case !ok:
		return false
	case c.Count > 1:
		c.Count--
		r.IDs[id] = c
		return true
	case a.mayEndUnseen(*r, id):
		delete(r.IDs, id)
		return true
	}
	held := a.heldBeyond(ctx, d, r.accounts(id))
	if held == "" {
		delete(r.IDs, id)
		return true
	}
	a.verifyBy(a.Clock.Steady())
	if c.Ended {
		return false
	}
	const stays = "the engine has ended a use of the volume, which stays mounted until nobody has it: "
	a.log(d).WithField("id", id).Warn(stays + held)
	c.Ended, c.Count = true, 1
	r.IDs[id] = c
	return true
}

// mayEndUnseen reports whether the last use of an ID may end without a look at the host. That is so
// while other IDs use the dataset, if one engine process began and ends the use: it unmounts as often
// as it mounted, after the container has ended. The agent hears every Mount, or the Mount fails. It
// may miss an Unmount while it restarts, so that it never counts less uses than there are.
//
// The last use of a dataset never ends unseen. When docker cp fails for one volume of a running
// container, be it another driver's, dockerd sends Unmount for all volumes of the container with its
// ID (containerStatPath in moby's daemon/archive.go, seen with 20.10).
//
// An ID of an older engine process may end too often (add). So may Podman's, which unmounts under a
// running container when a user runs podman volume unmount. Their ends are compared with what is seen
// on the host.
func (a *Agent) mayEndUnseen(r mountRecord, id string) bool {
	c := r.IDs[id]
	if c.Older || c.Ended || c.Generation == 0 || id == podmanID || a.engines.hasEnded(id, c) {
		return false
	}
	return len(r.IDs) > 1
}

// heldBeyond describes a mount of a dataset besides its mount point, if there are more of them than a
// number of uses accounts for. If the host cannot be looked at, there may be any number. It is empty
// if each mount may belong to one of those uses. The dataset's lock is held.
func (a *Agent) heldBeyond(ctx context.Context, d dataset.Dataset, uses int) string {
	look, err := a.lookAtHost()
	if err != nil {
		return "whether a process has it mounted is not known: " + dataset.OneLine(err)
	}
	if list := a.holders(ctx, look, d); len(list) > uses {
		return list[0]
	}
	return ""
}

// unverified returns the uses of a dataset that may have ended: those that the engine has unmounted
// while a process still had the dataset, those that an engine has left which has ended, and those from
// before the agent started, as an engine that cannot reach the agent does not repeat an Unmount.
func (a *Agent) unverified(id uuid.UUID) map[string]idCount {
	uses := a.record(id).IDs
	maps.DeleteFunc(uses, func(id string, c idCount) bool {
		return !c.Ended && !a.engines.hasEnded(id, c) && (!c.inherited || id == podmanID)
	})
	return uses
}

const (
	// unverifiedGrace is what the engine has to mount its containers' volumes again
	// after it started.
	unverifiedGrace = 20 * time.Second
	// inheritedGrace is what it has to start a container whose volume it mounted
	// just before this agent started: two minutes for the mount of another one of
	// its volumes, and some.
	inheritedGrace = 3 * time.Minute
	// verifyEvery is how often what is left unverified is looked at: that reads all
	// of /proc.
	verifyEvery = time.Minute
)

// awaitEngine gives an engine that may have restarted the time to mount its containers' volumes again,
// and has unverified uses looked at then.
func (a *Agent) awaitEngine() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restarted = a.Clock.Steady() + unverifiedGrace
	a.verifyAt = a.restarted
}

// verifyBy has unverified uses looked at in the first round after a moment.
func (a *Agent) verifyBy(at time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.verifyAt == 0 || at < a.verifyAt {
		a.verifyAt = max(at, 1)
	}
}

// verifyUses looks whether unverified uses are real, when that is due. They are as long as the
// dataset is mounted in another place, as a container has it (live-restore keeps such containers
// running). Which ID belongs to which container cannot be told, so they end together when there is
// no such place.
func (a *Agent) verifyUses(ctx context.Context) {
	now := a.Clock.Steady()
	a.mu.Lock()
	at, again := a.verifyAt, a.restarted
	a.mu.Unlock()
	if at == 0 || now < at {
		return
	}
	open := map[uuid.UUID]map[string]idCount{}
	for _, id := range a.mountedIDs() {
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
	look, err := a.lookAtHost()
	if err != nil {
		a.Log.WithError(err).Warn("uses whose end may have been missed were not verified")
		return
	}
	for id, uses := range open {
		d, ok := a.knownHere(id)
		if !ok {
			continue
		}
		if err := a.dropUnverified(ctx, d, uses, len(a.holders(ctx, look, d))); err != nil {
			a.log(d).WithError(err).Warn("uses that have ended were not taken off")
		}
	}
}

// verifyEnded ends the uses that the engine has unmounted while a process had the dataset, if none has
// it any more. Work that a use keeps from a dataset asks first, and does not wait for verifyUses. If the
// host cannot be looked at, the uses stay. The dataset's lock is held.
func (a *Agent) verifyEnded(ctx context.Context, d dataset.Dataset) error {
	r := a.record(d.ID)
	if !r.mayHaveEnded() {
		return nil
	}
	uses := r.IDs
	maps.DeleteFunc(uses, func(_ string, c idCount) bool { return !c.Ended })
	look, err := a.lookAtHost()
	if err != nil {
		return nil
	}
	return a.dropUnverifiedLocked(ctx, d, uses, len(a.holders(ctx, look, d)))
}

// dropUnverified is dropUnverifiedLocked under the dataset's lock.
func (a *Agent) dropUnverified(ctx context.Context, d dataset.Dataset, looked map[string]idCount, holders int) error {
	unlock, err := a.locks.lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	return a.dropUnverifiedLocked(ctx, d, looked, holders)
}

// dropUnverifiedLocked ends uses of a dataset that were unverified when the host was looked at, and
// that nothing has changed since. If nobody had the dataset mounted besides its mount point, all of
// them end. Otherwise only those that the engine has unmounted end, as long as the other uses account
// for all mounts that were seen. The dataset's lock is held.
func (a *Agent) dropUnverifiedLocked(ctx context.Context, d dataset.Dataset, looked map[string]idCount, holders int) error {
	now := a.Clock.Steady()
	a.mu.Lock()
	restarting := now < a.restarted
	a.mu.Unlock()
	over := func(id string, c idCount) bool {
		return !restarting && a.engines.hasEnded(id, c) || c.inherited && now-a.began >= inheritedGrace
	}
	r := a.record(d.ID)
	n := len(r.IDs)
	for id, was := range looked {
		switch c, there := r.IDs[id]; {
		case !there || c != was:
		case c.Ended && holders <= r.accounts(id), holders == 0 && over(id, c):
			delete(r.IDs, id)
		}
	}
	if len(r.IDs) == n {
		return nil
	}
	if err := a.save(ctx, d, r, nil); err != nil {
		return err
	}
	a.log(d).WithField("count", n-len(r.IDs)).Info("uses that ended while the engine or drover was away are taken off")
	a.changed(d.ID)
	if len(r.IDs) > 0 {
		return nil
	}
	return a.unmountUnheld(ctx, d)
}
