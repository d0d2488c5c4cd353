package mounting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
	"github.com/google/uuid"
)

// Unmounter unmounts unused datasets, and then removes them from the guard. It has no state. Its methods are safe for
// concurrent use.
type Unmounter struct{ *Mounts }

// IfUnused locks a dataset and calls unmount if the dataset has no recorded use.
func (u *Unmounter) IfUnused(ctx context.Context, d dataset.Dataset,
	unmount func(context.Context, dataset.Dataset) error) error {
	unlock, err := u.Locks.Lock(ctx, d.ID, "unmount of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if len(u.Uses.Get(d.ID).IDs) > 0 {
		return nil
	}
	return unmount(ctx, d)
}

// Unmount unmounts a dataset whose last use has ended. The guard forgets the dataset later, in the background: that
// requires one more look at the host, and the engine should not wait for it. The dataset's lock is held.
func (u *Unmounter) Unmount(ctx context.Context, d dataset.Dataset) error {
	if err := u.unmount(ctx, d); err != nil {
		return err
	}
	u.Leases.Registrar.ReleaseSoon(d.ID)
	return nil
}

// UnmountUnused unmounts a dataset without a recorded use. If a process has it mounted or open nevertheless, it stays
// mounted, the guard keeps watching it, and UnmountUnused fails with ErrInUse. The dataset's lock is held.
func (u *Unmounter) UnmountUnused(ctx context.Context, d dataset.Dataset) error {
	if err := u.Holders.Check(ctx, d, "unmount"); err != nil {
		u.Uses.MarkIdle(d.ID)
		return err
	}
	if err := u.unmount(ctx, d); err != nil {
		return err
	}
	u.Leases.Registrar.Release(d.ID)
	return nil
}

// unmount unmounts a dataset. The guard keeps the dataset registered. The dataset's lock is held.
func (u *Unmounter) unmount(ctx context.Context, d dataset.Dataset) error {
	path := u.MountPath(d.ID)
	if err := u.Leases.Registrar.CheckUnmount(d); err != nil {
		u.Uses.MarkIdle(d.ID)
		return err
	}
	up, err := u.Throttle.Suspend(d, throttle.SuspendForUnmount)
	if err != nil {
		u.LogOf(ctx, d).WithError(err).Warn("throttled: flushing the remaining data is slow")
	}
	u.usages.BeforeUnmount(d)
	err = mount.Unmount(path)
	u.Disks.DropTable()
	if err == nil || errors.Is(err, mount.ErrNotMounted) {
		u.Throttle.End(d)
	} else {
		up.Resume()
	}
	switch {
	case errors.Is(err, mount.ErrBusy):
		u.Uses.MarkIdle(d.ID)
		return dataset.Errorf(dataset.ErrInUse,
			"unmount of volume %s: a process on the host still uses %s (fuser -vm %s shows it); retrying the "+
				"unmount", d.Volume, path, path)
	case err != nil && !errors.Is(err, mount.ErrNotMounted) && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("unmount of volume %s: %w", d.Volume, err)
	case err == nil:
		u.LogOf(ctx, d).WithField("path", path).Info("unmounted")
	}
	u.Uses.ClearIdle(d.ID)
	u.News.Changed(d.ID)
	steps.At("unmount.unmounted")
	// now the work that had to wait
	u.LostWrites.Unmounted(u.Ctx, d)
	u.moves.AnswerIfRecalled(d.ID)
	if _, left := u.Cache.Copy(d.ID); left {
		u.copies.ReconcileSoon(d.ID)
	}
	if _, shared := u.SharedMounts.Get(d.ID); shared {
		u.SharedMounts.ReconcileSoon(d.ID, uuid.Nil)
	}
	return nil
}

// UnmountAndRelease unmounts a dataset without a recorded use if it is mounted, and makes the guard forget it. If
// copies of the mount in other mount namespaces keep its filesystem alive, it is shut down: see backends.Releaser.
// UnmountAndRelease fails with ErrInUse if a process on this host has the dataset mounted or open. The dataset's lock
// is held.
func (u *Unmounter) UnmountAndRelease(ctx context.Context, d dataset.Dataset) error {
	mounted, err := host.IsMountPoint(u.MountPath(d.ID))
	switch {
	case err != nil:
		return err
	case mounted:
		err = u.UnmountUnused(ctx, d)
	default:
		err = u.ReleaseUnmounted(ctx, d)
	}
	if err != nil {
		return err
	}
	return u.Holders.releaseInPool(ctx, d)
}

// ReleaseUnmounted makes the guard forget a dataset that is not mounted. If a process on this host has it mounted or
// open nevertheless, the guard keeps it and ReleaseUnmounted fails with ErrInUse. If the guard does not watch the
// dataset, ReleaseUnmounted does nothing. The dataset's lock is held.
func (u *Unmounter) ReleaseUnmounted(ctx context.Context, d dataset.Dataset) error {
	if _, armed := u.Leases.Deadlines.RegisteredEpoch(d.ID); !armed || u.Leases.Guard == nil {
		return nil
	}
	if err := u.checkNoHolders(ctx, d); err != nil {
		if u.Leases.Deadlines.SetKeptReason(d.ID, err.Error()) {
			const watches = "the guard keeps watching the unmounted volume, because a process may still write to it"
			u.LogOf(ctx, d).WithError(err).Warn(watches)
		}
		return err
	}
	u.Leases.Registrar.Release(d.ID)
	return nil
}

// checkNoHolders is like Holders.Check for a dataset that is not mounted. It uses the filesystem that
// the guard has recorded for the dataset.
func (u *Unmounter) checkNoHolders(ctx context.Context, d dataset.Dataset) error {
	e, there, err := u.Leases.Registrar.Entry(ctx, d.ID)
	if err == nil && (!there || e.Filesystem == mount.Filesystem{}) { // it was never mounted
		return nil
	}
	if err == nil {
		look, lerr := u.Holders.ScanFiles(ctx, e.Filesystem)
		if lerr == nil && len(u.Holders.DescribeTree(look, d, e.Filesystem)) == 0 {
			return nil
		}
	}
	// The holders may be those of another filesystem that has the same device number by now. The pool knows.
	if err := u.Holders.CheckPool(ctx, d); err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s is unmounted, but still in use on node %s: %w", d.Volume, u.NodeName, err)
	}
	return nil
}

// IdleLimit is how long a dataset may be mounted without a use. By then the request that mounted it has ended.
const IdleLimit = 2 * time.Minute

// UnmountIdle starts jobs that unmount the datasets that have had no use for IdleLimit: a request ended while its
// dataset was being mounted, or the host still used the mount at the last unmount.
func (u *Unmounter) UnmountIdle() {
	for _, id := range u.Uses.IdleFor(IdleLimit) {
		d, ok := u.SharedMounts.RecordOf(id)
		if !ok {
			d = dataset.Dataset{ID: id, Volume: id.String()}
		}
		u.Jobs.Start("unmount/"+id.String(), func(ctx context.Context, _ *host.Job) error {
			err := u.IfUnused(ctx, d, u.UnmountUnused)
			if err != nil && !errors.Is(err, dataset.ErrInUse) {
				u.LogOf(ctx, d).WithError(err).Warn("cannot unmount a leftover mount")
			}
			return err
		})
	}
}

// Supersede ends the uses of a dataset that was continued on another node while it was fenced here. First the guard
// kills every process on the host that holds the dataset, then the uses end. It does nothing if the guard does not have
// the dataset. The caller holds the dataset's lock.
func (u *Unmounter) Supersede(ctx context.Context, d dataset.Dataset) error {
	epoch, armed := u.Leases.Deadlines.RegisteredEpoch(d.ID)
	if !armed || u.Leases.Guard == nil {
		return nil
	}
	mounted, err := host.IsMountPoint(u.MountPath(d.ID))
	if err != nil {
		return err
	}
	_, err = u.Leases.Guard.Supersede(ctx, d.ID, epoch)
	if errors.Is(err, dataset.ErrNotFound) {
		u.Leases.Deadlines.ClearRegistered(d.ID)
		return nil
	}
	if err != nil {
		return err
	}
	steps.At("fence.Superseded")
	r := u.Uses.Get(d.ID)
	if len(r.IDs) > 0 {
		u.LogOf(ctx, d).WithField("count", len(r.IDs)).
			Warn("it continued on another node while it was fenced here: its users are killed")
		clear(r.IDs)
		if err := u.Uses.Save(ctx, d, 0, r, nil); err != nil {
			return err
		}
	}
	if !mounted { // the unmount of a mounted dataset releases it after another look at the host
		u.Leases.Registrar.Release(d.ID)
	}
	return nil
}

// Unmount ends one use of a volume, and unmounts the volume if that was the last one. It succeeds for a volume or an ID
// that is not known here: the engine requires only that the volume is not mounted for it.
func (m *Mounts) Unmount(ctx context.Context, ref dataset.Reference, id string) error {
	if ref.Err != nil {
		return nil
	}
	d, here := m.findMounted(ref, id) // without control: this node knows its own mounts
	if !here {
		return nil
	}
	began := m.Clock.Steady()
	last, err := m.Verifier.EndUse(ctx, d, id)
	if err != nil || !last {
		return err
	}
	if id == PodmanID {
		m.unmountForPodman(ctx, d, began)
		return nil
	}
	_, err = m.Jobs.Do(ctx, "unmount/"+d.ID.String(), "unmount of volume "+d.Volume, m.unmountUnused(d))
	return err
}

// unmountUnused is a job that unmounts a dataset whose last use has ended.
func (m *Mounts) unmountUnused(d dataset.Dataset) func(context.Context, *host.Job) error {
	return func(ctx context.Context, jb *host.Job) error {
		jb.Step("flushing data to disk")
		if err := m.Unmounter.IfUnused(ctx, d, m.Unmounter.Unmount); err != nil {
			return err
		}
		m.SharedMounts.ReportUnmounted(ctx, d.ID)
		return nil
	}
}

// findMounted returns the dataset that has a use with a mount ID. It may differ from the dataset that has the name now:
// a rebuild may have renamed the dataset. If this node has no record of the dataset, the result has only its UUID and
// the name. If no dataset has such a use, findMounted returns the dataset with the name, if its home is this node.
func (m *Mounts) findMounted(ref dataset.Reference, id string) (dataset.Dataset, bool) {
	d, named := m.Cache.Volume(ref.Name)
	if named {
		if _, used := m.Uses.Get(d.ID).IDs[id]; used {
			return d, true
		}
	}
	for _, other := range m.Uses.InUse() {
		// The ID alone is not sufficient: it may be used for several volumes.
		if use, ok := m.Uses.Get(other).IDs[id]; ok && slices.Contains(use.Spellings(), ref.Spelling) {
			if renamed, known := m.SharedMounts.RecordOf(other); known {
				return renamed, true
			}
			return dataset.Dataset{ID: other, Volume: ref.Name}, true
		}
	}
	return d, named
}

// PodmanPatience is how long an Unmount of Podman may take until it is answered, even if unmount(2) has not ended.
// Podman waits 5 seconds for an answer unless it is configured otherwise.
const PodmanPatience = 3 * time.Second

// unmountForPodman unmounts a dataset after Podman's last use of it has ended. It waits until PodmanPatience after the
// Unmount began, and returns no error. If the unmount takes longer or fails, it continues or is repeated in the
// background, and a Mount waits for it.
//
// If an Unmount fails or times out, Podman assumes that it did not happen: it keeps its use count, and gives the next
// container the bare mount point without a Mount. So once the agent has removed Podman's use from its records, the
// Unmount must succeed in time.
func (m *Mounts) unmountForPodman(ctx context.Context, d dataset.Dataset, began time.Duration) {
	late := m.Clock.After(began + PodmanPatience - m.Clock.Steady())
	jb := m.Jobs.Start("unmount/"+d.ID.String(), m.unmountUnused(d))
	select {
	case <-jb.Ended():
		if jb.Result() != nil {
			m.LogOf(ctx, d).WithError(jb.Result()).Warn("podman's last use has ended, and the unmount failed")
		}
	case <-late:
		m.LogOf(ctx, d).Warn("podman's last use has ended, and the unmount continues")
	case <-ctx.Done(): // Podman has closed the connection and does not receive the answer
	}
}
