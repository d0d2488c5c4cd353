package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/mount"
)

// hostLook is what was mounted on this host at one moment, in all mount namespaces.
type hostLook struct {
	own       mount.Mounts
	elsewhere *mount.Foreign
}

// looks shares looks at the host between callers that wait for one at the same time: a hundred
// containers that stop together need a few looks and not a hundred. A caller never gets a look that
// began before it asked.
type looks struct {
	turn sync.Mutex // one look at a time

	mu   sync.Mutex
	next *sharedLook // that has not begun
}

type sharedLook struct {
	done chan struct{}
	look hostLook
	err  error
}

// share returns the result of a look that begins after the call.
func (l *looks) share(look func() (hostLook, error)) (hostLook, error) {
	l.mu.Lock()
	s := l.next
	if s != nil {
		l.mu.Unlock()
		<-s.done
		return s.look, s.err
	}
	s = &sharedLook{done: make(chan struct{})}
	l.next = s
	l.mu.Unlock()

	l.turn.Lock()
	defer l.turn.Unlock()
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	defer close(s.done)
	s.look, s.err = look()
	return s.look, s.err
}

// lookAtHost reads the mounts of all processes. It takes time that grows with the number of threads,
// about 10 µs for each. Callers share a look. It must not be changed.
func (a *Agent) lookAtHost() (hostLook, error) {
	return a.looks.share(func() (hostLook, error) {
		elsewhere, err := a.elsewhere()
		if err != nil {
			return hostLook{}, err
		}
		own, err := mount.Table()
		return hostLook{own, elsewhere}, err
	})
}

// holders describes where a dataset is mounted besides its mount point: one entry for each mount in
// another mount namespace, for each mount in a second place of this one, and for each process that
// could not be examined. The copies of the host's own mount that other namespaces have do not count.
//
// A dataset whose mount point is not mounted is asked of its pool. If the pool cannot tell, the
// dataset counts as held.
func (a *Agent) holders(ctx context.Context, look hostLook, d dataset.Dataset) (list []string) {
	if m := look.own.At(a.mountPath(d.ID)); m != nil {
		return a.holdersOfTree(look, d.ID, mount.Filesystem{Major: m.Major, Minor: m.Minor, Root: m.Root})
	}
	if err := a.idleInPool(ctx, d); err != nil {
		list = append(list, dataset.OneLine(err))
	}
	return list
}

// holdersOfTree is holders of a dataset whose filesystem is known.
func (a *Agent) holdersOfTree(look hostLook, id uuid.UUID, tree mount.Filesystem) (list []string) {
	path := a.mountPath(id)
	for _, e := range look.own.Of(tree.Major, tree.Minor) {
		// Another Drover on this machine may have the dataset on a share, and takes care of that itself.
		another := strings.HasSuffix(e.Mountpoint, strings.TrimPrefix(path, a.Root))
		if !another && within(e.Root, tree.Root) {
			list = append(list, "it is mounted at "+e.Mountpoint)
		}
	}
	for _, h := range look.elsewhere.Holders(tree, path) {
		list = append(list, h.String())
	}
	return list
}

// idleInPool fails unless the pool of a dataset that is not mounted says that nobody on this host has
// it in use.
func (a *Agent) idleInPool(ctx context.Context, d dataset.Dataset) error {
	pool, err := a.pools.online(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("whether a process still has it mounted is not known: %w", err)
	}
	idler, can := pool.(backends.Idler)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported,
			"whether a process still has it mounted is not known: pool %s cannot tell", a.pools.name(d.Pool))
	}
	err = idler.Idle(ctx, d.ID)
	if errors.Is(err, dataset.ErrNotFound) { // there is nothing to hold
		return nil
	}
	return err
}

// unheld fails with ErrInUse while a dataset is mounted anywhere besides its mount point, or that
// cannot be found out. what is the work that has to wait. The dataset's lock is held.
func (a *Agent) unheld(ctx context.Context, d dataset.Dataset, what string) error {
	look, err := a.lookAtHost()
	if err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"%s of volume %s: whether a process on node %s still has it mounted is not known: %w", what, d.Volume, a.NodeName, err)
	}
	if list := a.holders(ctx, look, d); len(list) > 0 {
		return dataset.Errorf(dataset.ErrInUse,
			"%s of volume %s: it is still in use on node %s: %s (end that first)", what, d.Volume, a.NodeName, list[0])
	}
	return nil
}

// unmountUnheld unmounts a dataset that has no recorded use, unless somebody has it mounted all the
// same: then it stays mounted, and the guard keeps it. It fails with ErrInUse. The dataset's lock is
// held.
func (a *Agent) unmountUnheld(ctx context.Context, d dataset.Dataset) error {
	if err := a.unheld(ctx, d, "unmount"); err != nil {
		a.idle(d.ID)
		return err
	}
	if err := a.unmountLocked(d); err != nil {
		return err
	}
	a.release(d.ID)
	return nil
}

// releaseUnheld has the guard forget a dataset that is not mounted, unless anybody on this host has it
// mounted all the same. It fails with ErrInUse then. A dataset that the guard does not have needs no
// look. The dataset's lock is held.
func (a *Agent) releaseUnheld(ctx context.Context, d dataset.Dataset) error {
	if _, armed := a.bounds.armedAt(d.ID); !armed || a.Guard == nil {
		return nil
	}
	if err := a.unheldByGuard(ctx, d); err != nil {
		if a.bounds.isKept(d.ID, err.Error()) {
			const watches = "the guard goes on watching a volume that is unmounted: a process may still write to it"
			a.log(d).WithError(err).Warn(watches)
		}
		return err
	}
	a.release(d.ID)
	return nil
}

// unheldByGuard is unheld for a dataset that is not mounted: the guard knows which filesystem it was.
func (a *Agent) unheldByGuard(ctx context.Context, d dataset.Dataset) error {
	e, there, err := a.entry(ctx, d.ID)
	if err == nil && (!there || e.Filesystem == mount.Filesystem{}) { // it was never mounted
		return nil
	}
	if err == nil {
		look, lerr := a.lookAtHost()
		if lerr == nil && len(a.holdersOfTree(look, d.ID, e.Filesystem)) == 0 {
			return nil
		}
	}
	// The device number may be another filesystem's by now.
	if err := a.idleInPool(ctx, d); err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s is unmounted, but still in use on node %s: %w", d.Volume, a.NodeName, err)
	}
	return nil
}

// releaseSoon has the guard forget a dataset that is not mounted, as releaseUnheld does, in the
// background.
func (a *Agent) releaseSoon(id uuid.UUID) {
	if _, armed := a.bounds.armedAt(id); armed && a.Guard != nil {
		a.mendSoon(id)
	}
}

// isKept notes why the guard keeps a dataset that is not mounted, and reports whether that is news.
func (b *bounds) isKept(id uuid.UUID, why string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.kept[id]
	b.kept[id] = why
	return was != why
}
