// Package bindmount tracks the use of datasets that are mounted by binding a directory of their pool. Backends btrfs
// and dir call it: each of their pools has a [Tracker]. A pool of backend nfs contains a pool of backend dir, and so
// its Tracker.
//
// The only state of a Tracker is the number of attachments of this process, which a mutex protects. Whether a dataset
// is mounted or open is read from the kernel each time, because other processes can mount it, and because a mount
// survives a restart of the agent.
package bindmount

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Tracker counts the attachments of the datasets of a pool, and finds out whether a dataset is in use. The zero value
// is ready. It is safe for concurrent use.
type Tracker struct {
	attached backends.Attachments

	// MountPath returns the path on which the agent mounts a dataset: see backends.Config. If nil, it is not known.
	MountPath func(id uuid.UUID) string

	// For tests. If nil, mount.ReadForeign and inuse.FindOpenFiles are called.
	elsewhere func() (*mount.Foreign, error)
	files     func(context.Context, []mount.Filesystem) (*inuse.Files, error)
}

// Attach attaches a directory, which is the head of a dataset; see backends.Pool.
func (t *Tracker) Attach(id uuid.UUID, directory string, readOnly bool) backends.Attachment {
	release := t.attached.Add(id)
	return backends.Attachment{
		Mount: backends.Mount{
			Source: directory,
			FSType: "bind",
			// A device node in a volume must not give access to a disk of the host.
			Flags: backends.MountFlags{ReadOnly: readOnly, NoDev: true},
		},
		Release: func() error {
			release()
			return nil
		},
	}
}

// A container that is being started has a copy of each mount of the host until its runtime drops the copies. The copies
// include datasets that the host has unmounted meanwhile. So a mount that exists only in another mount namespace counts
// as a use only if repeated checks find it for half a second. The same applies to an open file.
const (
	checks     = 5
	checkPause = 100 * time.Millisecond
	// checkBound is how long the check is repeated. One check can take many seconds on a busy host.
	checkBound = 2 * time.Second
)

// CheckRemovable is CheckIdle for a dataset that is removed. An incoming dataset, such as the clone of a backup, is in
// use only while it is attached: it was never mounted where another process could see it. So no stranger whose mounts
// cannot be examined keeps it.
func (t *Tracker) CheckRemovable(ctx context.Context, id uuid.UUID, folder string, state backends.EntryState) error {
	if state == backends.EntryIncoming {
		return t.attached.CheckNone(id)
	}
	return t.CheckIdle(ctx, id, folder)
}

// CheckIdle fails with dataset.ErrInUse while a dataset is in use. folder is the path of the dataset's folder. The
// dataset is in use if it is attached, if the folder or a part of it is mounted in any mount namespace of this host, or
// if a process has a directory in it open, or a file for writing (see inuse.FindOpenFiles). The open files matter,
// because a container can pass an open file to a process that sees no mount of the dataset. If the use cannot be
// determined, CheckIdle fails too.
//
// A copy of the agent's mount in another mount namespace counts only if a process can reach it: see
// mount.Foreign.Copies.
//
// A backend calls CheckIdle before it replaces or destroys a head, and before it copies a head file by file.
func (t *Tracker) CheckIdle(ctx context.Context, id uuid.UUID, folder string) error {
	if err := t.attached.CheckNone(id); err != nil {
		return err
	}
	began := clock.System{}.Steady()
	for try := 0; ; try++ {
		at, err := t.findUse(ctx, id, folder)
		switch {
		case err != nil:
			return fmt.Errorf("check whether dataset %s is mounted: %w", id, err)
		case at.unsure:
			return dataset.Errorf(dataset.ErrInUse,
				"dataset %s: which part of its share is mounted at %s is unknown, so it may be in use: unmount "+
					"that first", id, at.point)
		case at.point != "":
			return dataset.Errorf(dataset.ErrInUse, "dataset %s: %w", id, inuse.PathUser(at.point))
		case at.user == nil:
			return nil
		case try == checks || ctx.Err() != nil || clock.System{}.Steady()-began > checkBound:
			return dataset.Errorf(dataset.ErrInUse, "dataset %s is in use: %w", id, at.user)
		}
		select {
		case <-ctx.Done():
		case <-time.After(checkPause):
		}
	}
}
