package operation

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/require"
)

// An import examines the folder that it opened, even if another folder has that name by then.
func TestI6ImportLooksAtWhatItOpened(t *testing.T) {
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(top+"/src/sub", 0o755))
	src, err := safefile.OpenFolder(top + "/src")
	require.NoError(t, err)
	defer src.Close()
	require.NoError(t, errors.Join(os.Rename(top+"/src", top+"/moved"), os.Mkdir(top+"/src", 0o755)))
	require.NoError(t, unix.Mount("none", top+"/moved/sub", "tmpfs", 0, "size=1m"))
	t.Cleanup(func() {
		if err := unix.Unmount(top+"/moved/sub", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	i := newImporter()
	i.Root = t.TempDir()
	if err := i.checkImportable(t.Context(), src); !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), top+"/moved/sub") {
		t.Errorf("%v, want that something is mounted in the folder that was opened", err)
	}
}

// askedTogether is an empty pool with 60 MiB of free space. The first two callers of Status get the answer together.
type askedTogether struct {
	tightPool
	asked atomic.Int32
	both  chan struct{}
}

func (*askedTogether) ID() uuid.UUID                                  { return uuid.UUID{1} }
func (*askedTogether) List(context.Context) ([]backends.Entry, error) { return nil, nil }

func (p *askedTogether) Status(context.Context) dataset.PoolStatus {
	if p.asked.Add(1) == 2 {
		close(p.both)
	}
	<-p.both
	return dataset.PoolStatus{Online: true, Size: 100 * dataset.MiB, Free: 60 * dataset.MiB}
}

// newImporter returns the Importer of a host without pools.
func newImporter() *Importer {
	h := &host.Host{}
	return New(&mounting.Mounts{Host: h, Pools: pool.New(h, nil, nil, nil, nil)}, nil).Importer
}

// If two restores that begin together do not both fit, one of them is done. A restore that is refused, or has ended,
// needs no space.
func TestOneOfTwoRestoresFits(t *testing.T) {
	i := newImporter()
	p := &askedTogether{both: make(chan struct{})}
	take := func() (*share, error) {
		return i.takeRoom(t.Context(), &host.Job{}, p, &dataset.Operation{Kind: dataset.OpImport}, 40*dataset.MiB)
	}
	type result struct {
		*share
		err error
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			part, err := take()
			results <- result{part, err}
		}()
	}
	accepted, refused := <-results, <-results
	if accepted.err != nil {
		accepted, refused = refused, accepted
	}
	if accepted.err != nil || !errors.Is(refused.err, dataset.ErrNoSpace) {
		t.Fatalf("got %v and %v, want that one of them has no space", accepted.err, refused.err)
	}
	if _, err := take(); !errors.Is(err, dataset.ErrNoSpace) {
		t.Errorf("while the other one runs: %v", err)
	}
	accepted.release()
	if _, err := take(); err != nil {
		t.Errorf("after the other one has ended: %v", err)
	}
}

// lateStatus is a pool of 100 MiB that is offline when it is asked for the first time.
type lateStatus struct {
	backends.Pool
	asked bool
}

func (*lateStatus) ID() uuid.UUID { return uuid.UUID{1} }

func (*lateStatus) Info() backends.Info {
	return backends.Info{Capabilities: dataset.Capabilities{OwnFilesystem: true}}
}

func (p *lateStatus) Status(context.Context) dataset.PoolStatus {
	if !p.asked {
		p.asked = true
		return dataset.PoolStatus{}
	}
	return dataset.PoolStatus{Online: true, Size: 100 * dataset.MiB, Free: 90 * dataset.MiB}
}

// A restore flushes the new dataset only if the data that are not written yet could fill the pool. If the status of the
// pool is not known when the restore begins, one flush replaces it. An import flushes at each examination: others can
// run, and what these have not written is not known.
func TestExaminationsFlush(t *testing.T) {
	root, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	for part, want := range map[*share]int{{}: 1, nil: 20} {
		p, flushes := &lateStatus{}, 0
		w := &spaceWatch{Importer: newImporter(), pool: p, root: root, part: part, sync: func(*os.File) error {
			flushes++
			return nil
		}}
		w.begin(p.Status(t.Context()))
		for range 20 {
			require.NoError(t, w.check(t.Context()))
		}
		if flushes != want {
			t.Errorf("20 examinations flushed %d times, want %d", flushes, want)
		}
	}
}

type tightPool struct{ backends.Pool }

func (tightPool) ID() uuid.UUID { return uuid.UUID{1} }
func (tightPool) Info() backends.Info {
	return backends.Info{Capabilities: dataset.Capabilities{OwnFilesystem: true}}
}
func (tightPool) Status(context.Context) dataset.PoolStatus {
	return dataset.PoolStatus{Online: true, Size: 1000 * dataset.MiB, Free: 90 * dataset.MiB}
}

// syncfs(2) reports an error of the writeback once to each descriptor, so an examination must not drop it.
func TestCheckReportsFlushError(t *testing.T) {
	root, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	lost := true
	w := &spaceWatch{Importer: newImporter(), pool: tightPool{}, root: root, sync: func(*os.File) error {
		if lost {
			lost = false
			return unix.EIO
		}
		return nil
	}}
	err = w.check(t.Context()) // !known: flushes
	err = errors.Join(err, w.check(t.Context()), w.sync(root))
	if err == nil {
		t.Error("the error of the flush is reported by nobody: data are lost")
	}
}

// A record that differs from the known one is rewritten, unless it has a higher index of the same epoch: then the store
// was restored from a backup, and a rebuild needs the record. A record that matches is rewritten only for its index.
func TestRecordOutOfDate(t *testing.T) {
	d := dataset.Dataset{Volume: "db", Epoch: 2}
	for _, c := range []struct {
		volume                string
		written, index, epoch uint64
		want                  bool
	}{
		{"db", 0, 7, 2, false}, {"db", 7, 7, 2, false}, {"db", 5, 7, 2, false}, {"db", 7, 0, 2, false},
		{"db", 9, 7, 2, true}, {"other", 7, 7, 2, true}, {"other", 0, 0, 2, true},
		{"other", 9, 7, 2, false}, {"other", 9, 0, 2, true}, {"other", 9, 7, 1, true}, {"db", 9, 7, 1, true},
	} {
		e := backends.Entry{State: backends.EntryReady, Record: &dataset.Dataset{
			Volume: c.volume, Written: c.written, Epoch: c.epoch,
		}}
		if got := isOutOfDate(e, d, c.index); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

// pages is a control whose list of volumes has two pages.
type pages struct{ api.Service }

func (pages) Volumes(_ context.Context, p api.Page) (out api.List[api.Volume], err error) {
	name, next := "a", "a"
	if p.After == "a" {
		name, next = "b", ""
	}
	d := dataset.Dataset{ID: uuid.New(), Volume: name, RequestedAs: name + "@gold"}
	return api.List[api.Volume]{Items: []api.Volume{{Dataset: d}}, Next: next}, nil
}

// A list can have more volumes than one answer of control.
func TestListOfManyPages(t *testing.T) {
	v := &Operations{Mounts: &mounting.Mounts{Host: &host.Host{Control: pages{}, Cache: host.NewCache()}}, ListAll: true}
	list, err := v.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Spelling != "a@gold" || list[1].Spelling != "b@gold" {
		t.Errorf("%+v, %v", list, err)
	}
}

// paged answers with two pages of snapshots.
type paged struct {
	api.Service
	pages [2][]dataset.Snapshot
}

func (p *paged) Snapshots(_ context.Context, _ string, page api.Page) (out api.List[dataset.Snapshot], err error) {
	if page.After == "" {
		return api.List[dataset.Snapshot]{Items: p.pages[0], Next: "more"}, nil
	}
	return api.List[dataset.Snapshot]{Items: p.pages[1]}, nil
}

// Status has the newest snapshots, however many snapshots exist.
func TestStatusHasTheNewest(t *testing.T) {
	p := &paged{}
	for i := range p.pages {
		for range snapshotsShown - i {
			p.pages[i] = append(p.pages[i], dataset.Snapshot{ID: uuid.New()})
		}
	}
	v := &Operations{Mounts: &mounting.Mounts{Host: &host.Host{Control: p}}}
	list, err := v.snapshotList(t.Context(), dataset.Dataset{})
	last := p.pages[1][len(p.pages[1])-1].ID
	if err != nil || len(list) != snapshotsShown || list[snapshotsShown-1]["id"] != last || list[0]["id"] != p.pages[0][snapshotsShown-1].ID {
		t.Errorf("%v, %v", list, err)
	}
}
