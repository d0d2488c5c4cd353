package operation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// narrow is backend dir that shares blocks, with a pool whose free and used space the test sets.
type narrow struct {
	dir.Backend
	free, used dataset.Size
}

func (n *narrow) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := n.Backend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &narrowPool{p, n}, nil
}

type narrowPool struct {
	backends.Pool
	n *narrow
}

func (p *narrowPool) Info() backends.Info {
	info := p.Pool.Info()
	info.Capabilities.InstantSnapshot = true
	return info
}

func (p *narrowPool) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	st.Size, st.Free = 1000*dataset.GiB, p.n.free
	return st
}

func (p *narrowPool) Used(context.Context, uuid.UUID) (dataset.Size, error) { return p.n.used, nil }

// A scheduled snapshot is not taken if overwriting a tenth of its volume could fill the pool. The operation fails,
// with an event, and doctor reports that. A manual snapshot is taken.
func TestScheduledSnapshotIsSkippedInTightPool(t *testing.T) {
	n := &narrow{free: 9 * dataset.GiB, used: 100 * dataset.GiB}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(n) })
	ctx := t.Context()
	d := r.NewVolume("db")
	d.Profile.Snapshots.Schedule = "@daily"
	r.Cache.Apply(d, 1<<40)
	take := func(scheduled bool) error {
		return r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Scheduled: scheduled})
	}
	if err := take(true); !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "no scheduled snapshot while the pool has less than 10GiB free (it has 9GiB)") {
		t.Errorf("scheduled: %v", err)
	}
	rep := &doctor.Report{}
	p, _ := r.Pools.ByName("default")
	other := d
	other.Volume = "another"
	r.CheckTight(ctx, rep, p, d, other) // one finding for the pool
	if len(rep.List) != 1 || rep.List[0].Subject != "pool default" || !strings.Contains(rep.List[0].Text, "2 (another, db)") || rep.List[0].Level != api.LevelWarning || !strings.Contains(rep.List[0].Text, "no scheduled snapshot") ||
		!strings.Contains(rep.List[0].Text, "or take a snapshot manually") {
		t.Errorf("doctor: %+v", rep.List)
	}
	n.free = dataset.GiB // the pool refuses a manual snapshot too
	full := &doctor.Report{}
	r.CheckTight(ctx, full, p, d)
	if len(full.List) != 1 || strings.Contains(full.List[0].Text, "manually") || !strings.Contains(full.List[0].Text, "drover snapshot ls --size") {
		t.Errorf("doctor about a full pool: %+v", full.List)
	}
	n.free = 9 * dataset.GiB
	if err := take(false); err != nil {
		t.Errorf("by hand: %v", err)
	}
	n.free = 10 * dataset.GiB
	if err := take(true); err != nil {
		t.Errorf("with enough free: %v", err)
	}
	if r.CheckTight(ctx, rep, p, d); len(rep.List) != 1 {
		t.Errorf("doctor: %+v", rep.List)
	}
}

// A crash prevented the report of a snapshot that was taken. The snapshot is reported, and nothing is quiesced again:
// the pool, or the disk of the root, may be too full by then, and a failure would leave the snapshot behind.
func TestFinishedScheduledSnapshotIsReportedFromTightPool(t *testing.T) {
	n := &narrow{free: 100 * dataset.GiB, used: 100 * dataset.GiB}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(n) })
	ctx := t.Context()
	d := r.NewVolume("db")
	out, err := r.Control.Plan(ctx, r.Node(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Scheduled: true})
	require.NoError(t, err)
	p, _ := r.Pools.ByName("default")
	require.NoError(t, p.Storage.Snapshot(ctx, *out.Operation.Snapshot, nil))
	n.free = dataset.GiB
	if _, err := r.Execute(ctx, &host.Job{}, *out.Operation); err != nil {
		t.Errorf("again: %v", err)
	}
	list, err := r.Control.Snapshots(ctx, d.ID.String(), api.Page{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("on record: %+v, %v", list.Items, err)
	}
}

// A volume that continues without its home continues from the newest snapshot of the last epoch, whatever the clocks
// of earlier homes said, and not from a snapshot of the data that a restore replaced.
func TestFailoverUsesNewestSnapshotOfLastEpoch(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	noon := time.Now().UTC().Round(0)
	take := func(kind dataset.SnapshotKind, epoch uint64, at time.Time) uuid.UUID {
		t.Helper()
		s := dataset.Snapshot{ID: uuid.New(), Dataset: d.ID, Volume: d.Volume, Kind: kind, Epoch: epoch, Created: at}
		require.NoError(t, r.Pool().Snapshot(t.Context(), s, nil))
		return s.ID
	}
	take(dataset.SnapshotManual, 1, noon.Add(time.Hour)) // of a home whose clock was ahead
	said := take(dataset.SnapshotTransfer, 2, noon)
	want := take(dataset.SnapshotTransfer, 2, noon.Add(time.Minute))
	take(dataset.SnapshotRestore, 2, noon)
	later := take(dataset.SnapshotRestore, 2, noon.Add(2*time.Minute))
	op := &dataset.Operation{
		Volume: d.Volume, DatasetID: d.ID, Loss: &dataset.Loss{Snapshot: said, Epoch: 2, Taken: noon},
	}
	require.NoError(t, r.ContinueFromBest(t.Context(), r.Pool(), op))
	if l := op.Loss; l.Snapshot != want || l.Epoch != 2 || !l.Taken.Equal(noon.Add(time.Minute)) || !slices.Equal(l.SurvivingSnapshots, []uuid.UUID{later}) {
		t.Errorf("the volume continues from %+v", l)
	}
	op.Loss = &dataset.Loss{Epoch: 3, Taken: noon.Add(-time.Hour)}
	if err := r.ContinueFromBest(t.Context(), r.Pool(), op); err == nil {
		t.Errorf("the volume continues from an older epoch than reported: %+v", op.Loss)
	}
}

// A home whose clock was set back still knows which of its snapshots is the newest. That is also true for the
// snapshots that it sends to other nodes, and for the snapshot of a retry.
func TestC4SnapshotOrderWithClockSetBack(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	take := func(name string) {
		t.Helper()
		plan, err := r.Operations.Plan(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: name})
		if err == nil {
			_, err = r.Execute(t.Context(), &host.Job{}, *plan.Operation)
		}
		require.NoError(t, err)
	}
	wantNewest := func(name string) dataset.Snapshot {
		t.Helper()
		e, err := r.Pool().Stat(t.Context(), d.ID)
		s, found := host.Promotable(e)
		if err != nil || !found || s.Name != name {
			t.Fatalf("the newest is %q, not %q: %v", s.Name, name, err)
		}
		return s
	}
	take("before")
	r.FakeClock.Set(r.FakeClock.Now().Add(-time.Hour))
	take("after")
	if s := wantNewest("after"); !s.Created.Equal(r.FakeClock.Now()) {
		t.Errorf("the clock says %s, and the snapshot was taken at %s", r.FakeClock.Now(), s.Created)
	}
	given, _, err := r.TransferSource.TakeSnapshot(t.Context(), d.ID, nil)
	require.NoError(t, err)
	if s := wantNewest(""); s.ID != given.ID {
		t.Errorf("the newest is %s, and another node was given %s", s.ID, given.ID)
	}
	r.FakeClock.Set(r.FakeClock.Now().Add(2 * time.Hour))
	take("right-again")
	if s := wantNewest("right-again"); !s.OrderTime.IsZero() {
		t.Errorf("the clock tells the order, and it is %+v", s)
	}
}

// Snapshots have the time of their home's clock, also those that a restore makes. A snapshot that is made again after
// a crash has the time of the first attempt.
func TestSnapshotsHaveTimeOfHome(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.FakeClock.Advance(24 * time.Hour)
	first := r.FakeClock.Now()
	for _, cut := range []bool{false, true} {
		for _, req := range []api.Request{
			{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: fmt.Sprintf("cut-%t", cut)},
			{ID: uuid.New(), Kind: dataset.OpRestore, Volume: "db", Snapshot: fmt.Sprintf("cut-%t", cut)},
		} {
			plan, err := r.Operations.Plan(t.Context(), req)
			require.NoError(t, err)
			op := *plan.Operation
			if cut {
				tried := *op.Snapshot
				tried.Created = r.FakeClock.Now()
				require.NoError(t, r.Pool().Snapshot(t.Context(), tried, nil))
				r.FakeClock.Advance(time.Minute)
			}
			if _, err := r.Execute(t.Context(), &host.Job{}, op); err != nil {
				t.Fatal(err)
			}
		}
	}
	e, err := r.Pool().Stat(t.Context(), d.ID)
	if err != nil || len(e.Snapshots) != 4 {
		t.Fatalf("%+v, %v", e, err)
	}
	list, err := r.Link.Snapshots(t.Context(), "db", api.Page{})
	if err != nil || len(list.Items) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, s := range list.Items {
		if beside := e.Snapshots[host.IndexOf(e, s.ID)].Created; s.Created.Before(first) || !s.Created.Equal(beside) {
			t.Errorf("%s %s: on record of %s, in the pool of %s", s.Kind, s.Name, s.Created, beside)
		}
	}
}

// state is what a snapshot has of a file.
type state struct {
	ctime   unix.Timespec
	content [2]byte // its first and last byte
}

// rewriteFiles overwrites files in place, again and again, until stop is closed. A journal is flushed meanwhile, which
// commits the times of the files before their content is written.
func rewriteFiles(t *testing.T, dir string, count int, stop <-chan struct{}) (wait func()) {
	wal, err := os.Create(filepath.Join(dir, "wal"))
	require.NoError(t, err)
	ended := make(chan error, 2)
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	go func() {
		var err error
		for err == nil && running() {
			if _, err = wal.WriteAt(make([]byte, 512), 0); err == nil {
				err = wal.Sync()
			}
		}
		ended <- err
	}()
	go func() {
		var err error
		for n := count; err == nil && running(); n++ {
			var f *os.File
			if f, err = os.OpenFile(filepath.Join(dir, fmt.Sprint(n%count)), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				_, err = f.WriteAt(bytes.Repeat([]byte{byte(n / count)}, 8192), 0)
				f.Close()
			}
		}
		ended <- err
	}()
	return func() {
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		wal.Close()
	}
}

// In snapshots that were taken under a writer, a file with the same times has the same content. Their records say that
// they are exact.
func TestSnapshotUnderWriterIsExact(t *testing.T) {
	const files, snapshots = 3000, 5
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db", nil)
	path := f.A.MustMount("db", "user")
	stop := make(chan struct{})
	wait := rewriteFiles(t, path, files, stop)
	var last map[int]state
	for i := range snapshots {
		if i == snapshots-1 { // the last one has what the writer wrote
			close(stop)
			wait()
		}
		name := fmt.Sprintf("s%d", i)
		require.NoError(t, f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: name}))
		s, err := f.A.Control.Snapshot(t.Context(), "db", name)
		if err != nil || !s.Exact {
			t.Fatalf("snapshot %+v, %v", s, err)
		}
		now := statesOf(t, f.A, d, s.ID)
		for n, was := range last {
			if is := now[n]; is.ctime == was.ctime && is.content != was.content {
				t.Errorf("%s: file %d has another content than before and the same times", name, n)
			}
		}
		last = now
	}
	f.A.MustUnmount("db", "user")
}

// statesOf reads a snapshot through a clone.
func statesOf(t *testing.T, h *agenttest.Host, d dataset.Dataset, snapshot uuid.UUID) map[int]state {
	t.Helper()
	clone := d
	clone.ID, clone.Size = uuid.New(), 0
	if _, err := h.Pool().Clone(t.Context(), clone, dataset.Source{Dataset: d.ID, Snapshot: snapshot}, nil); err != nil {
		t.Fatal(err)
	}
	root, err := mounting.OpenRoot(t.Context(), h.Pool(), clone.ID)
	require.NoError(t, err)
	all := map[int]state{}
	for n := 0; ; n++ {
		fd, err := unix.Openat(int(root.Fd()), fmt.Sprint(n), unix.O_RDONLY, 0)
		if err != nil {
			break
		}
		var st unix.Stat_t
		var s state
		require.NoError(t, unix.Fstat(fd, &st))
		_, _ = unix.Pread(fd, s.content[:1], 0)
		_, _ = unix.Pread(fd, s.content[1:], 8191)
		s.ctime = st.Ctim
		all[n] = s
		unix.Close(fd)
	}
	root.Close()
	require.NoError(t, h.Pool().Delete(t.Context(), clone.ID))
	return all
}

// A clone whose source is resized after the plan and before the clone is made has the source's new size. If a size
// was requested the clone is refused, and nothing is left of it.
func TestCloneOfSourceResizedMeanwhile(t *testing.T) {
	for backend, fs := range map[string]string{loop.Name: "xfs", btrfs.Name: "btrfs"} {
		t.Run(backend, func(t *testing.T) {
			disk := scratch.Mount(t, fs, 1<<30)
			if backend == btrfs.Name {
				scratch.Quota(t, disk, "simple")
			}
			cfg := pool.Config{Name: "default", Backend: backend, Path: filepath.Join(disk, "pool")}
			r := agenttest.New(t, func(c *agent.Config) {
				c.Backends = backends.NewRegistry(loop.New(&run.System{}), btrfs.New())
				c.Pools = []pool.Config{cfg}
			})
			const had, has = 64 * dataset.MiB, 128 * dataset.MiB
			require.NoError(t, r.Create(t.Context(), "db", map[string]string{"size": had.String()}))
			plan := func(name string, options map[string]string) *dataset.Operation {
				options["from"] = "db"
				req := api.Request{ID: uuid.New(), Kind: dataset.OpClone, Volume: name, Options: options}
				p, err := r.Control.Plan(t.Context(), r.Node(), req)
				require.NoError(t, err)
				return p.Operation
			}
			free, sized := plan("free", map[string]string{}), plan("sized", map[string]string{"size": had.String()})
			if _, err := r.Link.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: has.String()}); err != nil {
				t.Fatal(err)
			}
			agenttest.Await(t, func() bool { d, _ := r.Cache.Volume("db"); return d.Size == has })

			out, err := r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, free)
			require.NoError(t, err)
			if d := out.Dataset; d.Size != has || d.Profile.Size != has {
				t.Errorf("the clone of %s has %s, and promises %s", has, d.Size, d.Profile.Size)
			}
			e, err := r.Pool().Stat(t.Context(), free.DatasetID)
			if err != nil || e.Record == nil || e.Record.Size != has {
				t.Errorf("beside it is %+v, %v", e.Record, err)
			}
			_, err = r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, sized)
			if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), "smaller than the size 128MiB of its source") {
				t.Errorf("a clone of %s with %s: %v", has, had, err)
			}
			if _, err := r.Pool().Stat(t.Context(), sized.DatasetID); !errors.Is(err, dataset.ErrNotFound) {
				t.Errorf("it left something: %v", err)
			}
		})
	}
}
