package mounting

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Resolver makes the mounts agree with the recorded uses after a start of the agent. Its methods are safe for
// concurrent use.
type Resolver struct {
	*Mounts

	mu   sync.Mutex // held by FindLostUses
	done bool       // true once the uses were found again after a loss of the agent's database
}

// Resolve makes the mounts agree with the recorded uses after a start. Uses of an earlier boot do not count. A mount
// without a use is unmounted. A dataset with uses is mounted again if it is not mounted. A filesystem that a snapshot
// left frozen is thawed. If a hanging disk delays the work, the work continues in jobs and all is false.
func (r *Resolver) Resolve(ctx context.Context) (all bool, err error) {
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	var work []*host.Job
	for _, id := range r.Uses.InUse() {
		d, ok := r.SharedMounts.RecordOf(id)
		if !ok {
			r.Log.WithField("dataset", id).Error("a mounted dataset has no record on this node")
			continue
		}
		if table.At(r.MountPath(id)) != nil {
			continue
		}
		r.LogOf(ctx, d).Warn("dataset in use is not mounted: mounting it again")
		again := r.Jobs.Start("mount/"+id.String(), func(ctx context.Context, _ *host.Job) error {
			if err := r.EnsureMounted(ctx, d, 0); err != nil {
				r.LogOf(ctx, d).WithError(err).Error("cannot mount a dataset in use")
			}
			return nil
		})
		// a bounded lease needs control first, and Resolve does not wait for control
		if !r.Leases.Deadlines.IsBounded(d) {
			work = append(work, again)
		}
	}
	asked := sync.OnceValues(func() (guard.Status, error) { return r.Leases.Guard.Status(ctx) })
	for _, m := range table.Under(r.MountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if err != nil || m.Mountpoint != r.MountPath(id) {
			continue
		}
		if _, is := r.Cache.InspectedCopy(id); is {
			continue
		}
		fenced, err := r.Leases.Registrar.IsDatasetFenced(id, asked)
		if err != nil {
			r.Log.WithError(err).WithField("dataset", id).Error("filesystem may be frozen")
		}
		work = append(work, r.Jobs.Start("mounted/"+id.String(), func(ctx context.Context, _ *host.Job) error {
			return r.resolveOne(ctx, id, fenced, err != nil)
		}))
	}
	all = pool.WaitFor(ctx, r.Clock, pool.StartPatience, host.Ends(work))
	for _, jb := range work {
		select {
		case <-jb.Ended():
			err = errors.Join(err, jb.Result())
		default:
		}
	}
	return all, err
}

// resolveOne resolves one mounted dataset. fenced is true if the guard has fenced it. unsure is true if the guard did
// not answer.
func (r *Resolver) resolveOne(ctx context.Context, id uuid.UUID, fenced, unsure bool) error {
	if !fenced && !unsure {
		if err := Thaw(r.MountPath(id)); err != nil {
			r.Log.WithError(err).WithField("dataset", id).Error("filesystem may be frozen")
			unsure = true
		}
	}
	if len(r.Uses.Get(id).IDs) > 0 {
		return nil
	}
	d, ok := r.SharedMounts.RecordOf(id)
	if !ok {
		d = dataset.Dataset{ID: id, Volume: id.String()}
	}
	if r.Recovered {
		return r.assumeUse(ctx, d, ok)
	}
	if fenced || unsure && r.Leases.Registrar.MayBeFenced(id) {
		return nil // it is examined again when it is thawed
	}
	if err := r.Unmounter.IfUnused(ctx, d, r.Unmounter.UnmountUnused); err != nil {
		r.LogOf(ctx, d).WithError(err).Warn("cannot unmount a leftover mount")
		r.Uses.MarkIdle(id)
	}
	return nil
}

// FindLostUses examines the mounts again if the agent's database was lost. It is called once control has reported which
// datasets are mounted here: at this start, or when control answers again. Idempotent.
func (r *Resolver) FindLostUses(ctx context.Context) error {
	if !r.Recovered {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	all, err := r.Resolve(ctx)
	if err != nil {
		return err
	}
	if !all || r.Trust.Err() != nil {
		return nil // control's answer is not complete
	}
	err = r.DB.Put(ctx, map[string]any{host.RecoveredKey: nil})
	r.done = err == nil
	return err
}

// assumeUse records a use of unknown origin for a mount whose uses were lost with the agent's database.
// Verifier.CheckIfDue ends the use. If the dataset is unknown, assumeUse leaves it mounted until control has reported
// it.
func (r *Resolver) assumeUse(ctx context.Context, d dataset.Dataset, known bool) error {
	if !known {
		r.LogOf(ctx, d).Warn("left an unrecorded dataset mounted")
		return nil
	}
	unlock, err := r.Locks.Lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	return r.Verifier.AssumeUse(ctx, d)
}
