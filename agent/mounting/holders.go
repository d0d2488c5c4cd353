package mounting

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

// Holders finds out who on this host holds a dataset besides its mount point: mounts in all mount namespaces, and
// processes with open files. Its methods are safe for concurrent use.
type Holders struct {
	*Mounts
	scans scans

	// ReadForeign and Files look at the host: mount.ReadForeign and inuse.FindOpenFiles. Tests replace them.
	ReadForeign func() (*mount.Foreign, error)
	Files       func(context.Context, []mount.Filesystem) (*inuse.Files, error)
}

// Scan contains the mounts of this host at one moment, in all mount namespaces.
type Scan struct {
	own     mount.Mounts
	foreign *mount.Foreign
	files   *inuse.Files // nil after ScanMounts
}

// scans shares looks at the host between callers: if a hundred containers stop together, a few looks suffice. A caller
// never gets a look that began before its call. Safe for concurrent use.
type scans struct {
	turn sync.Mutex // held during a look: one at a time

	mu   sync.Mutex
	next *sharedScan // the next look, or nil if no caller waits for one
}

type sharedScan struct {
	done chan struct{}
	scan Scan
	err  error
}

// share returns the result of a look that begins after the call. If several callers wait for the next
// look, only one of them calls look.
func (l *scans) share(look func() (Scan, error)) (Scan, error) {
	l.mu.Lock()
	s := l.next
	if s != nil {
		l.mu.Unlock()
		<-s.done
		return s.scan, s.err
	}
	s = &sharedScan{done: make(chan struct{})}
	l.next = s
	l.mu.Unlock()

	l.turn.Lock()
	defer l.turn.Unlock()
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	defer close(s.done)
	s.scan, s.err = look()
	return s.scan, s.err
}

// ScanMounts reads the mounts of all processes. It takes about 10 µs for each thread on the host.
// Callers share the result and must not change it.
func (l *Holders) ScanMounts() (Scan, error) {
	return l.scans.share(func() (Scan, error) {
		elsewhere, err := l.ReadForeign()
		if err != nil {
			return Scan{}, err
		}
		own, err := mount.Table()
		return Scan{own: own, foreign: elsewhere}, err
	})
}

// ScanFiles reads the mounts, as ScanMounts does, and which files of a tree are open: see inuse.FindOpenFiles. It takes
// about ten times as long as ScanMounts. Callers share the result and must not change it.
func (l *Holders) ScanFiles(ctx context.Context, tree mount.Filesystem) (Scan, error) {
	look, err := l.ScanMounts()
	if err == nil {
		look.files, err = l.Files(ctx, []mount.Filesystem{tree})
	}
	return look, err
}

// scanDataset is ScanFiles for a mounted dataset. If the dataset is not mounted, it is ScanMounts: Describe then asks
// the pool, which looks at open files itself.
func (l *Holders) scanDataset(ctx context.Context, d dataset.Dataset) (Scan, error) {
	own, err := mount.Table()
	if err != nil {
		return Scan{}, err
	}
	if m := own.At(l.MountPath(d.ID)); m != nil {
		return l.ScanFiles(ctx, treeOf(m))
	}
	return l.ScanMounts()
}

// treeOf returns the directory tree that a mount shows.
func treeOf(m *mount.Entry) mount.Filesystem {
	return mount.Filesystem{Major: m.Major, Minor: m.Minor, Root: m.Root}
}

// Describe lists where a dataset is mounted besides its mount point. The list has an entry for each mount in another
// mount namespace, for each further mount in the host's namespace, and for each process that could not be examined.
// Copies of the host's mount in other namespaces do not count. If look is from ScanFiles, the list also has an entry
// for each process that has a file of the dataset open.
//
// If nothing is mounted on the mount point, Describe asks the pool of the dataset. If the pool cannot
// tell, the dataset counts as held.
func (l *Holders) Describe(ctx context.Context, look Scan, d dataset.Dataset) (list []string) {
	if m := look.own.At(l.MountPath(d.ID)); m != nil {
		return l.DescribeTree(look, d, treeOf(m))
	}
	if err := l.CheckPool(ctx, d); err != nil {
		list = append(list, dataset.OneLine(err))
	}
	return list
}

// DescribeTree is like Describe for a dataset whose filesystem is known. It returns nil if the device number
// of the filesystem belongs to another filesystem now.
func (l *Holders) DescribeTree(look Scan, d dataset.Dataset, tree mount.Filesystem) (list []string) {
	if tree.Reused() {
		return nil
	}
	for _, e := range l.furtherMounts(look, d, tree) {
		list = append(list, inuse.PathUser(e.Mountpoint).Error())
	}
	for _, h := range look.foreign.Holders(tree, l.MountPath(d.ID)) {
		list = append(list, inuse.MountUser(h).Error())
	}
	for _, o := range l.openers(look, d, tree) {
		list = append(list, inuse.FileUser(o).Error())
	}
	return list
}

// furtherMounts returns the mounts of a dataset in the host's namespace besides its mount point and its staging mount.
func (l *Holders) furtherMounts(look Scan, d dataset.Dataset, tree mount.Filesystem) (list []*mount.Entry) {
	path, staged := l.MountPath(d.ID), ""
	if pool, err := l.Pools.Get(d.Pool); err == nil {
		if s, stages := pool.(backends.Stager); stages {
			staged = s.StagingPath(d.ID)
		}
	}
	ours, known := look.own.PlaceAt(path)
	index := look.own.Index()
	for _, e := range look.own {
		if !tree.MayMatch(e) || e.Mountpoint == staged || !pool.IsWithin(e.Root, tree.Root) {
			continue
		}
		place, placed := index.PlaceOf(e)
		isCopy := known && placed && place == ours
		if !isCopy && !l.isOfAnotherDrover(d, e) {
			list = append(list, e)
		}
	}
	return list
}

// openers returns the processes that have a file of a dataset open, and those that could not be examined. It returns
// none if look is from ScanMounts.
func (l *Holders) openers(look Scan, d dataset.Dataset, tree mount.Filesystem) []inuse.Opener {
	if look.files == nil {
		return nil
	}
	return look.files.Openers(tree, func(e *mount.Entry) bool { return l.isOfAnotherDrover(d, e) })
}

// isOfAnotherDrover reports whether a mount may have been made by another Drover process on this machine, with other
// records. Two such processes can mount the same dataset only if it is on a share. Their mounts then differ only in
// their paths.
func (l *Holders) isOfAnotherDrover(d dataset.Dataset, e *mount.Entry) bool {
	pool := l.Pools.ByID(d.Pool)
	shared := pool == nil || pool.Record.Share != uuid.Nil // nothing is known here about a pool of another node
	return shared && strings.HasSuffix(e.Mountpoint, strings.TrimPrefix(l.MountPath(d.ID), l.Root))
}

// CheckPool asks the pool whether a process on this host uses a dataset that is not mounted. It fails if a process
// uses the dataset, if the pool is offline, and if the pool cannot tell.
func (l *Holders) CheckPool(ctx context.Context, d dataset.Dataset) error {
	pool, err := l.Pools.Online(ctx, d.Pool)
	if err != nil {
		return fmt.Errorf("cannot check whether a process still has it mounted: %w", err)
	}
	checker, can := pool.(backends.IdleChecker)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported,
			"cannot check whether a process still has it mounted: pool %s does not support that", l.Pools.Name(d.Pool))
	}
	l.LostWrites.NotMounted(ctx, d)
	err = checker.CheckIdle(ctx, d.ID)
	if errors.Is(err, dataset.ErrNotFound) { // a dataset that does not exist has no holder
		return nil
	}
	return err
}

// releaseInPool makes the pool of a dataset that is not mounted shut down what copies of the mount keep alive: see
// backends.Releaser. It does nothing while the pool is offline: no operation changes the dataset then.
func (l *Holders) releaseInPool(ctx context.Context, d dataset.Dataset) error {
	pool, err := l.Pools.Online(ctx, d.Pool)
	if err != nil {
		return nil //nolint:nilerr // the operation reports it, if it needs the pool
	}
	l.LostWrites.NotMounted(ctx, d)
	if r, can := pool.(backends.Releaser); can {
		if err := r.Release(ctx, d.ID); !errors.Is(err, dataset.ErrNotFound) { // a copy has no head
			return err
		}
	}
	return nil
}

// Check fails with ErrInUse if a dataset is mounted anywhere besides its mount point, if a process has a file of it
// open, or if the look at the host fails. The argument what names the work for the error message. The dataset's lock is
// held.
func (l *Holders) Check(ctx context.Context, d dataset.Dataset, what string) error {
	look, err := l.scanDataset(ctx, d)
	if err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"%s of volume %s: cannot check whether a process on node %s still has it mounted: %w",
			what, d.Volume, l.NodeName, err)
	}
	if list := l.Describe(ctx, look, d); len(list) > 0 {
		return dataset.Errorf(dataset.ErrInUse,
			"%s of volume %s: it is still in use on node %s: %s", what, d.Volume, l.NodeName, list[0])
	}
	return nil
}
