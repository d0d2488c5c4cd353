package mounting

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/plugin"
)

// MounterDeps are the dependencies of Mounter.
type MounterDeps struct {
	*host.Host
	Pools     *pool.Pools
	Prober    *pool.Prober
	Leases    *lease.Table
	Registrar *lease.Registrar
	Throttle  *throttle.Limits
	Engines   *Engines
	Uses      *UseTable
	Guests    *Guests
	Verifier  *Verifier
	Unmounter *Unmounter
	Disks     *Disks

	// Find returns the volume to which an engine refers.
	Find func(ctx context.Context, ref dataset.Reference) (dataset.Dataset, error)
	// Bring makes this node the home of a dataset.
	Bring func(context.Context, dataset.Dataset) (dataset.Dataset, error)
	// InstallArrived puts in place the data that a move has brought here, if it is not in place yet: the agent may have
	// been killed before. Idempotent. The dataset's lock is held.
	InstallArrived func(context.Context, dataset.Dataset) error
	// SaveSpelling calls save with the values that record on disk how a tool spells a volume.
	SaveSpelling func(
		d dataset.Dataset, ref dataset.Reference, tool plugin.Tool, save func(more map[string]any) error) error
	// MendSoon has the guard's record of a dataset made right.
	MendSoon func(dataset uuid.UUID)
}

// Mounter mounts volumes for containers, and unmounts them after their last use. It has no state of its own. Its
// methods are safe for concurrent use.
type Mounter struct{ MounterDeps }

// NewMounter returns a Mounter.
func NewMounter(deps MounterDeps) *Mounter { return &Mounter{deps} }

// Mount mounts a volume for one use and returns the path. If the volume is mounted already, it only
// counts one more use. Control is not asked: the home holds the lease.
//
// The ID may be empty: orchestrators other than Docker and Podman send none. It counts like any other
// ID, and is shared by all who send none.
func (m *Mounter) Mount(ctx context.Context, ref dataset.Reference, id string) (string, error) {
	if len(id) > dataset.MaxMountID {
		return "", dataset.Errorf(dataset.ErrInvalid, "mount of %s: its ID has %d bytes (%d at most)",
			dataset.Clip(ref.Spelling), len(id), dataset.MaxMountID)
	}
	d, err := m.Find(ctx, ref)
	if err != nil {
		return "", err
	}
	if d.Home != m.NodeID && !m.Guests.Table.IsGuest(d) {
		if d, err = m.Bring(ctx, d); err != nil {
			return "", err
		}
	}
	// In each further round another request has unmounted the dataset meanwhile. One of the two gives way in the end.
	for range 100 {
		path, err := m.Use(ctx, d, ref, id)
		if err != nil || path != "" {
			return path, err
		}
		what := "mount of volume " + d.Volume
		_, err = m.Jobs.Do(ctx, "mount/"+d.ID.String(), what, func(ctx context.Context, jb *jobs.Job) error {
			jb.Step("mounting")
			return m.EnsureMounted(ctx, d)
		})
		if err != nil {
			return "", err
		}
	}
	return "", dataset.Errorf(dataset.ErrConflict, "mount of volume %s: it is mounted and unmounted all the time",
		d.Volume)
}

// Use records a use with an ID if the dataset is mounted, and returns the path. Otherwise it returns no path.
func (m *Mounter) Use(ctx context.Context, d dataset.Dataset, ref dataset.Reference, id string) (string, error) {
	unlock, err := m.Locks.LockUrgent(ctx, d.ID, "mount of volume "+d.Volume)
	if err != nil {
		return "", err
	}
	defer unlock()
	path := m.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
		return "", err
	}
	r := m.Uses.Get(d.ID)
	if err := m.Disks.Check(ctx, d, path); err != nil {
		err = dataset.Errorf(dataset.ErrOffline, "mount of volume %s: %w", d.Volume, m.Prober.Blame(ctx, d.Pool, err))
		if len(r.IDs) == 0 { // the next request mounts it again
			err = errors.Join(err, m.Unmounter.Unmount(ctx, d))
		}
		return "", err
	}
	if _, known := r.IDs[id]; !known {
		if d, err = m.MayMount(d); err != nil {
			return "", err
		}
	}
	if err := m.Registrar.Check(ctx, d); err != nil {
		if len(r.IDs) == 0 {
			err = errors.Join(err, m.Unmounter.Unmount(ctx, d)) // no caller has the path
		}
		m.MendSoon(d.ID)
		return "", fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	first := len(r.IDs) == 0
	generation, err := m.Engines.Generation(ctx, plugin.Caller(ctx), id)
	if err != nil {
		return "", fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	r.Add(id, Use{
		Count:      1,
		Generation: generation,
		Since:      m.Clock.Now(),
		Spelling:   ref.Spelling,
		Tool:       plugin.ToolOf(ctx),
		Mounted:    m.Clock.Steady(),
	}, m.Engines.HasEnded)
	r.Epoch = d.Epoch
	steps.At("mount.mounted")
	// If the caller has closed the connection, it does not get the path, and the use must not count.
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := m.SaveSpelling(d, ref, plugin.ToolOf(ctx), func(more map[string]any) error {
		return m.Uses.Save(ctx, d, r, more)
	}); err != nil {
		return "", fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	m.Uses.ClearIdle(d.ID)
	m.Throttle.Used(d.ID, m.Clock.Steady())
	if first && d.Home == m.NodeID {
		m.Pools.Changed(d.Pool, false)
	}
	steps.At("mount.recorded")
	m.News.Changed(d.ID)
	return path, nil
}

// EnsureMounted mounts a dataset that is not mounted. Idempotent.
func (m *Mounter) EnsureMounted(ctx context.Context, d dataset.Dataset) error {
	unlock, err := m.Locks.LockUrgent(ctx, d.ID, "mount of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	path := m.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	if m.Guests.Table.IsGuest(d) {
		if err := m.Guests.Mount(ctx, d, path); err != nil {
			return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
		}
		return nil
	}
	if d, err = m.MayMount(d); err != nil {
		return err
	}
	pool, err := m.Pools.Online(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	if err := m.InstallArrived(ctx, d); err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	if err := MakeMountPoint(path); err != nil {
		return err
	}
	m.Uses.MarkIdle(d.ID)
	if err := m.Registrar.Arm(ctx, d); err != nil {
		return fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	steps.At("mount.begin")
	if err := m.MountDataset(ctx, pool, d, path); err != nil {
		m.Registrar.ReleaseSoon(d.ID)
		return fmt.Errorf("mount of volume %s: %w", d.Volume, m.Prober.Blame(ctx, d.Pool, err))
	}
	if pool.Info().Capabilities.OwnDevice {
		m.Throttle.Disinherit(ctx, d)
	}
	if err := m.Throttle.Limit(ctx, d); err != nil {
		return errors.Join(fmt.Errorf("mount of volume %s: %w", d.Volume, err), m.Unmounter.Unmount(ctx, d))
	}
	m.LogOf(d).WithField("path", path).Info("mounted")
	return nil
}

// MountDataset attaches a dataset and mounts it on path.
func (m *Mounter) MountDataset(ctx context.Context, pool backends.Pool, d dataset.Dataset, path string) error {
	att, err := pool.Attach(ctx, d.ID, backends.AttachOptions{ReadOnly: d.ReadOnly, Mount: d.Profile.Filesystem.Mount})
	if err != nil {
		return err
	}
	if err := MountAttached(att, path); err != nil {
		return err
	}
	m.Disks.Forget()
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

// Unmount ends one use of a volume, and unmounts the volume if that was the last one. It succeeds for a volume or an ID
// that is not known here, because the engine wants it not to be mounted.
func (m *Mounter) Unmount(ctx context.Context, ref dataset.Reference, id string) error {
	if ref.Err != nil {
		return nil
	}
	d, here := m.mountedAs(ref, id) // control is not asked: this node knows its own mounts
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
func (m *Mounter) unmountUnused(d dataset.Dataset) func(context.Context, *jobs.Job) error {
	return func(ctx context.Context, jb *jobs.Job) error {
		jb.Step("writing out what is not on disk yet")
		if err := m.Unmounter.IfUnused(ctx, d, m.Unmounter.Unmount); err != nil {
			return err
		}
		m.Guests.Leave(ctx, d.ID)
		return nil
	}
}

// mountedAs returns the dataset that has a use with a mount ID. That may be another one than the dataset with the name:
// a rebuild may have renamed it since, or nothing but its use may be known.
func (m *Mounter) mountedAs(ref dataset.Reference, id string) (dataset.Dataset, bool) {
	d, named := m.Cache.Volume(ref.Name)
	if named {
		if _, used := m.Uses.Get(d.ID).IDs[id]; used {
			return d, true
		}
	}
	for _, other := range m.Uses.InUse() {
		// The ID alone is not sufficient: it may be used for several volumes.
		if use, ok := m.Uses.Get(other).IDs[id]; ok && use.Spelling == ref.Spelling {
			if renamed, known := m.Guests.Table.Known(other); known {
				return renamed, true
			}
			return dataset.Dataset{ID: other, Volume: ref.Name}, true
		}
	}
	return d, named
}

// MayMount returns the present record of a dataset, for a caller that waited for its lock. It fails if the dataset
// may not be mounted here for another user.
func (m *Mounter) MayMount(d dataset.Dataset) (dataset.Dataset, error) {
	now, known := m.Cache.Dataset(d.ID)
	if known {
		d = now
	} else if g, guest := m.Guests.Table.Get(d.ID); guest && g.State == dataset.StateReady {
		return g.Dataset, m.Guests.Table.MayOpen(g.Dataset)
	}
	switch _, left := m.Cache.Copy(d.ID); {
	case left || d.Home != m.NodeID:
		return d, dataset.Errorf(dataset.ErrConflict, "volume %s went to another node meanwhile: ask again", d.Volume)
	case d.State != dataset.StateReady:
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	}
	if err := m.Pools.Free(d.Pool); err != nil {
		return d, fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	return d, m.Leases.MayOpen(d, "mount")
}
