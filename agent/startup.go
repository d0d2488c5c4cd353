package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// resolveMounts makes the mounts agree with the recorded uses after a start. Uses of another boot are void. A mount
// without a use is unmounted. A dataset with uses is mounted again if it is not mounted. A filesystem that a snapshot
// left frozen is thawed. Work that a hanging disk delays continues beside other work, and all is false then.
func (a *Agent) resolveMounts(ctx context.Context) (all bool, err error) {
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	var work []*jobs.Job
	for _, id := range a.uses.InUse() {
		d, ok := a.knownHere(id)
		if !ok {
			a.Log.WithField("dataset", id).Error("mounted dataset has no record on this node")
			continue
		}
		if table.At(a.MountPath(id)) != nil {
			continue
		}
		a.LogOf(d).Warn("dataset in use is not mounted: mounting it again")
		again := a.Jobs.Start("mount/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
			if err := a.ensureMounted(ctx, d); err != nil {
				a.LogOf(d).WithError(err).Error("dataset in use was not mounted")
			}
			return nil
		})
		if !lease.IsBounded(d) { // otherwise control is asked first, and this does not wait for control
			work = append(work, again)
		}
	}
	asked := sync.OnceValues(func() (guard.Status, error) { return a.config.Guard.Status(ctx) })
	for _, m := range table.Under(a.MountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if err != nil || m.Mountpoint != a.MountPath(id) {
			continue
		}
		if _, is := a.Cache.ShownBy(id); is {
			continue
		}
		fenced, err := a.registrar.IsFencedBy(id, asked)
		if err != nil {
			a.Log.WithError(err).WithField("dataset", id).Error("filesystem may be frozen")
		}
		work = append(work, a.Jobs.Start("mounted/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
			return a.resolveMount(ctx, id, fenced, err != nil)
		}))
	}
	all = pool.WaitFor(ctx, a.Clock, pool.StartPatience, ends(work))
	for _, jb := range work {
		select {
		case <-jb.Ended():
			err = errors.Join(err, jb.Result())
		default:
		}
	}
	return all, err
}

// resolveMount does this for one dataset that is mounted. fenced says that the guard has fenced it, and unsure that the
// guard did not answer.
func (a *Agent) resolveMount(ctx context.Context, id uuid.UUID, fenced, unsure bool) error {
	if !fenced && !unsure {
		if err := thaw(a.MountPath(id)); err != nil {
			a.Log.WithError(err).WithField("dataset", id).Error("filesystem may be frozen")
			unsure = true
		}
	}
	if len(a.uses.Get(id).IDs) > 0 {
		return nil
	}
	d, ok := a.knownHere(id)
	if !ok {
		d = dataset.Dataset{ID: id, Volume: id.String()}
	}
	if a.recovered {
		return a.assumeUse(ctx, d, ok)
	}
	if fenced || unsure && a.registrar.MayBeFenced(id) {
		return nil // it is examined again when it is thawed
	}
	if err := a.unmountIdle(ctx, d, a.unmountUnheld); err != nil {
		a.LogOf(d).WithError(err).Warn("left-over mount was not taken off")
		a.uses.MarkIdle(id)
	}
	return nil
}

// reunion says whether the uses of mounted datasets were found again after the agent's database was lost.
type reunion struct {
	mu   sync.Mutex
	done bool
}

// reunite examines the mounts again after the agent's database was lost, once control has reported what is mounted: at
// this start, or when control answers again. Idempotent.
func (a *Agent) reunite(ctx context.Context) error {
	if !a.recovered {
		return nil
	}
	a.reunion.mu.Lock()
	defer a.reunion.mu.Unlock()
	if a.reunion.done {
		return nil
	}
	all, err := a.resolveMounts(ctx)
	if err != nil {
		return err
	}
	if !all || a.Trust.Err() != nil {
		return nil // the answer is not complete; see accept
	}
	err = a.DB.Put(ctx, map[string]any{recoveredKey: nil})
	a.reunion.done = err == nil
	return err
}

// unknownUse stands for the mount IDs that were lost with the agent's state.
const unknownUse = "unknown"

// assumeUse records a use of unknown origin for a mount whose uses were lost with the agent's database. verifyUses ends
// it. The mount of a dataset that is not known stays until the dataset is known.
func (a *Agent) assumeUse(ctx context.Context, d dataset.Dataset, known bool) error {
	if !known {
		a.LogOf(d).Warn("mount of a dataset that is not on record is left alone")
		return nil
	}
	unlock, err := a.Locks.Lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	return a.assumed(ctx, d)
}

// assumed is assumeUse for a known dataset. The dataset's lock is held.
func (a *Agent) assumed(ctx context.Context, d dataset.Dataset) error {
	r := a.uses.Get(d.ID)
	if len(r.IDs) > 0 {
		return nil // it was mounted meanwhile
	}
	r.Epoch = d.Epoch
	r.IDs[unknownUse] = mounting.Use{Count: 1, Generation: a.engines.Newest(), Since: a.started, Inherited: true}
	a.verifyBy(a.Clock.Steady() + unverifiedGrace)
	return a.uses.Save(ctx, d, r, nil)
}

// thaw thaws a filesystem that a killed agent left frozen. It does nothing if the filesystem is not frozen.
func thaw(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fsctl.Thaw(dir); err != nil && !errors.Is(err, fsctl.ErrNotFrozen) &&
		!errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// making reports whether a dataset is needed besides its record: running work makes or reads it, a user inspects it, or
// a move continues from it.
func (a *Agent) making(id uuid.UUID) bool {
	if _, shown := a.Cache.ShownBy(id); shown || a.keys.IsStandIn(id) || a.moveTable.IsBeside(id) {
		return true
	}
	for _, op := range a.Jobs.Running() {
		if op.DatasetID == id {
			return true
		}
	}
	return false
}
