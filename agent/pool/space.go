package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// This file compares the free space of the pools, and of the disk with the root, with the space that new data needs.
// The hints tell the operator how to free some. They ask a pool through Ask, so that any number of hints about a pool
// whose disk hangs occupy only one goroutine.

// RootSpace returns the free bytes and the size of the disk with the root. least is how many bytes must be free before
// new data is accepted.
func (t *Pools) RootSpace() (free, size, least dataset.Size, err error) {
	bytes, all, err := fsctl.Space(t.Root)
	free, size = dataset.Size(bytes), dataset.Size(all)
	return free, size, min(size/100, 256*dataset.MiB), err
}

// CheckRootSpace fails while the disk with the root is nearly full. Each pool checks its own disk itself.
func (t *Pools) CheckRootSpace(ctx context.Context) error {
	free, size, least, err := t.RootSpace()
	if err != nil || free >= least {
		return err
	}
	return dataset.Errorf(dataset.ErrNoSpace, "the disk of %s is nearly full: %s free of %s (%s)", t.Root,
		free.Human(), size.Human(), t.RootHint(ctx))
}

// RootHint returns a hint on how to free bytes on the disk with the root. Removing data in a pool that is an image on
// this disk frees no bytes of the disk, because the image keeps its blocks.
func (t *Pools) RootHint(ctx context.Context) string {
	var on []uuid.UUID
	for _, p := range t.All() {
		if t.SharesRootDisk(ctx, p.ID) {
			on = append(on, p.ID)
		}
	}
	hints := []string{"free space on that disk: df -h " + t.Root}
	if h := t.measure(ctx, on); h.trashed > 0 {
		hints = append(hints, h.trashHint())
	}
	return strings.Join(hints, "; ")
}

// SharesRootDisk reports whether the datasets of a pool are on the disk with the root, whose free space Drover itself
// needs. It is false if the pool is offline: no data in it can be removed.
func (t *Pools) SharesRootDisk(ctx context.Context, id uuid.UUID) bool {
	p := t.ByID(id)
	if p == nil || p.Record.hasOwnMount() {
		return false
	}
	var is bool
	err := t.Ask(ctx, id, func(backends.Pool) { is = sameDisk(p.Record.Path, t.Root) })
	return err == nil && is
}

func sameDisk(x, y string) bool {
	var a, b unix.Stat_t
	return unix.Stat(x, &a) == nil && unix.Stat(y, &b) == nil && a.Dev == b.Dev
}

// AddHint adds a hint on how to free space to an error that was caused by a lack of space.
func (t *Pools) AddHint(ctx context.Context, id uuid.UUID, err error) error {
	if !errors.Is(err, dataset.ErrNoSpace) {
		return err
	}
	if p := t.ByID(id); p != nil && p.Storage != nil {
		if st, failed := t.ReadStatus(ctx, id); failed == nil {
			if hint := t.Hint(ctx, p, st, 0); hint != "" {
				return fmt.Errorf("%w (%s)", err, hint)
			}
		}
	}
	return err
}

// Hint describes how the operator can raise the free bytes of a pool to want, or to the minimum for new data. It
// returns "" for a pool with a filesystem of its own that has these bytes free already: it lacks something else.
func (t *Pools) Hint(ctx context.Context, p *Pool, st dataset.PoolStatus, want dataset.Size) string {
	reserve := backends.Reserve(st.Size)
	if p.Record.hasOwnMount() && st.Free >= max(want, reserve) {
		return "" // it lacks something else, such as blocks for its image, and the error names the remedy
	}
	h := t.measure(ctx, []uuid.UUID{p.ID})
	var hints []string
	if h.trashed > 0 {
		hints = append(hints, h.trashHint())
	}
	if short := max(want, reserve) - st.Free; !h.measured || h.trash < short {
		hints = append(hints, h.largestHint())
	}
	if !p.Record.hasOwnMount() {
		hints = append(hints, "other files on its disk: df -h "+p.Record.Path)
	}
	return strings.Join(hints, "; ")
}

// usage is how much the datasets of some pools use: the blocks of their heads, including blocks that are shared with
// other datasets, and the blocks that only one snapshot uses.
type usage struct {
	trashed  int // in the trash
	trash    dataset.Size
	largest  []namedSize
	measured bool // the sizes of the volumes are known
}

// namedSize is how much a volume uses, or a snapshot NAME@SNAPSHOT.
type namedSize struct {
	name string
	used dataset.Size
}

// measureTime is how long measure may take for the snapshots of some pools. Those that it has not measured by then are
// left out.
const measureTime = 2 * time.Second

// measure asks for the size of each dataset of some pools. If a pool must walk through all files for the sizes, its
// datasets are only counted.
func (t *Pools) measure(ctx context.Context, ids []uuid.UUID) usage {
	w := usage{measured: true}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	for _, id := range t.Cache.IDs() {
		d, ok := t.Cache.Dataset(id)
		if !ok || d.State == dataset.StatePurging || !slices.Contains(ids, d.Pool) {
			continue
		}
		used, known := t.Used(ctx, d)
		w.measured = w.measured && known
		if d.State == dataset.StateTrashed {
			w.trashed++
			w.trash += used
			continue
		}
		w.largest = append(w.largest, namedSize{d.Volume, used})
		if known {
			w.largest = append(w.largest, t.snapshots(ctx, d)...)
		}
	}
	slices.SortFunc(w.largest, func(x, y namedSize) int {
		return cmp.Or(cmp.Compare(y.used, x.used), strings.Compare(x.name, y.name))
	})
	return w
}

// snapshots returns how many bytes the deletion of each snapshot of a volume frees, as far as they are known.
func (t *Pools) snapshots(ctx context.Context, d dataset.Dataset) (list []namedSize) {
	_ = t.Ask(ctx, d.Pool, func(b backends.Pool) {
		m, can := b.(backends.SnapshotMeasurer)
		if !can {
			return
		}
		e, _ := b.Stat(ctx, d.ID)
		for _, snap := range e.Snapshots {
			if used, err := m.UniqueSize(ctx, d.ID, snap.ID); err == nil && used > 0 {
				list = append(list, namedSize{d.Volume + "@" + cmp.Or(snap.Name, snap.ID.String()[:8]), used})
			}
		}
	})
	return list
}

// Used asks for the size of a dataset. known is false if the pool does not answer, or must walk through all files.
func (t *Pools) Used(ctx context.Context, d dataset.Dataset) (used dataset.Size, known bool) {
	pool, err := t.Get(d.Pool)
	if err != nil {
		return 0, false
	}
	if can := pool.Info().Capabilities; !can.OwnFilesystem && !can.KnowsUsed {
		return 0, false
	}
	var size dataset.Size
	var failed error
	if err := t.Ask(ctx, d.Pool, func(b backends.Pool) { size, failed = b.Used(ctx, d.ID) }); err != nil {
		return 0, false
	}
	return size, failed == nil
}

func (w usage) trashHint() string {
	says := "the trash has 1 volume"
	if w.trashed > 1 {
		says = fmt.Sprintf("the trash has %d volumes", w.trashed)
	}
	if w.measured {
		says += " with " + w.trash.Human()
	}
	return says + ": drover trash ls"
}

// largestShown is how many volumes and snapshots a hint names.
const largestShown = 3

func (w usage) largestHint() string {
	const free = "drover volume ls and drover snapshot ls show what could be deleted"
	if !w.measured || len(w.largest) == 0 {
		return free
	}
	var names []string
	kinds := "volumes"
	for _, v := range w.largest[:min(largestShown, len(w.largest))] {
		names = append(names, v.name+" "+v.used.Human())
		if strings.Contains(v.name, "@") {
			kinds = "volumes and snapshots"
		}
	}
	return "the largest " + kinds + " are " + strings.Join(names, ", ") + ": " + free
}

// reservations are the sizes of running operations that make or grow a dataset. They are counted, so that two
// operations at the same time cannot exceed the policy of a pool together.
type reservations struct {
	mu     sync.Mutex
	byPool map[uuid.UUID]map[uuid.UUID]dataset.Size // then by dataset: the size that it will have
}

// Reserve compares the sizes of the volumes in a pool with the overcommit that its policy allows, and provisions a size
// for a dataset in a pool. st is the present status of the pool. It fails with dataset.ErrUnsupported if the policy of
// the pool does not allow the size. Call release once the size of the dataset is recorded, or the operation has failed.
func (t *Pools) Reserve(pool uuid.UUID, st dataset.PoolStatus, ds uuid.UUID, size dataset.Size) (
	release func(), err error) {
	pl := t.ByID(pool)
	if pl == nil {
		return func() {}, nil
	}
	r := &t.reservations
	r.mu.Lock()
	defer r.mu.Unlock()
	st.Overcommit, st.Provisioned = pl.Record.Overcommit, t.Cache.Provisioned(pool)
	for other, its := range r.byPool[pool] {
		if other != ds {
			st.Provisioned += max(0, its-t.recorded(pool, other))
		}
	}
	if why := st.WhyOvercommitted(size - t.recorded(pool, ds)); why != "" {
		return func() {}, dataset.Errorf(dataset.ErrUnsupported,
			"pool %s is overcommitted: %s (request less, or another pool: drover pool ls)", pl.Name, why)
	}
	if more := size - t.recorded(pool, ds); pl.Record.Overcommit == 0 && st.Size > 0 && st.Provisioned <= st.Size &&
		st.Provisioned+more > st.Size {
		t.Log.WithField("pool", pl.Name).Warnf("its volumes may now become %s large, and it has %s: sizes "+
			"reserve no space (drover pool set %s --overcommit 1 refuses more)",
			(st.Provisioned + more).Human(), st.Size.Human(), pl.Name)
	}
	if r.byPool[pool] == nil {
		r.byPool[pool] = map[uuid.UUID]dataset.Size{}
	}
	r.byPool[pool][ds] = size
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.byPool[pool], ds)
	}, nil
}

// recorded returns the recorded size of a dataset in a pool, or 0 if it is not there.
func (t *Pools) recorded(pool, ds uuid.UUID) dataset.Size {
	if d, ok := t.Cache.Dataset(ds); ok && d.Pool == pool && d.State == dataset.StateReady {
		return d.Size
	}
	return 0
}
