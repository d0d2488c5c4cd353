package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/mount"
)

// add counts one more use of an ID. If the engine that made the recorded uses has ended, they are
// replaced: the next engine mounts with the old ID again, and nobody unmounted.
func (r mountRecord) add(id string, now idCount, hasEnded func(id string, use idCount) bool) {
	c, ok := r.IDs[id]
	if !ok || hasEnded(id, c) {
		r.IDs[id] = now
		return
	}
	c.Count++
	c.inherited = false
	r.IDs[id] = c
}

// sub removes one use of an ID and reports whether the record changed. An unknown ID changes nothing.
func (r mountRecord) sub(id string) bool {
	c, ok := r.IDs[id]
	if !ok {
		return false
	}
	if c.Count--; c.Count <= 0 {
		delete(r.IDs, id)
	} else {
		r.IDs[id] = c
	}
	return true
}

// ids returns the mount IDs in order.
func (r mountRecord) ids() []string { return slices.Sorted(maps.Keys(r.IDs)) }

// usesOf lists the uses of a dataset for people, in the order of their IDs.
func (a *Agent) usesOf(r mountRecord) []dataset.Mount {
	out := make([]dataset.Mount, 0, len(r.IDs))
	for _, id := range r.ids() {
		c := r.IDs[id]
		out = append(out, dataset.Mount{ID: id, Count: c.Count, Since: c.Since, Tool: string(c.tool(id)), Unverified: a.engines.hasEnded(id, c)})
	}
	return out
}

// unverified returns the uses of a dataset whose end may have been missed: those that an engine has
// left which has ended, and those from before the agent started, as an engine that cannot reach the
// agent does not repeat an Unmount.
func (a *Agent) unverified(id uuid.UUID) map[string]idCount {
	uses := a.record(id).IDs
	maps.DeleteFunc(uses, func(id string, c idCount) bool {
		return !a.engines.hasEnded(id, c) && (!c.inherited || id == podmanID)
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

// verifyUses looks whether unverified uses are real, when that is due. They are as long as the
// dataset is mounted in another place, as a container has it (live-restore keeps such containers
// running). Which ID belongs to which container cannot be told, so they end together when there is
// no such place.
func (a *Agent) verifyUses(ctx context.Context) {
	now := a.Clock.Steady()
	a.mu.Lock()
	at := a.verifyAt
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
	a.mu.Lock()
	if a.verifyAt == at { // otherwise an engine has started meanwhile
		a.verifyAt = next
	}
	a.mu.Unlock()
	if len(open) == 0 {
		return
	}
	held, err := holders()
	if err != nil {
		a.Log.WithError(err).Warn("uses whose end may have been missed were not verified")
		return
	}
	for id, uses := range open {
		d, ok := a.knownHere(id)
		if !ok || held(a.mountPath(id)) {
			continue
		}
		if err := a.dropUnverified(ctx, d, uses); err != nil {
			a.log(d).WithError(err).Warn("uses that have ended were not taken off")
		}
	}
}

// holders returns what tells whether that which is mounted on a path is mounted
// in another place too: in another namespace, or by another name in ours.
func holders() (held func(path string) bool, err error) {
	elsewhere, err := mount.Elsewhere()
	if err != nil {
		return nil, err
	}
	table, err := mount.Table()
	if err != nil {
		return nil, err
	}
	return func(path string) bool {
		m := table.At(path)
		if m == nil {
			return false
		}
		for _, e := range table.Of(m.Major, m.Minor) {
			if e.Mountpoint != path && within(e.Root, m.Root) {
				return true
			}
		}
		return len(elsewhere.Holders(mount.Filesystem{Major: m.Major, Minor: m.Minor, Root: m.Root}, path)) > 0
	}, nil
}

// dropUnverified ends those of the uses of a dataset that nobody can have any more and that nothing
// has changed since it was looked.
func (a *Agent) dropUnverified(ctx context.Context, d dataset.Dataset, looked map[string]idCount) error {
	unlock, err := a.locks.lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	old := a.Clock.Steady()-a.began >= inheritedGrace
	r := a.record(d.ID)
	n := len(r.IDs)
	maps.DeleteFunc(r.IDs, func(id string, c idCount) bool {
		was, open := looked[id]
		return open && was == c && (a.engines.hasEnded(id, c) || c.inherited && old)
	})
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
	return a.unmountLocked(d)
}
