package operation_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// An answer of control that was read before an operation ended, and is applied afterwards, does not repeat the
// operation: an import would discard what was written since.
func TestEndedOperationIsNotResumed(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	from := t.TempDir()
	file := func(dir string) string { return filepath.Join(dir, "file") }
	require.NoError(t, os.WriteFile(file(from), []byte("imported"), 0o600))
	out, err := r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpImport, Volume: "db", Path: from})
	require.NoError(t, err)
	stale := api.Sync{Cluster: r.Identity.Cluster(), Operations: []dataset.Operation{*out.Operation}}
	agenttest.Await(t, func() bool {
		op, known := r.Runner.Lookup(ctx, out.Operation.ID)
		return known && op.State == dataset.OpDone && len(r.Jobs.Running()) == 0
	})
	d, ok := r.Cache.Volume("db")
	if !ok {
		t.Fatal("the volume is not known")
	}
	r.MountDataset(d, "id")
	path := file(r.MountPath(d.ID))
	require.NoError(t, os.WriteFile(path, []byte("written since"), 0o600))
	require.NoError(t, r.Unmount(ctx, "db", "id"))
	require.NoError(t, r.Follower.Apply(ctx, stale, controlsync.KnownState{}))
	agenttest.Await(t, func() bool { return r.Jobs.Count() == 0 })
	r.MountDataset(d, "id")
	if b, err := os.ReadFile(path); err != nil || string(b) != "written since" {
		t.Errorf("it holds %q, %v", b, err)
	}
	require.NoError(t, r.Unmount(ctx, "db", "id"))
}

// between calls a function after an agent has made a dataset and before the dataset is recorded.
type between struct {
	api.Service
	do func()
}

func (b *between) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	b.do()
	return b.Service.Commit(ctx, node, r)
}

// I3: a dataset that is being made is not recorded yet. If control answers again meanwhile, and the leftovers of a
// crash are removed, the dataset stays.
func TestI3CreateInProgressIsNotReaped(t *testing.T) {
	var b *between
	r := agenttest.New(t, func(cfg *agent.Config) {
		b = &between{cfg.Control, func() {}}
		cfg.Control = b
	})
	joined := false
	b.do = func() {
		if _, err := r.Follower.Join(t.Context()); err != nil {
			t.Error(err)
		}
		cleaned := func(context.Context, *host.Job) error { return nil }
		if _, err := r.Jobs.Do(t.Context(), "incoming/"+r.Pool().ID().String(), "", cleaned); err != nil {
			t.Error(err)
		}
		joined = true
	}
	d := r.NewVolume("db")
	b.do = func() {}
	if e, err := r.Pool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || !joined {
		t.Errorf("%+v, %v, joined %t", e, err, joined)
	}
	r.MountDataset(d, "id")
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
}

// I4: an operator destroys a dataset that is just being made, and is not recorded yet. Once it is acknowledged, it
// stays.
func TestI4CreateInProgressIsNotCollected(t *testing.T) {
	var b *between
	r := agenttest.New(t, func(cfg *agent.Config) {
		b = &between{cfg.Control, func() {}}
		cfg.Control = b
	})
	collected := make(chan error, 1)
	b.do = func() {
		b.do = func() {}
		list, err := r.Pool().List(t.Context())
		if err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
			return
		}
		id := list[0].ID
		go func() { _, err := r.Collect(t.Context(), id, false); collected <- err }()
		agenttest.Await(t, func() bool { return r.Locks.Users(id) == 2 })
	}
	d := r.NewVolume("db")
	assert.ErrorIsf(t, <-collected, dataset.ErrExists, "collected")
	r.MountDataset(d, "id")
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))
}

// blows crashes the process before the next act of a name. gone is closed then.
func blows(f *agenttest.Fuse, at string) (gone <-chan struct{}) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	f.Gone, f.At, f.Nth = make(chan struct{}), at, 1
	return f.Gone
}

// A crash prevented the report of an operation that was done. The operation is recorded as done, even if somebody
// uses the volume when it is resumed: a restore that is reported as failed has changed nothing, and no snapshot is
// left behind.
func TestFinishedButUnreportedOperations(t *testing.T) {
	for name, of := range map[string]struct{ backend, spec string }{
		"in use at home": {"nfs", "db@plain"}, "an image in use at home": {"loop", "db@plain"}, "in use by a guest": {"nfs", "db@many"},
	} {
		for _, kind := range []dataset.OpKind{dataset.OpRestore, dataset.OpSnapshot} {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				f := agenttest.NewCluster(t, of.backend, of.backend)
				d := f.A.NewVolume(of.spec, nil)
				f.A.WriteFile("db", "token", "old")
				f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}).Operation)
				f.A.WriteFile("db", "token", "new")
				gone := blows(f.A.Fuse, "commit")
				req := api.Request{Kind: kind, Volume: "db", Snapshot: "first"}
				if kind == dataset.OpSnapshot {
					req.Snapshot, req.Name = "", "second"
				}
				op := *f.Submit(req).Operation
				agenttest.AwaitDeath(t, gone)
				f.A.Stop()
				f.A.Fuse.Mend()
				user := f.A
				if of.spec == "db@many" {
					user = f.B
					// The home reports these first when it is reachable again.
					for _, g := range f.Recorded("db").SharedMounts {
						over := api.SharedMountReport{Incarnation: f.A.Incarnation, Dataset: d.ID, ID: g.ID, Ended: true}
						if _, err := f.Service.ReportSharedMount(t.Context(), f.A.Node(), over); err != nil {
							t.Fatal(err)
						}
					}
					user.MustMount("db", "user")
				} else { // this asks no control
					link := f.A.Config.Control
					f.A.Config.Control = agenttest.UnreachableControl{Service: link}
					f.A.Start()
					user.MustMount("db", "user")
					f.A.Stop()
					f.A.Config.Control = link
				}
				f.A.Start()
				op = f.AwaitEnd(op)
				user.MustUnmount("db", "user")
				want := map[dataset.OpKind]string{dataset.OpRestore: "old", dataset.OpSnapshot: "new"}[kind]
				if got := f.A.ReadFile("db", "token"); got != want || op.State != dataset.OpDone {
					t.Errorf("the %s is %s (%+v), and the volume holds %q", kind, op.State, op.Problem, got)
				}
				sameSnapshots(f.A, d.ID)
			})
		}
	}
}

// sameSnapshots fails unless the recorded snapshots are in the pool.
func sameSnapshots(h *agenttest.Host, id uuid.UUID) {
	h.Cluster.Helper()
	list, err := h.Cluster.Service.Snapshots(h.Cluster.Context(), id.String(), api.Page{})
	if err != nil {
		h.Cluster.Fatal(err)
	}
	e, err := h.Pool().Stat(h.Cluster.Context(), id)
	if err != nil {
		h.Cluster.Fatal(err)
	}
	if len(e.Snapshots) != 2 || len(list.Items) != 2 || host.IndexOf(e, list.Items[0].ID) < 0 || host.IndexOf(e, list.Items[1].ID) < 0 {
		h.Cluster.Errorf("on record: %+v; in the pool: %+v", list.Items, e.Snapshots)
	}
}

// lateControl is a connection to a control that does not answer Record, and gets the request late.
type lateControl struct {
	api.Service
	records chan api.Report
}

func (c lateControl) Record(ctx context.Context, _ uuid.UUID, r api.Report) error {
	c.records <- r
	<-ctx.Done()
	return dataset.Errorf(dataset.ErrUnavailable, "no answer: %w", ctx.Err())
}

// A create takes so long that the agent asks control to record it, and control gets the request only after the create
// has ended. The create is not repeated, whatever happened to its volume.
func TestLateRecordDoesNotRepeatCreate(t *testing.T) {
	for _, fails := range []bool{false, true} {
		h, late := &agenttest.HangingBackend{}, lateControl{records: make(chan api.Report, 1)}
		r := agenttest.New(t, func(c *agent.Config) {
			c.Backends = backends.NewRegistry(h)
			c.Pools = append(c.Pools, pool.Config{Name: "other", Backend: "dir", Path: filepath.Join(c.Root, "other")})
			late.Service = c.Control
			c.Control = late
		})
		t.Cleanup(h.Resume)
		h.Mu.Lock()
		h.Fails = fails
		h.Mu.Unlock()
		h.Hang("create")
		made := make(chan error, 1)
		go func() { made <- r.Create(t.Context(), "db", map[string]string{"pool": "other"}) }()
		agenttest.Await(t, func() bool { return h.Calls() == 1 })
		var record api.Report
		agenttest.Await(t, func() bool {
			r.FakeClock.Advance(host.RecordAfter)
			select {
			case record = <-late.records:
				return true
			default:
				return false
			}
		})
		h.Resume()
		if err := <-made; (err != nil) != fails {
			t.Fatal(err)
		}
		want := dataset.OpDone
		if fails {
			want = dataset.OpFailed
		}
		assert.NoError(t, late.Service.Record(t.Context(), r.NodeID, record))
		agenttest.Await(t, func() bool { return r.Jobs.Count() == 0 }) // a failure is reported by a job
		op, err := r.Control.Operation(t.Context(), record.Operation.ID.String(), 0)
		if err != nil || op.State != want {
			t.Errorf("the operation is %s, %v: want %s", op.State, err, want)
		}
		if _, err := r.Control.Volume(t.Context(), "db"); errors.Is(err, dataset.ErrNotFound) != fails {
			t.Error(err)
		}
	}
}

// doubtful is a control that loses its next answer to a commit: the commit happens, and the agent gets an error. If a
// test says so, later reports of the agent are refused and have no effect.
type doubtful struct {
	api.Service
	mu            sync.Mutex
	lost, refused error
}

func (c *doubtful) loses(lost, refused error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost, c.refused = lost, refused
}

func (c *doubtful) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.mu.Lock()
	lost, refused := c.lost, c.refused
	if c.lost = nil; lost == nil {
		c.refused = nil
	}
	c.mu.Unlock()
	if lost == nil && refused != nil {
		return api.Committed{}, refused
	}
	out, err := c.Service.Commit(ctx, node, r)
	if lost != nil && err == nil {
		return api.Committed{}, lost
	}
	return out, err
}

// doubts makes a host's connection to control lose answers.
func doubts(h *agenttest.Host) *doubtful {
	h.Cluster.Helper()
	c := &doubtful{Service: h.Cluster.Client}
	h.Stop()
	h.Config.Control = agenttest.FusedControl{Service: c, Host: h}
	h.Start()
	return c
}

// A snapshot whose commit may have happened stays in the pool, whatever answer the agent got: it may be recorded, and
// then it must exist.
func TestI3SnapshotInDoubtIsKept(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	c := doubts(f.A)
	d := f.A.NewVolume("db", nil)
	for _, err := range []error{dataset.ErrNoSpace, dataset.ErrInternal, errors.New("of no kind"), context.DeadlineExceeded} {
		text := err.Error()
		f.A.WriteFile("db", "token", text)
		c.loses(err, nil)
		if got := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}); !errors.Is(got, err) {
			t.Errorf("%v: the snapshot ended with %v", err, got)
		}
		s := f.Recorded("db").HeadParent
		e, serr := f.A.Pool().Stat(t.Context(), d.ID)
		if serr != nil || s == uuid.Nil || host.IndexOf(e, s) < 0 {
			t.Fatalf("%v: snapshot %s is on record, and the pool has %+v, %v", err, s, e.Snapshots, serr)
		}
		f.A.WriteFile("db", "token", "later")
		clone := "copy-" + s.String()[:8]
		f.A.NewVolume(clone+"@snapshot-"+s.String(), nil)
		if got := f.A.ReadFile(clone, "token"); got != text {
			t.Errorf("%v: the snapshot holds %q", err, got)
		}
	}
}

// New data stays in the pool if the answer to its commit was lost and the repeated report is then refused, as by a
// control that was halted meanwhile: the unanswered commit is valid.
func TestI3CommitRefusedAfterLostAnswerKeepsData(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]func(f *agenttest.Cluster) error{
		"import": func(f *agenttest.Cluster) error {
			_, err := f.A.Import(f.Context(), api.Request{Volume: "new"}, archiveOf(f.T, "token", "old"))
			return err
		},
		"clone": func(f *agenttest.Cluster) error {
			return f.A.Create(f.Context(), "new", map[string]string{"from": "db"})
		},
		"snapshot": func(f *agenttest.Cluster) error {
			return f.A.Perform(f.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := agenttest.NewCluster(t, "dir", "dir")
			c := doubts(f.A)
			f.A.NewVolume("db", nil)
			f.A.WriteFile("db", "token", "old")
			halted := dataset.Errorf(dataset.ErrConflict, "nothing is decided")
			c.loses(dataset.ErrUnavailable, halted)
			if err := asks(f); !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), halted.Error()) {
				t.Errorf("it ended with %v", err)
			}
			f.A.WriteFile("db", "token", "later")
			f.A.Restart()
			if s := f.Recorded("db").HeadParent; s != uuid.Nil {
				f.A.NewVolume("new@snapshot-"+s.String(), nil)
			}
			f.A.WantFile("new", "token", "old")
		})
	}
}

// archiveOf is a tar archive with one file.
func archiveOf(t *testing.T, file, text string) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o600, Size: int64(len(text)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	require.NoError(t, errors.Join(err, w.Close()))
	return &archive
}

// The record beside the data is updated after decisions that the agent did not make, and after a removal, while the
// agent runs: an operator who later has only the pool relies on it.
func TestRecordBesideDataFollowsUpdates(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	says := func(want func(dataset.Dataset) bool) {
		t.Helper()
		agenttest.Await(t, func() bool {
			e, err := r.Pool().Stat(t.Context(), d.ID)
			return err == nil && e.Record != nil && want(*e.Record)
		})
	}
	for _, protect := range []bool{true, false} {
		req := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}
		_, err := r.Link.Service.Submit(t.Context(), req)
		require.NoError(t, err)
		says(func(d dataset.Dataset) bool { return d.Protected == protect })
	}
	require.NoError(t, r.Remove(t.Context(), "db"))
	says(func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
}

// An operation that was planned in an earlier epoch does nothing: it is refused before data is changed. It is also
// refused if control has an older record of a dataset that has left this node.
func TestI1OperationOfOlderEpochIsRefused(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	epoch := d.Epoch
	d.Epoch++
	refused := func(what string) {
		for _, kind := range []dataset.OpKind{dataset.OpPurge, dataset.OpRestore, dataset.OpSnapshotDelete} {
			op := dataset.Operation{
				ID: uuid.New(), Kind: kind, Node: r.NodeID, Volume: "db", DatasetID: d.ID, Epoch: epoch,
				Snapshot: &dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}, Source: &dataset.Source{Dataset: d.ID, Snapshot: uuid.New()},
			}
			_, err := r.Execute(ctx, &host.Job{}, op)
			assert.ErrorIsf(t, err, dataset.ErrStale, "a %s %s", kind, what)
		}
		_, err := r.Pool().Stat(ctx, d.ID)
		require.NoError(t, err)
	}
	r.Cache.Apply(d, r.Cache.Index(d.ID)+1)
	refused("of an older epoch")
	d.Home, d.Epoch = uuid.New(), d.Epoch+1
	left := api.AssignedCopy{Record: &d, Copy: dataset.Copy{Dataset: d.ID, Node: r.NodeID, Pool: d.Pool, Kind: dataset.CopyLeft}}
	if !r.Cache.ReplaceByCopy(left) {
		t.Fatal("it is not left")
	}
	refused("of a dataset that has left")
	r.Cache.SetCopy(d.ID, nil) // otherwise the rig would check it
}

func TestMain(m *testing.M) { agenttest.Main(m) }
