package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/fsctl"
	"github.com/droverhq/drover/internal/mount"
)

// resolveMounts brings the mount records and the mounts together after a start:
// IDs of another boot are void; a mount without an ID is taken off; a dataset
// with IDs is mounted again if it is not; a filesystem that a snapshot left
// frozen is thawed.
func (a *Agent) resolveMounts(ctx context.Context) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, id := range a.mountedIDs() {
		d, ok := a.cache.dataset(id)
		if !ok {
			a.Log.WithField("dataset", id).Error("mounted dataset has no record on this node")
			continue
		}
		if table.At(a.mountPath(id)) == nil {
			a.log(d).Warn("dataset in use is not mounted: mounting it again")
			if err := a.ensureMounted(ctx, d); err != nil {
				a.log(d).WithError(err).Error("dataset in use was not mounted")
			}
		}
	}
	for _, m := range table.Under(a.mountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if err != nil || m.Mountpoint != a.mountPath(id) {
			continue
		}
		if err := thaw(m.Mountpoint); err != nil {
			a.Log.WithError(err).WithField("dataset", id).Error("filesystem may be frozen")
		}
		if len(a.record(id).IDs) > 0 {
			continue
		}
		d, ok := a.cache.dataset(id)
		if !ok {
			d = dataset.Dataset{ID: id, Volume: id.String()}
		}
		if err := a.unmountIdle(ctx, d); err != nil {
			a.log(d).WithError(err).Warn("left-over mount was not taken off")
			a.idle(id)
		}
	}
	return nil
}

// thaw undoes a freeze that a killed agent left; a filesystem that is not frozen
// stays as it is.
func thaw(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fsctl.Thaw(dir); err != nil && !errors.Is(err, fsctl.ErrNotFrozen) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// resolveIncoming finishes what a crash left in the pools: a dataset that is on
// record takes its place, one that is not was never acknowledged and goes. It is
// called only while control's store is the one that this agent worked with, and
// answers.
func (a *Agent) resolveIncoming(ctx context.Context) error {
	for _, p := range a.pools.all() {
		if p.backend == nil {
			continue
		}
		var promote []uuid.UUID
		n, err := p.backend.Reap(ctx, func(id uuid.UUID) bool {
			if a.making(id) {
				return false
			}
			if _, onRecord := a.cache.dataset(id); onRecord {
				promote = append(promote, id)
				return false
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("pool %s: clean up after a crash: %w", p.Name, err)
		}
		for _, id := range promote {
			if err := p.backend.Commit(ctx, id); err != nil {
				return fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
		if n > 0 {
			a.Log.WithFields(map[string]any{"pool": p.Name, "count": n}).Info("cleaned up what a crash left")
		}
	}
	return nil
}

// making reports whether work in flight makes, or reads, an incoming dataset.
func (a *Agent) making(id uuid.UUID) bool {
	a.mu.Lock()
	scratch := a.scratch[id]
	a.mu.Unlock()
	if scratch {
		return true
	}
	for _, op := range a.jobs.running() {
		if op.DatasetID == id {
			return true
		}
	}
	return false
}

// unverifiedGrace is what the engine has to mount its containers' volumes again
// after it started, and how often what is left unverified is looked at: that reads
// all of /proc.
const unverifiedGrace = time.Minute

// verifyUses looks at the mount IDs that an older generation of the engine left:
// they are real as long as a process in another mount namespace has the dataset
// mounted (live-restore keeps such containers running). Which ID belongs to
// which container cannot be told, so they go together when nobody is left.
func (a *Agent) verifyUses(ctx context.Context) {
	now := a.Clock.Now()
	a.mu.Lock()
	gen, due := a.generation, !a.verifyAt.IsZero() && !now.Before(a.verifyAt)
	a.mu.Unlock()
	if !due {
		return
	}
	var old []uuid.UUID
	for _, id := range a.mountedIDs() {
		if a.record(id).hasOlder(gen) {
			old = append(old, id)
		}
	}
	next := now.Add(unverifiedGrace)
	if len(old) == 0 {
		next = time.Time{}
	}
	a.mu.Lock()
	if a.generation == gen {
		a.verifyAt = next
	}
	a.mu.Unlock()
	if len(old) == 0 {
		return
	}
	elsewhere, err := mount.Elsewhere()
	if err != nil {
		a.Log.WithError(err).Warn("uses from before the engine's last start were not verified")
		return
	}
	table, err := mount.Table()
	if err != nil {
		a.Log.WithError(err).Warn("uses from before the engine's last start were not verified")
		return
	}
	for _, id := range old {
		path := a.mountPath(id)
		if m := table.At(path); m != nil && len(elsewhere.Holders(mount.Filesystem{Major: m.Major, Minor: m.Minor, Root: m.Root}, path)) > 0 {
			continue
		}
		if d, ok := a.cache.dataset(id); ok {
			if err := a.dropOlder(ctx, d, gen); err != nil {
				a.log(d).WithError(err).Warn("uses that ended while the engine was away were not taken off")
			}
		}
	}
}

// dropOlder takes the uses of older generations off a dataset.
func (a *Agent) dropOlder(ctx context.Context, d dataset.Dataset, gen uint64) error {
	unlock, err := a.locks.lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	r := a.record(d.ID)
	n := len(r.IDs)
	for id, c := range r.IDs {
		if c.Generation != gen {
			delete(r.IDs, id)
		}
	}
	if len(r.IDs) == n {
		return nil
	}
	if err := a.save(ctx, d, r, nil); err != nil {
		return err
	}
	a.log(d).WithField("count", n-len(r.IDs)).Info("uses that ended while the engine was away are taken off")
	if len(r.IDs) > 0 {
		return nil
	}
	return a.unmountLocked(d)
}
