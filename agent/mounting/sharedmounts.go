package mounting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// A dataset of access many whose home is another node is mounted here through a shared mount. Control records the
// shared mount, and this node keeps the same record on disk:
//
//	control records it → it is written to disk → mount(2) → {mount ID} is written to disk → reply
//	the mount ID is removed from disk → umount(2) → control ends it → it is removed from disk
//
// So control knows of every mount. A crash can leave a record without a mount. That record ends as soon as control or
// this node examines it. Each shared mount has a UUID, so that a late report does not apply to the next one. If an
// operator confirms that this host is fenced although the dataset is still mounted here, control ends the record of
// the mount. This node then reports the mount again.

// SharedMount is the record of a dataset of access many that this node mounts although its home is another node.
// Control has the same record as a dataset.SharedMount.
type SharedMount struct {
	api.IndexedDataset
	// MountID is the ID of this shared mount, so that a late report does not apply to the next one.
	MountID uuid.UUID `json:"stay"`
}

// SharedMounts mounts datasets whose home is another node, and keeps control's records of shared mounts in agreement
// with the mounts. It has the shared mounts of this node, in memory and on disk, and the mounted datasets that must not
// get further users here: see Refuse. Its methods are safe for concurrent use.
type SharedMounts struct {
	*Mounts
	*host.Table[SharedMount]

	mu      sync.Mutex
	refused map[uuid.UUID]string // mounted datasets that must not get further users here, and why
}

// Mount mounts a dataset whose home is another node, and which is not mounted. If the obstacle is temporary, such as
// a move to another node of the share or a snapshot at the home, Mount retries for Timing.InUseWait. The caller holds
// the dataset's lock.
func (m *SharedMounts) Mount(ctx context.Context, d dataset.Dataset, path string) error {
	for until := m.Clock.Steady() + m.Timing.InUseWait; ; {
		err := m.mountOnce(ctx, d, path)
		if err == nil {
			return nil
		}
		if _, shared := m.Get(d.ID); shared {
			m.ReconcileSoon(d.ID, uuid.Nil)
		}
		passes := errors.Is(err, dataset.ErrPending) || errors.Is(err, errMoved)
		if !passes || m.Clock.Steady() >= until {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-m.Clock.After(m.Timing.Retry):
		}
	}
}

// errMoved is returned if a dataset is not in the pool of the share in which control has just recorded it.
var errMoved = errors.New("it was just moved to another pool of its share (try again)")

// mountOnce is one attempt of Mount.
func (m *SharedMounts) mountOnce(ctx context.Context, d dataset.Dataset, path string) error {
	r := SharedMount{MountID: uuid.New()}
	var err error
	if r.IndexedDataset, err = m.Control.ReportSharedMount(ctx, m.NodeID,
		api.SharedMountReport{Incarnation: m.Incarnation, Dataset: d.ID, ID: r.MountID}); err != nil {
		return err
	}
	steps.At("guest.recorded")
	// Write the record before the mount, so that a start without control knows which datasets are mounted.
	if err := m.Set(ctx, r.ID, r); err != nil {
		return errors.Join(err, endSharedMount(ctx, m.Host, d.ID, r.MountID))
	}
	steps.At("guest.kept")
	if r.Home == m.NodeID {
		return dataset.Errorf(dataset.ErrConflict, "volume %s moved here meanwhile: try again", d.Volume)
	}
	if !m.Leases.Nodes.Knows(r.Home) { // findings show the name of the home
		m.Jobs.Start("nodes", func(ctx context.Context, _ *host.Job) error { return m.Leases.Nodes.Refresh(ctx) })
	}
	if err := MakeMountPoint(path); err != nil {
		return err
	}
	m.Uses.MarkIdle(d.ID)
	steps.At("mount.begin")
	att, err := m.Attach(ctx, r.Dataset)
	if err != nil {
		return err
	}
	if err := MountAttached(att, path); err != nil {
		return err
	}
	m.Refuse(d.ID, nil)
	m.LogOf(ctx, r.Dataset).WithField("path", path).Info("mounted beside its home")
	return nil
}

// Attach attaches a dataset whose home is another node, through a pool of this node on the same share.
func (m *SharedMounts) Attach(ctx context.Context, d dataset.Dataset) (att backends.Attachment, err error) {
	err = errMoved
	for _, p := range m.Pools.All() {
		if p.Share == uuid.Nil {
			continue
		}
		pool, perr := m.Pools.Online(ctx, p.ID)
		if perr != nil {
			err = perr
			continue
		}
		sharer, can := pool.(backends.Sharer)
		if !can {
			continue
		}
		att, verr := sharer.Visit(ctx, d.ID, d.Pool,
			backends.AttachOptions{ReadOnly: d.ReadOnly, Mount: d.Profile.Filesystem.Mount})
		if !errors.Is(verr, dataset.ErrNotFound) {
			return att, verr
		}
	}
	return att, err
}

// endSharedMount makes control end the record of a shared mount.
func endSharedMount(ctx context.Context, h *host.Host, id, mountID uuid.UUID) error {
	_, err := h.Control.ReportSharedMount(ctx, h.NodeID, api.SharedMountReport{
		Incarnation: h.Incarnation, Dataset: id, ID: mountID, Ended: true,
	})
	return err
}

// ReconcileSoon starts a job that makes control's record and the mount of a dataset agree: see Reconcile. recorded is
// the ID of the shared mount in control's record, or uuid.Nil if that is not known.
func (m *SharedMounts) ReconcileSoon(id, recorded uuid.UUID) {
	m.Jobs.StartAgain("guest/"+id.String()+"/"+recorded.String(), func(ctx context.Context, _ *host.Job) error {
		if err := m.Reconcile(ctx, id, recorded); err != nil && ctx.Err() == nil {
			m.Log.WithError(err).WithField("dataset",
				id).Warn("cannot report a mount beside the home, or its end, to control; retrying")
		}
		return nil
	})
}

// ReconcileUnmounted retries to report the end of shared mounts whose datasets are not mounted.
func (m *SharedMounts) ReconcileUnmounted() {
	for _, id := range m.IDs() {
		if mounted, err := host.IsMountPoint(m.MountPath(id)); err == nil && !mounted {
			m.ReconcileSoon(id, uuid.Nil)
		}
	}
}

// Reconcile ends a record of a shared mount without a mount, and reports a mount without a record. Idempotent.
func (m *SharedMounts) Reconcile(ctx context.Context, id, recorded uuid.UUID) error {
	g, known, inUse, err := m.endUnmounted(ctx, id, recorded)
	if err != nil || !inUse {
		return err
	}
	if !known {
		g.MountID = uuid.New()
	}
	// The lock is not held here, so that mounts and unmounts do not wait for control.
	now, asked := m.Control.ReportSharedMount(ctx, m.NodeID, api.SharedMountReport{
		Incarnation: m.Incarnation,
		Dataset:     id,
		ID:          g.MountID,
		Mounted:     true,
	})
	unlock, err := m.Locks.Lock(ctx, id, "check of dataset "+id.String())
	if err != nil {
		return err
	}
	defer unlock()
	is, still := m.Get(id)
	mounted, err := host.IsMountPoint(m.MountPath(id))
	switch {
	case err != nil:
		return err
	case !mounted && len(m.Uses.Get(id).IDs) == 0, still != known, known && is.MountID != g.MountID:
		return nil // it changed meanwhile, and the next sync reconciles it again
	}
	return m.applyAnswer(ctx, id, SharedMount{is.IndexedDataset, g.MountID}, known, now, asked)
}

// endUnmounted ends the shared mount of a dataset that is not mounted and has no use. If the dataset is mounted or has
// a use, inUse is true, and endUnmounted ends nothing. It does nothing while control's store is inconsistent. If this
// node is the home by now, it only removes this node's record. g is that record, if known is true.
func (m *SharedMounts) endUnmounted(ctx context.Context, id, recorded uuid.UUID) (
	g SharedMount, known, inUse bool, err error,
) {
	unlock, err := m.Locks.Lock(ctx, id, "check of dataset "+id.String())
	if err != nil {
		return g, false, false, err
	}
	defer unlock()
	if m.Trust.Err() != nil {
		return g, false, false, nil
	}
	if _, home := m.Cache.Dataset(id); home {
		return g, false, false, m.Drop(ctx, id) // the home needs no shared mount
	}
	g, known = m.Get(id)
	mounted, err := host.IsMountPoint(m.MountPath(id))
	if err != nil || mounted || len(m.Uses.Get(id).IDs) > 0 {
		return g, known, err == nil, err
	}
	m.Refuse(id, nil)
	for _, mountID := range []uuid.UUID{recorded, g.MountID} {
		if mountID != uuid.Nil {
			if err := endSharedMount(ctx, m.Host, id, mountID); err != nil {
				return g, known, false, err
			}
		}
	}
	steps.At("guest.ended")
	return g, known, false, m.Drop(ctx, id)
}

// applyAnswer applies control's answer about a dataset that is mounted here. Control may have decided meanwhile that
// this node must not use the dataset.
func (m *SharedMounts) applyAnswer(ctx context.Context, id uuid.UUID, g SharedMount, known bool,
	now api.IndexedDataset,
	err error) error {
	switch {
	case errors.Is(err, dataset.ErrNotFound), errors.Is(err, dataset.ErrUnsupported):
		if err = fmt.Errorf("control has no record of this mount: %w", err); m.Refuse(id, err) && known {
			m.LogOf(ctx, g.Dataset).WithError(err).Error("it is mounted here beside its home: stop its containers here")
		}
		return nil
	case err != nil:
		return err
	}
	why := m.checkContentCurrent(ctx, now.Dataset)
	if m.Refuse(id, why) {
		m.LogOf(ctx, now.Dataset).WithError(why).Error("it is mounted here beside its home: stop its containers here")
		m.News.Changed(id)
	}
	if known && now.Index == g.Index {
		return nil
	}
	if !known { // the agent's database was lost, and with it the uses
		err = m.Verifier.AssumeUse(ctx, now.Dataset)
	}
	if err != nil {
		return err
	}
	return m.Set(ctx, now.ID, SharedMount{now, g.MountID})
}

// Apply applies the shared mounts that control has recorded for this node, and ends the recorded reservations that an
// earlier process of this agent has made. It does nothing if control's store is inconsistent.
func (m *SharedMounts) Apply(ctx context.Context, s api.Sync, inconsistent bool) error {
	if inconsistent {
		return nil
	}
	named := map[uuid.UUID]bool{}
	for _, d := range s.SharedMounts {
		named[d.ID] = true
		on, _ := d.SharedMountOf(m.NodeID)
		g, known := m.Get(d.ID)
		switch {
		case !known || g.MountID != on.ID:
			m.ReconcileSoon(d.ID, on.ID)
		case d.Index > g.Index:
			if err := m.Set(ctx, d.ID, SharedMount{d, g.MountID}); err != nil {
				return err
			}
			m.ReconcileSoon(d.ID, uuid.Nil)
		case s.Full: // Reconcile also checks that the mounted content is still current
			m.ReconcileSoon(d.ID, uuid.Nil)
		}
	}
	for _, id := range m.IDs() {
		if !named[id] && (s.Full || slices.Contains(s.RemovedDatasets, id) ||
			slices.ContainsFunc(s.Datasets, func(d api.IndexedDataset) bool { return d.ID == id })) {
			m.ReconcileSoon(id, uuid.Nil)
		}
	}
	for _, d := range s.Datasets {
		if d.Home == m.NodeID {
			m.Reservations.EndLeftover(d.Dataset)
		}
	}
	return nil
}

// ReportUnmounted ends the shared mount of a dataset that was unmounted. A failure is retried later.
func (m *SharedMounts) ReportUnmounted(ctx context.Context, id uuid.UUID) {
	if _, shared := m.Get(id); !shared {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := m.Reconcile(ctx, id, uuid.Nil); err != nil {
		m.ReconcileSoon(id, uuid.Nil)
	}
}

// checkContentCurrent returns why a dataset that is mounted here differs from the dataset that other nodes have. It
// returns nil if they do not differ, or if that is unknown. The two can differ if an operator confirmed that this host
// is fenced although it was not. After that, the home no longer considers the dataset in use here. It may have restored
// the dataset and removed the former content, although a process here still has that content open.
func (m *SharedMounts) checkContentCurrent(ctx context.Context, d dataset.Dataset) error {
	if mounted, err := host.IsMountPoint(m.MountPath(d.ID)); err != nil || !mounted {
		return nil
	}
	att, err := m.Attach(ctx, d)
	if err != nil {
		return nil
	}
	var is, here unix.Stat_t
	err = unix.Stat(att.Mount.Source, &is)
	if err := errors.Join(err, att.Release()); err != nil {
		return nil
	}
	err = unix.Stat(m.MountPath(d.ID), &here)
	// Compare only the inode numbers: the share may have been mounted again with another device number.
	if err == nil && here.Ino == is.Ino || err != nil && !errors.Is(err, unix.ESTALE) {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"it was restored while this host was confirmed as fenced: the mounted data is outdated, and writes to it "+
			"are lost")
}

// Status is this node's report of a dataset with a shared mount.
func (m *SharedMounts) Status(g SharedMount) dataset.DatasetStatus {
	mounted, err := host.IsMountPoint(m.MountPath(g.ID))
	st := dataset.DatasetStatus{ID: g.ID, Mounted: mounted, Mounts: m.Engines.MountsOf(m.Uses.Get(g.ID)),
		EngineAliases: host.AliasSpellings(m.Cache, g.Dataset, m.NodeID)}
	if mounted {
		st.MountPath = m.MountPath(g.ID)
	}
	if err != nil {
		st.Problem = dataset.Cut(err.Error())
	} else if why := m.Refusal(g.ID); why != "" {
		st.Problem = dataset.Cut(why)
	}
	if len(st.Mounts) == 0 {
		st.Mounts = nil
	}
	return st
}

// Check adds findings on the datasets with a shared mount on this node.
func (m *SharedMounts) Check(r *condition.List) {
	for _, id := range m.IDs() {
		g, _ := m.Get(id)
		if why := m.Refusal(id); why != "" {
			r.Add(condition.SharedMountRefused, "volume "+g.Volume, "", why)
		}
	}
}

// Named returns the dataset with a name or an alias. It returns no dataset that must not get further users here,
// because another dataset may have the name now.
func (m *SharedMounts) Named(name string) (dataset.Dataset, bool) {
	for id, r := range m.All() {
		if r.HasName(name) && r.State == dataset.StateReady && m.Refusal(id) == "" {
			return r.Dataset, true
		}
	}
	return dataset.Dataset{}, false
}

// IDs returns the datasets with a shared mount.
func (m *SharedMounts) IDs() []uuid.UUID {
	return slices.Collect(maps.Keys(m.All()))
}

// Refusal returns why a mounted dataset must not get further users here, or "" if it may.
func (m *SharedMounts) Refusal(id uuid.UUID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused[id]
}

// MayOpen fails with ErrConflict if a dataset that is mounted here must not get further users.
func (m *SharedMounts) MayOpen(d dataset.Dataset) error {
	if why := m.Refusal(d.ID); why != "" {
		return dataset.Errorf(dataset.ErrConflict,
			"volume %s is mounted here, and %s (stop its containers here first)", d.Volume, why)
	}
	return nil
}

// Refuse records why a mounted dataset must not get further users here. first reports whether it was not refused
// before. If why is nil, the refusal ends: the dataset may get further users, or is not mounted.
func (m *SharedMounts) Refuse(id uuid.UUID, why error) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, was := m.refused[id]
	if why == nil {
		delete(m.refused, id)
		return false
	}
	m.refused[id] = dataset.OneLine(why)
	return !was
}

// NeedsSharedMount reports whether this node can mount a dataset only through a shared mount: its access is many, and
// its home is another node.
func (m *SharedMounts) NeedsSharedMount(d dataset.Dataset) bool {
	if now, home := m.Cache.Dataset(d.ID); home {
		d = now
	}
	return d.Home != m.NodeID && d.Profile.Access == dataset.AccessMany
}

// RecordOf returns this node's record of a dataset: as its home, as the holder of a copy, or through a shared mount.
func (m *SharedMounts) RecordOf(id uuid.UUID) (dataset.Dataset, bool) {
	if d, known := m.Cache.DatasetOrCopy(id); known {
		return d, true
	}
	g, shared := m.Get(id)
	return g.Dataset, shared
}
