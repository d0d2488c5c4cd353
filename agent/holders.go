package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// hostLook contains the mounts of this host at one moment, in all mount namespaces.
type hostLook struct {
	own       mount.Mounts
	elsewhere *mount.Foreign
	files     *inuse.Files // nil if the look was at mounts only
}

// looks shares looks at the host between callers: a hundred containers that stop together need a few
// looks and not a hundred. A caller never gets a look that began before its call. Safe for concurrent
// use.
type looks struct {
	turn sync.Mutex // held during a look: one at a time

	mu   sync.Mutex
	next *sharedLook // the next look, or nil if nobody waits for one
}

type sharedLook struct {
	done chan struct{}
	look hostLook
	err  error
}

// share returns the result of a look that begins after the call. If several callers wait for the next
// look, only one of them calls look.
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

// lookAtHost reads the mounts of all processes. It takes about 10 µs for each thread on the host.
// Callers share the result and must not change it.
func (a *Agent) lookAtHost() (hostLook, error) {
	return a.looks.share(func() (hostLook, error) {
		elsewhere, err := a.elsewhere()
		if err != nil {
			return hostLook{}, err
		}
		own, err := mount.Table()
		return hostLook{own: own, elsewhere: elsewhere}, err
	})
}

// lookAtFiles reads what lookAtHost reads, and which files of a tree are open: see inuse.Open. It takes about
// ten times as long. Callers share the result and must not change it.
func (a *Agent) lookAtFiles(ctx context.Context, tree mount.Filesystem) (hostLook, error) {
	look, err := a.lookAtHost()
	if err == nil {
		look.files, err = a.files(ctx, []mount.Filesystem{tree})
	}
	return look, err
}

// lookAtDataset is lookAtFiles for a mounted dataset. For one that is not mounted it is lookAtHost, because
// holders asks the pool then, which looks at open files.
func (a *Agent) lookAtDataset(ctx context.Context, d dataset.Dataset) (hostLook, error) {
	own, err := mount.Table()
	if err != nil {
		return hostLook{}, err
	}
	if m := own.At(a.MountPath(d.ID)); m != nil {
		return a.lookAtFiles(ctx, treeOf(m))
	}
	return a.lookAtHost()
}

// treeOf returns the directory tree that a mount shows.
func treeOf(m *mount.Entry) mount.Filesystem {
	return mount.Filesystem{Major: m.Major, Minor: m.Minor, Root: m.Root}
}

// holders describes where a dataset is mounted besides its mount point: one entry for each mount in
// another mount namespace, for each further mount in the host's namespace, and for each process that
// could not be examined. Copies of the host's mount in other namespaces do not count. If the look was at
// files as well, there is one entry for each process that has a file of the dataset open.
//
// If nothing is mounted on the mount point, holders asks the pool of the dataset. If the pool cannot
// tell, the dataset counts as held.
func (a *Agent) holders(ctx context.Context, look hostLook, d dataset.Dataset) (list []string) {
	if m := look.own.At(a.MountPath(d.ID)); m != nil {
		return a.holdersOfTree(look, d, treeOf(m))
	}
	if err := a.checkIdleInPool(ctx, d); err != nil {
		list = append(list, dataset.OneLine(err))
	}
	return list
}

// holdersOfTree is like holders for a dataset whose filesystem is known. It returns nil if the device number
// of the filesystem belongs to another filesystem now.
func (a *Agent) holdersOfTree(look hostLook, d dataset.Dataset, tree mount.Filesystem) (list []string) {
	path, staged := a.MountPath(d.ID), ""
	if pool, err := a.pools.Get(d.Pool); err == nil {
		if s, stages := pool.(backends.Stager); stages {
			staged = s.Staged(d.ID)
		}
	}
	if tree.Reused() {
		return nil
	}
	ours, known := look.own.PlaceAt(path)
	index := look.own.Index()
	for _, e := range look.own {
		if !tree.MayBe(e) || e.Mountpoint == staged || !pool.Within(e.Root, tree.Root) {
			continue
		}
		place, placed := index.PlaceOf(e)
		isCopy := known && placed && place == ours
		if !isCopy && !a.isOfAnotherDrover(d, e) {
			list = append(list, "it is mounted at "+e.Mountpoint)
		}
	}
	for _, h := range look.elsewhere.Holders(tree, path) {
		list = append(list, h.String())
	}
	if look.files != nil {
		for _, o := range look.files.Openers(tree, func(e *mount.Entry) bool { return a.isOfAnotherDrover(d, e) }) {
			list = append(list, o.String())
		}
	}
	return list
}

// isOfAnotherDrover reports whether a mount on this host can be that of a second Drover on this machine, which
// keeps its own record. Only a share can be mounted by two, and the path is all that identifies such a mount.
func (a *Agent) isOfAnotherDrover(d dataset.Dataset, e *mount.Entry) bool {
	pool := a.pools.One(d.Pool)
	shared := pool == nil || pool.Record.Share != uuid.Nil // of a pool of another node, nothing is known here
	return shared && strings.HasSuffix(e.Mountpoint, strings.TrimPrefix(a.MountPath(d.ID), a.Root))
}

// checkIdleInPool asks the pool whether a process on this host uses a dataset that is not mounted. It
// fails if one does, and if the pool is offline or cannot tell.
func (a *Agent) checkIdleInPool(ctx context.Context, d dataset.Dataset) error {
	pool, err := a.pools.Online(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("cannot tell whether a process still has it mounted: %w", err)
	}
	idler, can := pool.(backends.IdleChecker)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported,
			"cannot tell whether a process still has it mounted: pool %s does not support that", a.pools.Name(d.Pool))
	}
	err = idler.Idle(ctx, d.ID)
	if errors.Is(err, dataset.ErrNotFound) { // a dataset that does not exist has no holder
		return nil
	}
	return err
}

// checkUnheld fails with ErrInUse if a dataset is mounted anywhere besides its mount point, if a process has
// a file of it open, or if the look at the host fails. what names the work for the error message. The
// dataset's lock is held.
func (a *Agent) checkUnheld(ctx context.Context, d dataset.Dataset, what string) error {
	look, err := a.lookAtDataset(ctx, d)
	if err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"%s of volume %s: cannot tell whether a process on node %s still has it mounted: %w",
			what, d.Volume, a.NodeName, err)
	}
	if list := a.holders(ctx, look, d); len(list) > 0 {
		return dataset.Errorf(dataset.ErrInUse,
			"%s of volume %s: it is still in use on node %s: %s (end that first)", what, d.Volume, a.NodeName, list[0])
	}
	return nil
}

// unmountUnheld unmounts a dataset without a recorded use. If a process has it mounted nevertheless, it
// stays mounted, the guard keeps watching it, and unmountUnheld fails with ErrInUse. The dataset's lock
// is held.
func (a *Agent) unmountUnheld(ctx context.Context, d dataset.Dataset) error {
	if err := a.checkUnheld(ctx, d, "unmount"); err != nil {
		a.uses.MarkIdle(d.ID)
		return err
	}
	if err := a.unmountLocked(d); err != nil {
		return err
	}
	a.registrar.Release(d.ID)
	return nil
}

// releaseUnheld makes the guard forget a dataset that is not mounted. If a process on this host has it
// mounted nevertheless, the guard keeps it and releaseUnheld fails with ErrInUse. If the guard does not
// watch the dataset, releaseUnheld does nothing. The dataset's lock is held.
func (a *Agent) releaseUnheld(ctx context.Context, d dataset.Dataset) error {
	if _, armed := a.deadlines.Armed(d.ID); !armed || a.config.Guard == nil {
		return nil
	}
	if err := a.checkUnheldByGuard(ctx, d); err != nil {
		if a.deadlines.NoteKept(d.ID, err.Error()) {
			const watches = "the guard keeps watching the unmounted volume, because a process may still write to it"
			a.LogOf(d).WithError(err).Warn(watches)
		}
		return err
	}
	a.registrar.Release(d.ID)
	return nil
}

// checkUnheldByGuard is like checkUnheld for a dataset that is not mounted. It uses the filesystem that
// the guard has recorded for the dataset.
func (a *Agent) checkUnheldByGuard(ctx context.Context, d dataset.Dataset) error {
	e, there, err := a.registrar.Entry(ctx, d.ID)
	if err == nil && (!there || e.Filesystem == mount.Filesystem{}) { // it was never mounted
		return nil
	}
	if err == nil {
		look, lerr := a.lookAtFiles(ctx, e.Filesystem)
		if lerr == nil && len(a.holdersOfTree(look, d, e.Filesystem)) == 0 {
			return nil
		}
	}
	// These holders may have another filesystem, one that has got the device number since. The pool knows.
	if err := a.checkIdleInPool(ctx, d); err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s is unmounted, but still in use on node %s: %w", d.Volume, a.NodeName, err)
	}
	return nil
}
