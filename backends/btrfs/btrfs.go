// Package btrfs keeps datasets on a btrfs that is there already: the head of each and each
// snapshot is a subvolume, and a mounted dataset a bind mount of its head. Snapshots and
// clones share blocks and are taken while the dataset is written to.
//
// A pool is a directory, laid out by package shelf; the trees of a dataset's folder, which
// are subvolumes here, are as shelf says them for heads and snapshots. current.json has the
// size of the head as well: what the quota's limit should be.
//
// # Sizes
//
// A size is a limit of the filesystem's quotas, if they are on. Which mode they are in is
// found when the pool is opened, and never changed: they are the whole filesystem's, which
// Drover did not make. A limit is set at each clone and restore, as a subvolume begins with
// that of what it is a snapshot of, and again when the pool is opened, as they are lost when
// somebody switches quotas off and on.
//
// # Durability
//
// A subvolume that was made is on the disk after a commit of the filesystem, which comes
// before the record that says that it is there. A limit that a power cut took back is set
// when the pool is opened.
//
// # Subvolumes of containers
//
// Whoever may write to a volume can make subvolumes in it (ioctl(2), no privilege needed).
// A snapshot would leave them out: it is refused, and says so. They go with the tree in
// which they are.
package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/bindmount"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/steps"
)

// Name is the backend's name in drover.yaml and profiles.yaml.
const Name = "btrfs"

// Backend is the kind of storage; New makes one.
type Backend struct {
	step  func(string) // between two acts: for tests
	clock clock.Clock
}

var (
	_ backends.BlockDeviceKind = (*Backend)(nil)
	_ backends.BoundedKind     = (*Backend)(nil)
	_ backends.Pool            = (*Pool)(nil)
	_ backends.StorageRemover  = (*Pool)(nil)
	_ backends.Clearer         = (*Pool)(nil)
	_ backends.Copier          = (*Pool)(nil)
	_ backends.Resizer         = (*sizedPool)(nil)
)

// New returns the backend.
func New() *Backend { return &Backend{step: steps.At, clock: clock.System{}} }

// Name implements backends.Kind.
func (*Backend) Name() string { return Name }

// Available implements backends.Kind: root, and a kernel that has btrfs.
func (*Backend) Available(context.Context) error {
	// Unlike a look at /proc/filesystems this loads the module.
	fd, err := unix.Fsopen(Name, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.EPERM) || os.Geteuid() != 0 {
		return dataset.Errorf(dataset.ErrUnsupported,
			"backend btrfs makes subvolumes and sets limits: run drover as root (CAP_SYS_ADMIN)")
	}
	if err != nil {
		return dataset.Errorf(dataset.ErrUnsupported, "backend btrfs: the kernel has no btrfs (modprobe btrfs): %w",
			err)
	}
	unix.Close(fd)
	return nil
}

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image != 0 {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"backend btrfs keeps datasets on a btrfs that is mounted, not in an image: leave the size out")
	}
	p := &Pool{name: cfg.Name, step: b.step, clock: b.clock}
	var err error
	if len(cfg.Devices) > 0 {
		if p.disk, err = disk.Open(ctx, &run.System{}, cfg, fsctl.Btrfs, nil); err != nil {
			return nil, err
		}
		cfg.ID = p.disk.ID
	}
	if err = p.enter(cfg); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if p.quota == btrfsctl.QuotaNone {
		return p, nil
	}
	return &sizedPool{p}, nil
}

// PathOf implements backends.BlockDeviceKind.
func (*Backend) PathOf(_, mount string) string { return mount }

// enter finds the pool at its path, or makes it.
func (p *Pool) enter(cfg backends.Config) (err error) {
	if cfg.Make {
		if err := belowBtrfs(cfg.Path); err != nil {
			return err
		}
		if err := p.count(cfg.Path); err != nil {
			return err
		}
	}
	if p.shelf, err = shelf.Open(cfg, Name); err != nil {
		return err
	}
	if err := onBtrfs(p.shelf.Path()); err != nil {
		return err
	}
	_ = p.shelf.KeepCopies() // a pool that is full has to open; a copy is refused by it then
	p.shelf.Destroy = p.destroy
	p.shelf.Own = []string{staleDir}
	err = p.within(func(dir *os.File) (err error) {
		p.quota, _, err = btrfsctl.Quotas(dir)
		return err
	})
	if err != nil || p.quota == btrfsctl.QuotaNone {
		return err
	}
	return p.limitAll()
}

// belowBtrfs refuses a path where no pool can be made. What else is wrong with it the shelf
// says.
func belowBtrfs(path string) error {
	if !filepath.IsAbs(path) {
		return nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		path = filepath.Dir(path)
		info, err = os.Stat(path)
	}
	if err != nil || !info.IsDir() {
		return nil
	}
	return onBtrfs(path)
}

func onBtrfs(path string) error {
	kind, err := fsctl.KindOf(path)
	if err == nil && kind != Name {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"%s lies on %s: backend btrfs wants a directory on a mounted btrfs, or a device that is to "+
				"become one (drover pool create NAME --backend btrfs --device DEVICE)", path, kind)
	}
	return err
}

// Pool is an open pool without quotas.
type Pool struct {
	name    string
	shelf   *shelf.Shelf
	disk    *disk.Disk     // that it has for itself
	quota   btrfsctl.Quota // when it was opened
	uses    bindmount.Tracker
	commits btrfsctl.Commits
	step    func(string)

	counts sync.RWMutex // held by goroutines that destroy, and for writing by those that remove counters

	clock clock.Clock
	mu    sync.Mutex
	again time.Duration // from when on a count of quotas may be begun anew, by the steady clock
}

// sizedPool is an open pool whose datasets can have a size.
type sizedPool struct{ *Pool }

// ID implements backends.Pool.
func (p *Pool) ID() uuid.UUID { return p.shelf.ID() }

// Info implements backends.Pool.
func (p *Pool) Info() backends.Info {
	can, sized := (*Backend)(nil).Best(), p.quota != btrfsctl.QuotaNone
	can.EnforcesSize, can.OnlineGrow, can.Shrink = sized, sized, sized
	can.CountsWritten, can.KnowsUsed = p.quota == btrfsctl.QuotaSimple, p.quota == btrfsctl.QuotaFull
	return backends.Info{
		Capabilities: can,
		Note: "subvolumes: snapshots and clones at once; df in a volume shows the whole pool; " +
			p.sizes() + p.lies(),
		Path: p.shelf.Path(), Missing: p.missing(),
	}
}

// missing is the command with which the pool could do more.
func (p *Pool) missing() []string {
	if p.quota != btrfsctl.QuotaNone {
		return nil
	}
	return []string{"sizes need the quotas of its filesystem on as drover starts (btrfs quota enable " +
		p.shelf.Path() + ")"}
}

// sizes says how sizes are kept, or what would have them kept.
func (p *Pool) sizes() string {
	switch p.quota {
	case btrfsctl.QuotaFull:
		return "sizes by full quotas, a full volume gets EDQUOT"
	case btrfsctl.QuotaSimple:
		return "sizes by simple quotas, a full volume gets EDQUOT: they count what was written to a volume " +
			"for as long as a snapshot has it, and not what a clone shares"
	default:
		return "no size limits, as the filesystem's quotas were off when drover started"
	}
}

// Status implements backends.Pool.
func (p *Pool) Status(context.Context) dataset.PoolStatus {
	st := p.shelf.Status()
	if !st.Online {
		return st
	}
	p.forgetGone()
	err := backends.Room(p.name, st.Free, st.Size)
	if err == nil {
		err = p.within(p.quotasHold)
	}
	if err != nil {
		st.Reason = err.Error()
	}
	return st
}

// quotasHold fails when sizes do not hold as they did when the pool was opened; that they could
// hold by now is in Info.Missing. Full quotas that the
// kernel has given up it has counted anew: subvolumes with shared blocks that go have it do so now
// and then, also those of others (github.com/kdave/btrfs-progs/issues/922), and it holds no limit
// from then on.
func (p *Pool) quotasHold(dir *os.File) error {
	now, settled, err := btrfsctl.Quotas(dir)
	switch {
	case err != nil:
		return err
	case now != p.quota && now == btrfsctl.QuotaNone:
		return fmt.Errorf("quotas were switched off: no size holds (btrfs quota enable %s, then restart drover)",
			p.shelf.Path())
	case p.quota == btrfsctl.QuotaNone:
		return nil
	case now != p.quota:
		return fmt.Errorf("quotas were %s and are %s now: restart drover", p.quota, now)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if settled {
		p.again = 0
		return nil
	}
	if at := p.clock.Steady(); now == btrfsctl.QuotaFull && at >= p.again {
		if err = btrfsctl.Recount(dir); err == nil {
			p.again = at + recountEvery
		}
	}
	if err != nil {
		return fmt.Errorf("quotas have to be counted anew: sizes may not hold until then (btrfs quota "+
			"rescan -w %s): %w", p.shelf.Path(), err)
	}
	return fmt.Errorf("quotas are being counted anew: sizes may not hold until then (btrfs quota rescan -w "+
		"%s waits for it)", p.shelf.Path())
}

// recountEvery is how long a count is left alone that the kernel may be at still, or has given up
// itself: to read all trees each time that it does would be all that the disk is at.
const recountEvery = 5 * time.Minute

// within calls do with the pool's directory.
func (p *Pool) within(do func(dir *os.File) error) error {
	root, err := p.shelf.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(dir)
}

// commit makes all that was done in the pool durable.
func (p *Pool) commit(dir *os.File) error {
	return p.commits.Wait(func() error { return btrfsctl.Commit(dir) })
}

// room fails with ErrNoSpace while nothing new should begin in the pool.
func (p *Pool) room() error {
	st, err := p.shelf.Space()
	if err != nil {
		return err
	}
	return backends.Room(p.name, st.Free, st.Size)
}

// Generation implements backends.Pool.
func (p *Pool) Generation() (uint64, error) { return p.shelf.Generation() }

// Raise implements backends.Pool.
func (p *Pool) Raise(generation uint64) error { return p.shelf.Raise(generation) }

// Trim implements backends.Trimmer.
func (p *Pool) Trim(context.Context) (dataset.Size, error) { return p.shelf.Trim() }

// Close implements backends.Pool. Devices of its own are unmounted, unless datasets on
// them are in use.
func (p *Pool) Close() error { return p.disk.Close() }

// Clear implements backends.Clearer.
func (p *Pool) Clear(ctx context.Context) (left string, err error) {
	if err := p.Raze(ctx); err != nil {
		return "", err
	}
	if p.disk != nil {
		return p.disk.Left(Name), p.Close()
	}
	return "", p.shelf.Clear()
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	f, err := p.shelf.FindAny(id)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State == backends.EntryCopy {
		return p.commitCopy(f)
	}
	return p.shelf.Commit(id)
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	f, err := p.shelf.FindAny(d.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.WriteRecord(d, sync)
}

// List implements backends.Pool.
func (p *Pool) List(context.Context) ([]backends.Entry, error) { return p.shelf.List(p.describe) }

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.shelf.FindAny(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.shelf.Describe(f, p.describe), nil
}

// Attach implements backends.Pool: the head is there already.
func (p *Pool) Attach(_ context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if len(opts.Mount) > 0 {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs has no mount options for one volume (asked for %s)", dataset.Have(opts.Mount))
	}
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	head, err := f.Head()
	if err != nil {
		return backends.Attachment{}, err
	}
	tree, err := open(f, head.Tree)
	if err != nil {
		return backends.Attachment{}, err
	}
	return p.uses.Attach(f.ID, filepath.Join(f.Path(), head.Tree), opts.ReadOnly), tree.Close()
}
