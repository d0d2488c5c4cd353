package mounting

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/plugin"
)

// mountAttempts is how often a Mount is tried while other requests unmount the dataset before the use is recorded.
// Because such requests end, a Mount succeeds after far fewer attempts.
const mountAttempts = 100

// Mount mounts a volume for one use and returns the path: it finds the dataset, gets the lease, mounts the dataset
// unless it is mounted, and records the use. If this node is the home, it has the lease, and control is not asked.
//
// The ID may be empty: orchestrators other than Docker and Podman send none. An empty ID counts like any other ID:
// all orchestrators that send no ID share it.
func (m *Mounts) Mount(ctx context.Context, ref dataset.Reference, id string) (string, error) {
	if len(id) > dataset.MaxMountID {
		return "", dataset.Errorf(dataset.ErrInvalid, "mount of %s: its ID has %d bytes (%d at most)",
			dataset.Clip(ref.Spelling), len(id), dataset.MaxMountID)
	}
	asked := m.Cache.Moment()
	d, err := m.Find(ctx, ref)
	if errors.Is(err, dataset.ErrNotFound) {
		now, mounted := m.MountedAs(ref.Spelling)
		switch {
		case mounted && now.State == dataset.StateTrashed:
			return "", dataset.Errorf(dataset.ErrNotFound,
				"mount of %s: volume %s was deleted, only containers that run use it (stop them, or restore it: "+
					"drover trash restore %s)", dataset.Clip(ref.Spelling), now.Volume, now.ID.String()[:8])
		case mounted:
			return "", dataset.Errorf(dataset.ErrNotFound,
				"mount of %s: volume %s does not have this name any more, only containers that run use it (recreate "+
					"the container with the name %s; until then, docker exec reaches its files, and docker cp does "+
					"not)", dataset.Clip(ref.Spelling), now.Volume, now.Volume)
		}
	}
	if err != nil {
		return "", err
	}
	if err := m.Membership.Check(); err != nil {
		return "", err
	}
	if d, err = m.getLease(ctx, d); err != nil {
		return "", err
	}
	for range mountAttempts {
		path, err := m.AddUse(ctx, d, asked, ref, id)
		if err != nil || path != "" {
			return path, err
		}
		// The dataset was not mounted, or another request has unmounted it.
		if err := m.mountInJob(ctx, d, asked); err != nil {
			return "", err
		}
	}
	return "", dataset.Errorf(dataset.ErrConflict,
		"mount of volume %s: gave up after %d attempts: other requests keep unmounting it", d.Volume, mountAttempts)
}

// getLease makes sure that this node may mount a dataset, and returns the record. If this node is not the home
// and cannot get a shared mount, getLease moves the dataset here.
func (m *Mounts) getLease(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	if d.Home == m.NodeID || m.SharedMounts.NeedsSharedMount(d) {
		return d, nil
	}
	return m.moves.Bring(ctx, d)
}

// mountInJob mounts a dataset in a job. Concurrent mounts of the same dataset share the job. The job continues if the
// request ends first.
func (m *Mounts) mountInJob(ctx context.Context, d dataset.Dataset, asked uint64) error {
	_, err := m.Jobs.Do(ctx, "mount/"+d.ID.String(), "mount of volume "+d.Volume,
		func(ctx context.Context, jb *host.Job) error {
			jb.Step("mounting")
			return m.EnsureMounted(ctx, d, asked)
		})
	return err
}

// AddUse records a use with an ID if the dataset is mounted, and returns the path. Otherwise it returns no path. The
// argument asked is that of MayMount.
func (m *Mounts) AddUse(ctx context.Context, d dataset.Dataset, asked uint64, ref dataset.Reference, id string) (
	string, error) {
	unlock, err := m.Locks.Lock(ctx, d.ID, "mount of volume "+d.Volume)
	if err != nil {
		return "", err
	}
	defer unlock()
	path := m.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
		return "", err
	}
	r := m.Uses.Get(d.ID)
	if d, err = m.checkMounted(ctx, d, asked, r, id); err != nil {
		return "", err
	}
	if err := m.recordUse(ctx, d, asked, ref, r, id); err != nil {
		return "", err
	}
	return path, nil
}

// checkMounted checks whether a mounted dataset may get one more use: its disk, the guard and, for a new ID, the lease.
// For a new ID, it returns the present record of the dataset, otherwise d. If the check of the disk or the guard fails
// and the dataset has no use, checkMounted unmounts the dataset: no caller has the path, and the next request mounts it
// again. The dataset's lock is held.
func (m *Mounts) checkMounted(ctx context.Context, d dataset.Dataset, asked uint64, r Record, id string) (
	dataset.Dataset, error) {
	if err := m.Disks.Check(ctx, d, m.MountPath(d.ID)); err != nil {
		err = dataset.Errorf(dataset.ErrOffline, "mount of volume %s: %w", d.Volume, m.Pools.Explain(ctx, d.Pool, err))
		if len(r.IDs) == 0 {
			err = errors.Join(err, m.Unmounter.Unmount(ctx, d))
		}
		return d, err
	}
	if _, known := r.IDs[id]; !known {
		now, err := m.MayMount(d, asked)
		if err != nil {
			return d, err
		}
		d = now
	}
	if err := m.Leases.Registrar.Check(ctx, d); err != nil {
		if len(r.IDs) == 0 {
			err = errors.Join(err, m.Unmounter.Unmount(ctx, d))
		}
		m.RepairSoon(d.ID)
		return d, fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	return d, nil
}

// recordUse adds a use to the record of a mounted dataset, and saves the record together with the spelling. The
// argument asked is that of MayMount. The dataset's lock is held.
func (m *Mounts) recordUse(ctx context.Context, d dataset.Dataset, asked uint64, ref dataset.Reference, r Record,
	id string) error {
	first := len(r.IDs) == 0
	generation, err := m.Engines.Generation(ctx, plugin.Caller(ctx), id)
	if err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	r.Add(id, Use{
		Count:      1,
		Generation: generation,
		Since:      m.Clock.Now(),
		Spelling:   ref.Spelling,
		Tool:       plugin.ToolOf(ctx),
		LastMount:  m.Clock.Steady(),
	}, m.Engines.HasEnded)
	r.Epoch = d.Epoch
	steps.At("mount.mounted")
	// If the caller has closed the connection, it does not get the path, and the use must not count.
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.Spellings.Save(d, ref, plugin.ToolOf(ctx), func(more map[string]any) error {
		return m.Uses.Save(ctx, d, asked, r, more)
	}); err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	m.Uses.ClearIdle(d.ID)
	m.Throttle.NoteUse(d.ID)
	if first && d.Home == m.NodeID {
		m.Pools.MarkChanged(d.Pool, false)
	}
	steps.At("mount.recorded")
	m.News.Changed(d.ID)
	return nil
}

// EnsureMounted mounts a dataset that is not mounted. Idempotent. The argument asked is that of MayMount.
func (m *Mounts) EnsureMounted(ctx context.Context, d dataset.Dataset, asked uint64) error {
	unlock, err := m.Locks.Lock(ctx, d.ID, "mount of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	path := m.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	if m.SharedMounts.NeedsSharedMount(d) {
		if err := m.SharedMounts.Mount(ctx, d, path); err != nil {
			return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
		}
		return nil
	}
	if d, err = m.MayMount(d, asked); err != nil {
		return err
	}
	pool, err := m.Pools.Online(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	if err := m.moves.InstallArrived(ctx, d); err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	if err := MakeMountPoint(path); err != nil {
		return err
	}
	m.Uses.MarkIdle(d.ID)
	if err := m.Leases.Registrar.Register(ctx, d); err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	steps.At("mount.begin")
	if err := m.MountDataset(ctx, pool, d, path); err != nil {
		m.Leases.Registrar.ReleaseSoon(d.ID)
		err = host.WithRemedy(ctx, pool, d, err)
		return fmt.Errorf("mount of volume %s: %w", d.Volume, m.Pools.Explain(ctx, d.Pool, err))
	}
	m.LostWrites.Mounted(ctx, pool, d, path)
	if pool.Info().Capabilities.OwnDevice {
		m.Throttle.RemoveInherited(d)
	}
	if err := m.Throttle.Limit(ctx, d); err != nil {
		return errors.Join(fmt.Errorf("mount of volume %s: %w", d.Volume, err), m.Unmounter.Unmount(ctx, d))
	}
	m.LogOf(ctx, d).WithField("path", path).Info("mounted")
	return nil
}

// MountDataset attaches a dataset and mounts it on path. After a full pool or a disk error, a filesystem accepts no
// writes until its last mount has ended, and another mount namespace can still have a copy of a mount. Then
// MountDataset calls backends.Releaser, and mounts the dataset again.
func (m *Mounts) MountDataset(ctx context.Context, pool backends.Pool, d dataset.Dataset, path string) error {
	att, err := m.attachAndMount(ctx, pool, d, path)
	if r, can := pool.(backends.Releaser); can && err == nil && m.Disks.Examine(d, path) != nil {
		if err = mount.Unmount(path); err == nil {
			err = r.Release(ctx, d.ID)
		}
		if err == nil {
			att, err = m.attachAndMount(ctx, pool, d, path)
		}
	}
	if err != nil {
		return err
	}
	if att.Mount.FSType != bindType {
		// A killed agent may have left it frozen while it shut down an earlier mount (backends.Releaser).
		if err := Thaw(path); err != nil {
			return errors.Join(err, mount.Unmount(path))
		}
	}
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

func (m *Mounts) attachAndMount(ctx context.Context, pool backends.Pool, d dataset.Dataset, path string) (
	att backends.Attachment, err error) {
	att, err = pool.Attach(ctx, d.ID, backends.AttachOptions{ReadOnly: d.ReadOnly, Mount: d.Profile.Filesystem.Mount})
	if err == nil {
		err = MountAttached(att, path)
	}
	m.Disks.DropTable()
	return att, err
}

// MayMount returns the present record of a dataset, for a caller that waited for its lock. It fails if the dataset
// may not be mounted here for another user.
//
// asked is the Moment of the cache before the caller got the record from control. A record in the cache that is older
// does not count: right after drover trash restore, control answers that the volume is ready, and the cache still has
// it in the trash. If asked is 0, the record in the cache always counts.
func (m *Mounts) MayMount(d dataset.Dataset, asked uint64) (dataset.Dataset, error) {
	now, known := host.Newer(m.Cache, d, asked)
	if known {
		d = now
	} else if g, shared := m.SharedMounts.Get(d.ID); shared && g.State == dataset.StateReady {
		return g.Dataset, m.SharedMounts.MayOpen(g.Dataset)
	}
	switch _, left := m.Cache.Copy(d.ID); {
	case left || d.Home != m.NodeID:
		return d, dataset.Errorf(dataset.ErrConflict, "volume %s moved to another node meanwhile: try again", d.Volume)
	case d.State != dataset.StateReady:
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	}
	if err := m.Pools.CheckQuarantine(d.Pool); err != nil {
		return d, fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	if err := m.Membership.Check(); err != nil {
		return d, err
	}
	return d, m.Leases.MayOpen(d, "mount")
}

// MakeMountPoint makes the folder that a dataset is mounted on, and makes it immutable. While nothing is mounted on it,
// no user can write into the folder by mistake, not even root: the next mount would hide such data. Idempotent: a crash
// may have left a folder that is not immutable yet.
func MakeMountPoint(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create the mount point: %w", err)
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

// RemoveMountPoint removes the folder that a dataset was mounted on. Idempotent.
func RemoveMountPoint(path string) error {
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
	return os.Remove(path) // removes only an empty folder
}

// MountAttached mounts an attachment of a backend on path, and releases the attachment.
func MountAttached(att backends.Attachment, path string) error {
	if err := mountOn(att.Mount, path); err != nil {
		return errors.Join(ExplainMountError(err), att.Release())
	}
	if err := att.Release(); err != nil {
		return errors.Join(err, mount.Unmount(path))
	}
	return nil
}

func mountOn(m backends.Mount, path string) error {
	if m.FSType != bindType {
		return mount.Mount(path, mountSpec(m))
	}
	src, err := os.OpenFile(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	return mount.Bind(src, path, mount.BindFlags{ReadOnly: m.Flags.ReadOnly, NoDev: m.Flags.NoDev})
}

// mountSpec returns the arguments of mount(2) for a backend's dataset.
func mountSpec(m backends.Mount) mount.Spec {
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

// ExplainMountError adds a hint to an error of mount(2) if the kernel found a filesystem but refused to mount it. The
// hint says to look in the kernel's log, because the kernel writes the reason only there.
func ExplainMountError(err error) error {
	var failed *mount.Error
	if !errors.As(err, &failed) || failed.Step != mount.StepCreate {
		return err
	}
	for _, why := range []error{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EINVAL} {
		if errors.Is(err, why) {
			return fmt.Errorf("%w (dmesg shows the cause; if its filesystem is damaged, drover snapshot restore "+
				"VOLUME SNAPSHOT continues from a snapshot, and keeps the current data)", err)
		}
	}
	return err
}

// bindType is the FSType of a backend whose dataset is a folder.
const bindType = "bind"

// Thaw thaws a filesystem that a killed agent left frozen. It does nothing if the filesystem is not frozen.
func Thaw(path string) error {
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

// MountInspection mounts a superseded head. A pool without copies (not a backends.Copier) has only the head and no
// snapshot of it, so MountInspection mounts the head itself.
func (m *Mounts) MountInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	d := *k.Record
	d.ID, d.Size, d.ReadOnly = host.InspectionID(k), 0, true
	path := m.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	what := "inspect the copy of volume " + d.Volume + " on node " + m.NodeName
	if _, copies := pool.(backends.Copier); copies && k.Snapshot == uuid.Nil {
		return dataset.Errorf(dataset.ErrPending, "%s: it has not been saved as a snapshot yet", what)
	} else if !copies {
		d.ID = k.Dataset
	} else if _, err := pool.Clone(ctx, d, dataset.Source{Dataset: k.Dataset, Snapshot: k.Snapshot}, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.cloned")
	if err := MakeMountPoint(path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := m.MountDataset(ctx, pool, d, path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.mounted")
	m.LogOf(ctx, d).WithField("path", path).Info("mounted a superseded copy read-only, as requested")
	return nil
}

// UnmountInspection removes what MountInspection made.
func (m *Mounts) UnmountInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	id := host.InspectionID(k)
	path := m.MountPath(id)
	err := mount.Unmount(path)
	switch {
	case errors.Is(err, mount.ErrBusy):
		return dataset.Errorf(dataset.ErrInUse, "the superseded copy of dataset %[2]s on node %[1]s stays "+
			"mounted: a process on the host still uses %[3]s (fuser -vm %[4]s shows it); retrying the unmount",
			m.NodeName, k.Dataset, path, path)
	case err != nil && !errors.Is(err, mount.ErrNotMounted) && !errors.Is(err, os.ErrNotExist):
		return err
	}
	steps.At("hide.unmounted")
	if err := RemoveMountPoint(path); err != nil {
		return err
	}
	return pool.Delete(ctx, id)
}
