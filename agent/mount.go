package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/plugin"
)

// Mount mounts a volume for one use and returns the path. If the volume is mounted already, it only
// counts one more use. Control is not asked: the home holds the lease.
//
// The ID may be empty: orchestrators other than Docker and Podman send none. It counts like any other
// ID, and is shared by all who send none.
func (a *Agent) Mount(ctx context.Context, spelling, id string) (string, error) {
	if len(id) > dataset.MaxMountID {
		return "", dataset.Errorf(dataset.ErrInvalid, "mount of %s: its ID has %d bytes (%d at most)",
			dataset.Clip(spelling), len(id), dataset.MaxMountID)
	}
	d, err := a.find(ctx, spelling)
	if err != nil {
		return "", err
	}
	if d.Home != a.NodeID && !a.visits(d) {
		if d, err = a.bring(ctx, d); err != nil {
			return "", err
		}
	}
	// In each further round another request has unmounted the dataset meanwhile. One of the two gives way in the end.
	for range 100 {
		path, err := a.use(ctx, d, spelling, id)
		if err != nil || path != "" {
			return path, err
		}
		what := "mount of volume " + d.Volume
		_, err = a.Jobs.Do(ctx, "mount/"+d.ID.String(), what, func(ctx context.Context, jb *jobs.Job) error {
			jb.Step("mounting")
			return a.ensureMounted(ctx, d)
		})
		if err != nil {
			return "", err
		}
	}
	return "", dataset.Errorf(dataset.ErrConflict, "mount of volume %s: it is mounted and unmounted all the time",
		d.Volume)
}

// use records a use with an ID if the dataset is mounted, and returns the path. Otherwise it returns no path.
func (a *Agent) use(ctx context.Context, d dataset.Dataset, spelling, id string) (string, error) {
	unlock, err := a.Locks.LockUrgent(ctx, d.ID, "mount of volume "+d.Volume)
	if err != nil {
		return "", err
	}
	defer unlock()
	path := a.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
		return "", err
	}
	r := a.uses.Get(d.ID)
	if err := a.stopped(ctx, d, path); err != nil {
		err = dataset.Errorf(dataset.ErrOffline, "mount of volume %s: %w", d.Volume, a.pools.Blame(ctx, d.Pool, err))
		if len(r.IDs) == 0 { // the next request mounts it again
			err = errors.Join(err, a.unmountLater(ctx, d))
		}
		return "", err
	}
	if _, known := r.IDs[id]; !known {
		if d, err = a.opened(d); err != nil {
			return "", err
		}
	}
	if err := a.registrar.Check(ctx, d); err != nil {
		if len(r.IDs) == 0 {
			err = errors.Join(err, a.unmountLater(ctx, d)) // no caller has the path
		}
		a.mendSoon(d.ID)
		return "", fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	first := len(r.IDs) == 0
	generation, err := a.engines.Generation(ctx, plugin.Caller(ctx), id)
	if err != nil {
		return "", fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	r.Add(id, mounting.Use{
		Count:      1,
		Generation: generation,
		Since:      a.Clock.Now(),
		As:         spelling,
		Tool:       plugin.ToolOf(ctx),
		Mounted:    a.Clock.Steady(),
	}, a.engines.HasEnded)
	r.Epoch = d.Epoch
	steps.At("mount.mounted")
	// If the caller has closed the connection, it does not get the path, and the use must not count.
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := a.saveSpelt(ctx, d, r, spelling); err != nil {
		return "", fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	a.uses.ClearIdle(d.ID)
	a.limits.Used(d.ID, a.Clock.Steady())
	if first && d.Home == a.NodeID {
		a.pools.Changed(d.Pool, false)
	}
	steps.At("mount.recorded")
	a.News.Changed(d.ID)
	return path, nil
}

// saveSpelt saves the uses of a dataset, and in the same transaction how the engine spelled the volume.
func (a *Agent) saveSpelt(ctx context.Context, d dataset.Dataset, r mounting.Record, spelling string) error {
	tool := plugin.ToolOf(ctx)
	if a.isSpelling(d, spelling, tool) {
		return a.uses.Save(ctx, d, r, nil)
	}
	a.spelling.Lock()
	defer a.spelling.Unlock()
	more, learn := a.spelt(d, spelling, tool)
	if err := a.uses.Save(ctx, d, r, more); err != nil {
		return err
	}
	learn()
	return nil
}

// ensureMounted mounts a dataset that is not mounted. Idempotent.
func (a *Agent) ensureMounted(ctx context.Context, d dataset.Dataset) error {
	unlock, err := a.Locks.LockUrgent(ctx, d.ID, "mount of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	path := a.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	if a.visits(d) {
		if err := a.mountGuest(ctx, d, path); err != nil {
			return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
		}
		return nil
	}
	if d, err = a.opened(d); err != nil {
		return err
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	// a crash after the move, before the data was put in place
	if p, comes := a.moveTable.Get(d.ID); comes && p.Epoch == d.Epoch && !a.moveTable.IsActive(d.ID) {
		if err := a.installer.Install(ctx, d, p); err != nil {
			return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
		}
	}
	if err := a.mountpoint(path); err != nil {
		return err
	}
	a.uses.MarkIdle(d.ID)
	if err := a.registrar.Arm(ctx, d); err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	steps.At("mount.begin")
	if err := a.mountDataset(ctx, pool, d, path); err != nil {
		a.registrar.ReleaseSoon(d.ID)
		return fmt.Errorf("mount of volume %s: %w", d.Volume, a.pools.Blame(ctx, d.Pool, err))
	}
	if pool.Info().Capabilities.OwnDevice {
		a.limits.Disinherit(ctx, d)
	}
	if err := a.limits.Limit(ctx, d); err != nil {
		return errors.Join(fmt.Errorf("mount of volume %s: %w", d.Volume, err), a.unmountLater(ctx, d))
	}
	a.LogOf(d).WithField("path", path).Info("mounted")
	return nil
}

// mountDataset mounts what the backend describes on path.
func (a *Agent) mountDataset(ctx context.Context, pool backends.Pool, d dataset.Dataset, path string) error {
	att, err := pool.Attach(ctx, d.ID, backends.AttachOptions{ReadOnly: d.ReadOnly, Mount: d.Profile.Filesystem.Mount})
	if err != nil {
		return err
	}
	if err := mountAttached(att, path); err != nil {
		return err
	}
	a.volumeDisks.forget()
	if !att.Mount.Grow {
		return nil
	}
	root, err := os.Open(path)
	if err != nil {
		return errors.Join(err, mount.Unmount(path))
	}
	defer root.Close()
	if r, ok := pool.(backends.Resizer); ok && !d.ReadOnly {
		if err := r.Grow(ctx, d.ID, root); err != nil {
			return errors.Join(err, root.Close(), mount.Unmount(path))
		}
	}
	return nil
}

// bindType is the FSType of a backend whose dataset is a folder.
const bindType = "bind"

// mountOn mounts what a backend describes on path.
func mountOn(m backends.Mount, path string) error {
	if m.FSType != bindType {
		return mount.Mount(path, spec(m))
	}
	src, err := os.OpenFile(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	return mount.Bind(src, path, mount.BindFlags{ReadOnly: m.Flags.ReadOnly, NoDev: m.Flags.NoDev})
}

// spec returns the arguments of mount(2) for what a backend describes.
func spec(m backends.Mount) mount.Spec {
	s := mount.Spec{
		Source:   m.Source,
		FSType:   m.FSType,
		ReadOnly: m.Flags.ReadOnly,
		Options:  append([]string(nil), m.Options...),
	}
	if m.Flags.NoDev {
		s.Options = append(s.Options, "nodev")
	}
	return s
}

// mountpoint makes the folder that a dataset is mounted on, and makes it immutable. So nobody, not even root, can write
// into it by mistake while nothing is mounted on it, and miss that data when the volume is mounted over it.
// Idempotent: a crash may have left a folder that is not immutable yet.
func (a *Agent) mountpoint(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the mount point: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the mount point: %w", err)
	}
	defer dir.Close()
	if err := fsctl.SetImmutable(dir, true); err != nil && !errors.Is(err, unix.EOPNOTSUPP) &&
		!errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("make the mount point immutable: %w", err)
	}
	return nil
}

// removeMountpoint removes the folder that a dataset was mounted on. Idempotent.
func (a *Agent) removeMountpoint(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fsctl.SetImmutable(dir, false); err != nil && !errors.Is(err, unix.EOPNOTSUPP) &&
		!errors.Is(err, unix.ENOTTY) {
		return err
	}
	return os.Remove(path) // never more than an empty folder
}

// Unmount ends one use of a volume, and unmounts the volume if that was the last one. It succeeds for a volume or an ID
// that is not known here, because the engine wants it not to be mounted.
func (a *Agent) Unmount(ctx context.Context, spelling, id string) error {
	sp, err := dataset.ParseSpec(spelling)
	if err != nil {
		return nil
	}
	d, here := a.mountedAs(sp.Name, spelling, id) // control is not asked: what is mounted here is known here
	if !here {
		return nil
	}
	began := a.Clock.Steady()
	last, err := a.unuse(ctx, d, id)
	if err != nil || !last {
		return err
	}
	if id == mounting.PodmanID {
		a.unmountForPodman(ctx, d, began)
		return nil
	}
	_, err = a.Jobs.Do(ctx, "unmount/"+d.ID.String(), "unmount of volume "+d.Volume, a.unmountUnused(d))
	return err
}

// unmountUnused is a job that unmounts a dataset whose last use has ended.
func (a *Agent) unmountUnused(d dataset.Dataset) func(context.Context, *jobs.Job) error {
	return func(ctx context.Context, jb *jobs.Job) error {
		jb.Step("writing out what is not on disk yet")
		if err := a.unmountIdle(ctx, d, a.unmountLater); err != nil {
			return err
		}
		a.leaves(ctx, d.ID)
		return nil
	}
}

// mountedAs returns the dataset that has a use with a mount ID. That may be another one than the dataset with the name:
// a rebuild may have renamed it since, or nothing but its use may be known.
func (a *Agent) mountedAs(name, spelling, id string) (dataset.Dataset, bool) {
	d, named := a.Cache.Volume(name)
	if named {
		if _, used := a.uses.Get(d.ID).IDs[id]; used {
			return d, true
		}
	}
	for _, other := range a.uses.InUse() {
		// The ID alone is not sufficient: it may be used for several volumes.
		if use, ok := a.uses.Get(other).IDs[id]; ok && use.As == spelling {
			if renamed, known := a.knownHere(other); known {
				return renamed, true
			}
			return dataset.Dataset{ID: other, Volume: name}, true
		}
	}
	return d, named
}

// unmountIdle calls unmount for a dataset without a use, with the dataset's lock. It does nothing if there is a use by
// then.
func (a *Agent) unmountIdle(ctx context.Context, d dataset.Dataset,
	unmount func(context.Context, dataset.Dataset) error) error {
	unlock, err := a.Locks.Lock(ctx, d.ID, "unmount of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	if len(a.uses.Get(d.ID).IDs) > 0 {
		return nil
	}
	return unmount(ctx, d)
}

// unmountLater unmounts a dataset whose last use has ended, and releases the guard in the background:
// the engine waits for the unmount, and the guard is released only after one more look at the host. The
// dataset's lock is held.
func (a *Agent) unmountLater(_ context.Context, d dataset.Dataset) error {
	if err := a.unmountLocked(d); err != nil {
		return err
	}
	a.registrar.ReleaseSoon(d.ID)
	return nil
}

// unmountLocked unmounts a dataset. The guard keeps the dataset registered. The dataset's lock is held.
func (a *Agent) unmountLocked(d dataset.Dataset) error {
	path := a.MountPath(d.ID)
	if err := a.registrar.CheckUnmount(d); err != nil {
		a.uses.MarkIdle(d.ID)
		return err
	}
	up, err := a.limits.Suspend(d, throttle.LiftUnmount)
	if err != nil {
		a.LogOf(d).WithError(err).Warn("what is not on disk yet is written out as slowly as the volume may be")
	}
	a.flushes.Wait(a.Ctx, a.Clock, path, throttle.LiftUnmount) // a snapshot may have stopped waiting for a slow flush
	err = mount.Unmount(path)
	a.volumeDisks.forget()
	if err == nil || errors.Is(err, mount.ErrNotMounted) {
		a.limits.End(d)
	} else {
		up.Resume()
	}
	switch {
	case errors.Is(err, mount.ErrBusy):
		a.uses.MarkIdle(d.ID)
		return dataset.Errorf(dataset.ErrInUse,
			"unmount of volume %s: something on the host still uses %s (fuser -vm %s shows what); the "+
				"unmount is tried again", d.Volume, path, path)
	case err != nil && !errors.Is(err, mount.ErrNotMounted) && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("unmount of volume %s: %w", d.Volume, err)
	case err == nil:
		a.LogOf(d).WithField("path", path).Info("unmounted")
	}
	a.uses.ClearIdle(d.ID)
	a.News.Changed(d.ID)
	steps.At("unmount.unmounted")
	a.freed(d.ID)
	return nil
}

// mountAttached mounts on path what a backend has attached, and releases the attachment.
func mountAttached(att backends.Attachment, path string) error {
	if err := mountOn(att.Mount, path); err != nil {
		return errors.Join(unmountable(err), att.Release())
	}
	if err := att.Release(); err != nil {
		return errors.Join(err, mount.Unmount(path))
	}
	return nil
}

// unmountable adds to an error of mount(2) what to do next, if the kernel found the filesystem and did not
// mount it: the kernel writes the reason only to its own log.
func unmountable(err error) error {
	var failed *mount.Error
	if !errors.As(err, &failed) || failed.Step != mount.StepCreate {
		return err
	}
	for _, why := range []error{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EINVAL} {
		if errors.Is(err, why) {
			return fmt.Errorf("%w (dmesg says why; where its filesystem is damaged, drover snapshot restore "+
				"VOLUME SNAPSHOT goes on from a snapshot, and keeps what is there)", err)
		}
	}
	return err
}
