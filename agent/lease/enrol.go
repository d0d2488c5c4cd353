package lease

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// enrolledKey is the key of the record that a node was given a part of a dataset. Such a node is enrolled.
func enrolledKey(id, node uuid.UUID) string { return "enrolled/" + id.String() + "/" + node.String() }

// loadEnrolled reads from disk which nodes are enrolled, and removes the records of datasets that have left this node.
// The cache must be loaded completely: otherwise the nodes of a dataset that is still here would be forgotten.
func (b *Deadlines) loadEnrolled(ctx context.Context) error {
	left := map[string]any{}
	err := b.DB.Each(ctx, "enrolled/", func(rest string, _ []byte) error {
		ds, who, _ := strings.Cut(rest, "/")
		id, err1 := uuid.Parse(ds)
		node, err2 := uuid.Parse(who)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if _, home := b.Cache.Dataset(id); !home {
			left[enrolledKey(id, node)] = nil
			return nil
		}
		h := b.leases[id]
		if h == nil {
			h = &boundedLease{enrolled: map[uuid.UUID]enrolment{}}
			b.leases[id] = h
		}
		h.enrolled[node] = enrolment{onDisk: true}
		return nil
	})
	if err != nil {
		return err
	}
	return b.DB.PutAll(ctx, left)
}

// Enrol records on disk, before a node is given any part of a dataset, that the node could continue from that part. It
// does nothing if the lease of the dataset is not bounded in time, or if the home is another node. It fails with
// ErrUnavailable while this node keeps the dataset open only by promises of other nodes.
func (b *Deadlines) Enrol(ctx context.Context, id, node uuid.UUID) error {
	b.enrolling.Lock()
	defer b.enrolling.Unlock()
	if done, err := b.enrolInMemory(id, node); done || err != nil {
		return err
	}
	err := b.DB.Put(ctx, map[string]any{enrolledKey(id, node): struct{}{}})
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.leases[id]
	switch {
	case h == nil: // the dataset has left this node
	case err != nil:
		delete(h.enrolled, node) // the caller gives the node no data
	default:
		h.enrolled[node] = enrolment{true, h.enrolled[node].lastRequest}
	}
	return err
}

// enrolInMemory enrols a node in memory, and records the time of its request. done reports whether the caller has
// nothing more to do, because the node is enrolled on disk already or the lease is not bounded.
func (b *Deadlines) enrolInMemory(id, node uuid.UUID) (done bool, err error) {
	d, home := b.Cache.Dataset(id)
	if !home || !b.IsBounded(d) || b.Guard == nil {
		return true, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.lease(d)
	done = h.enrolled[node].onDisk
	if !h.enrol(&b.controlSession, node, b.Clock.Steady()) {
		return false, dataset.Errorf(dataset.ErrUnavailable,
			"volume %s: node %s has it and is cut off from control: no other node gets a copy of it now",
			d.Volume, b.NodeName)
	}
	return done, nil
}

// DropUnneededNodes removes the enrolled nodes that have no recorded copy of the dataset. While such a node is
// enrolled, its promise is needed, and it refuses the promise because it does not know the dataset.
func (b *Deadlines) DropUnneededNodes(ctx context.Context) error {
	var errs []error
	for _, d := range b.Datasets() {
		now := b.Clock.Steady()
		b.mu.Lock()
		some := len(b.lease(d).unneededNodes(d, now)) > 0
		b.mu.Unlock()
		if !some {
			continue
		}
		v, err := b.Control.Volume(ctx, d.ID.String())
		if err == nil && v.Home == b.NodeID {
			err = b.dropUnneeded(ctx, v.Dataset, now)
		}
		if err != nil && !errors.Is(err, dataset.ErrNotFound) { // a dataset in the trash may be restored
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// dropUnneeded removes the enrolled nodes that cannot continue from the data that they were given. d is control's
// record of the dataset, from which it decides that. read is a time before the request for d.
func (b *Deadlines) dropUnneeded(ctx context.Context, d dataset.Dataset, read time.Duration) error {
	b.enrolling.Lock()
	defer b.enrolling.Unlock()
	drop := map[string]any{}
	b.mu.Lock()
	if h := b.leases[d.ID]; h != nil {
		for _, node := range h.unneededNodes(d, read) {
			delete(h.enrolled, node)
			drop[enrolledKey(d.ID, node)] = nil
		}
	}
	b.mu.Unlock()
	return b.DB.Put(ctx, drop)
}

// forgetLeases drops the deadlines of datasets whose home is another node now. Their enrolled nodes stay until the next
// start, so that a dataset that returns before asks them for promises too: see DropUnneededNodes.
func (b *Deadlines) forgetLeases() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, h := range b.leases {
		if _, known := b.Cache.Dataset(id); known {
			continue
		}
		if h.setEpoch(0); len(h.enrolled) == 0 {
			delete(b.leases, id)
		}
	}
}
