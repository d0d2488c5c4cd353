package operation_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

const (
	sizeBefore = 320 * dataset.MiB
	sizeAfter  = 448 * dataset.MiB
)

// Resize resizes a volume to the size after.
func Resize(h *agenttest.Host, name string) {
	h.Cluster.Helper()
	if err := h.Perform(h.Cluster.Context(), api.Request{Kind: dataset.OpResize, Volume: name, Size: sizeAfter.String()}); err != nil {
		h.Cluster.Fatal(err)
	}
}

// WantSize fails unless a volume is as large as its record says.
func WantSize(h *agenttest.Host, name string) {
	h.Cluster.Helper()
	path := h.MustMount(name, "df")
	defer h.MustUnmount(name, "df")
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		h.Cluster.Fatal(err)
	}
	size, free := h.Cluster.Recorded(name).Size, dataset.Size(st.Bavail)*dataset.Size(st.Bsize)
	if size != sizeAfter || free < size*97/100 || free > size*103/100 {
		h.Cluster.Errorf("df in a volume of %s shows %s free", size, free.Human())
	}
}

// A volume that continues from a copy that is older than its last resize is resized to the recorded size.
func TestForcedMoveGrowsSmallerCopy(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": sizeBefore.String()})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	Resize(f.B, "db")
	WantSize(f.B, "db")
	f.B.Stop()
	ForceMove(f, "db", f.A, f.B)
	WantSize(f.A, "db")
	f.A.WantFile("db", "token", "before")
	f.B.Start()
}

// sizeless is backend loop whose resizes fail for a while.
type sizeless struct {
	*loop.Backend
	fails atomic.Bool
}

type sizelessPool struct {
	*loop.Pool
	of *sizeless
}

func (k *sizeless) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	p, err := k.Backend.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return sizelessPool{p.(*loop.Pool), k}, nil
}

func (p sizelessPool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error {
	if p.of.fails.Load() {
		return errors.New("not today")
	}
	return p.Pool.Resize(ctx, id, size, root)
}

// A volume that could not be resized then is reported, also after a start, until it has its size. A resize request to
// that size does nothing, as that size is recorded.
func TestFailedResizeAfterMoveIsRetried(t *testing.T) {
	t.Parallel()
	f, _, kind := undersizes(t)
	want := "its size was not set to 448MiB when it moved here and may still have 320MiB: not today"
	says := func(when string, says bool) {
		t.Helper()
		list, err := f.A.Doctor(t.Context())
		require.NoError(t, err)
		named := slices.ContainsFunc(list, func(x api.Finding) bool { return x.Level == api.LevelError && strings.HasPrefix(x.Text, want) })
		st := f.A.Status.Status(t.Context(), f.Recorded("db").Dataset)
		if named != says || strings.HasPrefix(st.Problem, want) != says {
			t.Errorf("%s: doctor names it: %t; its problem is %q", when, named, st.Problem)
		}
	}
	says("moved", true)
	f.A.Restart()
	f.A.Sizes.Retry(t.Context())
	says("after a start", true)
	path := f.A.MustMount("db", "one") // it is usable all the same
	if got, err := os.ReadFile(filepath.Join(path, "token")); err != nil || string(got) != "before" {
		t.Errorf("the volume continues with %q, %v", got, err)
	}
	kind.fails.Store(false)
	f.A.Sizes.Retry(t.Context())
	says("resized while it is mounted", false)
	f.A.MustUnmount("db", "one")
	WantSize(f.A, "db")
	f.A.Restart()
	says("after another start", false)
	f.B.Start()
}

// If nothing was written since, a volume moves with the snapshot that was copied last, which may be older than the
// last resize, too.
func TestMoveAfterResize(t *testing.T) {
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	for i, h := range []**agenttest.Host{&f.A, &f.B} {
		*h = f.AddHost([]string{"host-a", "host-b"}[i], "zfs")
		(*h).Config.Backends = backends.NewRegistry(zfs.New(&run.System{}, clock.System{}))
	}
	t.Cleanup(f.Close)
	f.A.Start()
	f.B.Start()
	f.A.NewVolume("db@safe", map[string]string{"size": sizeBefore.String()})
	f.A.WriteFile("db", "token", "text")
	written := time.Now()
	agenttest.Await(t, func() bool { return f.ReplicaHasSince(f.B, "db", written) })
	Resize(f.A, "db")
	f.Move("db", f.B)
	WantSize(f.B, "db")
}

// undersizes returns a cluster whose host a continued with a volume from a copy that is older than its last resize,
// and could not resize it. Host b, which did resize it, is down.
func undersizes(t *testing.T) (f *agenttest.Cluster, d dataset.Dataset, kind *sizeless) {
	t.Helper()
	f = agenttest.NewCluster(t, "loop", "loop")
	kind = &sizeless{Backend: loop.New(&run.System{})}
	f.A.Stop()
	f.A.Config.Backends = backends.NewRegistry(kind)
	f.A.Start()
	d = f.A.NewVolume("db", map[string]string{"size": sizeBefore.String()})
	f.A.WriteFile("db", "token", "before")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	Resize(f.B, "db")
	f.B.Stop()
	kind.fails.Store(true)
	ForceMove(f, "db", f.A, f.B)
	agenttest.Await(t, func() bool { _, known := f.A.Sizes.Deferred(d.ID); return known })
	return f, d, kind
}

// ForceMove moves a volume to a host without another host, which is confirmed as fenced.
func ForceMove(f *agenttest.Cluster, volume string, to, without *agenttest.Host) {
	f.Helper()
	out, err := f.Service.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: volume, Node: to.NodeName, Force: true, Fenced: without.NodeName})
	if err != nil || out.Operation == nil || out.Operation.Loss == nil {
		f.Fatalf("%+v, %v", out, err)
	}
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		f.Fatalf("%+v", op.Problem)
	}
}

// A volume that was not resized gets its size at the next home. Its snapshots, whoever took them, have the size that
// the volume has, not the size that it should have.
func TestUndersizedVolumeGrowsAtNextHome(t *testing.T) {
	t.Parallel()
	f, d, _ := undersizes(t)
	f.A.WriteFile("db", "token", "later")
	require.NoError(t, f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db"}))
	if s, err := f.Service.Snapshot(t.Context(), "db", f.Recorded("db").HeadParent.String()); err != nil || s.Size != sizeBefore {
		t.Errorf("a snapshot of it has %s on record, %v", s.Size, err)
	}
	c := f.AddHost("host-c", "loop")
	c.Start()
	asC := move.WithRequester(t.Context(), c.Node())
	if s, _, err := f.A.TransferSource.TakeSnapshot(asC, d.ID, nil); err != nil || s.Size != sizeBefore {
		t.Errorf("one for a replica has %s, %v", s.Size, err)
	}
	f.A.WriteFile("db", "token", "last")
	f.Move("db", c)
	WantSize(c, "db")
	c.WantFile("db", "token", "last")
	if u, known := c.Sizes.Deferred(d.ID); known {
		t.Errorf("it is not of its size there: %+v", u)
	}
}

// A relinquished volume is not resized any more. Otherwise it would differ from the data that went to the next home.
func TestRelinquishedVolumeIsNotResized(t *testing.T) {
	t.Parallel()
	f, d, kind := undersizes(t)
	c := f.AddHost("host-c", "loop")
	c.Start()
	asked := false
	c.Fuse.Set(-1, false, func(act string) {
		if _, given := f.A.Leases.Relinquished(d.ID); act != "commit" || !given || asked {
			return
		}
		asked = true
		kind.fails.Store(false)
		f.A.Sizes.Retry(t.Context())
		if _, still := f.A.Sizes.Deferred(d.ID); !still {
			t.Error("it is resized when it was given up")
		}
	})
	f.Move("db", c)
	c.Fuse.Mend()
	f.A.AwaitSettled(d.ID)
	if !asked {
		t.Fatal("nothing was given up")
	}
	for _, k := range f.Recorded("db").CopyDetails {
		if k.Node == f.A.Node() && k.Kind == dataset.CopySuperseded {
			t.Errorf("the copy that was left differs from the relinquished data: %+v", k)
		}
	}
	agenttest.Await(t, func() bool { _, known := f.A.Sizes.Deferred(d.ID); return !known })
}

// That a volume does not have its recorded size is remembered until control has said where its home is: its record
// may not be on disk yet when the agent ends.
func TestUndersizedIsRecordedUntilControlAnswers(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	require.NoError(t, r.Sizes.Defer(t.Context(), d.ID, operation.DeferredResize{Why: "no room"}))
	r.Cache.Remove(d.ID)
	keeps := func(when string, want bool) {
		t.Helper()
		r.Sizes.Retry(t.Context())
		if _, kept := r.Sizes.Deferred(d.ID); kept != want {
			t.Errorf("%s: it is kept: %t", when, kept)
		}
	}
	joined := r.Membership
	r.Host.Membership = host.NewMembership(r.DB)
	keeps("control is away", true)
	r.Host.Membership = joined
	r.Trust.Set("it is another one")
	keeps("control's store is not to be believed", true)
	r.Trust.Set("")
	keeps("it is another node's", false)
	r.Cache.Apply(d, 0)
}

// Control could not know the size of a pool that had not reported yet: a volume that is larger than its whole pool is
// not created, and no volume grows to such a size.
func TestVolumeLargerThanPoolIsRefused(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	const huge = 1 << 60
	made, next := d, d
	made.ID, made.Profile.Size, next.Size = uuid.New(), huge, huge
	op := dataset.Operation{Volume: "db", DatasetID: made.ID, DatasetRecord: &made, Epoch: d.Epoch}
	_, err := r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, &op)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "less than 1048576TiB") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("create", err)
	op.DatasetID, op.DatasetRecord = d.ID, &next
	_, err = r.Handler(dataset.OpResize)(t.Context(), &host.Job{}, &op)
	refused("resize", err)
	made.ID, made.Size = uuid.New(), huge
	op = dataset.Operation{Volume: "copy", DatasetID: made.ID, DatasetRecord: &made, Epoch: d.Epoch, Source: &dataset.Source{Dataset: d.ID}}
	_, err = r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, &op)
	refused("clone", err)
}

// newLoopHost starts a host with a loop pool on a disk of 1 GiB.
func newLoopHost(t *testing.T, overcommit float64) *agenttest.Host {
	disk := scratch.Mount(t, "xfs", 1<<30)
	return agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(&run.System{}))
		c.Pools = []pool.Config{{
			Name: "default", Backend: loop.Name, Path: filepath.Join(disk, "pool"), Overcommit: overcommit,
		}}
	})
}

// The default size of a volume obeys the same check as an explicit one: it is not larger than the pool.
func TestDefaultSizeFitsPool(t *testing.T) {
	r := newLoopHost(t, 0)
	d := r.NewVolume("db")
	p, _ := r.Pools.ByName("default")
	st, err := r.Pools.ReadStatus(t.Context(), p.ID)
	if err != nil || d.Size <= 0 || d.Size > st.Size {
		t.Errorf("the volume has %s, its pool %s, %v", d.Size, st.Size, err)
	}
	if st.Provisioned != d.Size || st.DefaultSize != d.Size {
		t.Errorf("%+v, want %d provisioned", st, d.Size)
	}
	require.NoError(t, r.Remove(t.Context(), "db"))
	agenttest.Await(t, func() bool { return r.Cache.Provisioned(p.ID) == 0 })
}

// The sizes of all volumes stay within the policy of their pool, whatever the request is: a create, a clone or a
// resize.
func TestOvercommitPolicy(t *testing.T) {
	r := newLoopHost(t, 1.5)
	p, _ := r.Pools.ByName("default")
	create := func(name string, options ...string) error {
		o := map[string]string{}
		for _, s := range options {
			k, v, _ := strings.Cut(s, "=")
			o[k] = v
		}
		return r.Create(t.Context(), name, o)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "exceed its overcommit of 1.5") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"one", "two"} {
		require.NoError(t, create(name, "size=600MiB"))
	}
	refused("create", create("three", "size=600MiB"))
	refused("create with the default size", create("three"))
	refused("clone", create("three", "from=one"))
	resize := func(size string) error {
		out, err := r.Link.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "one", Size: size})
		if err == nil && out.Operation != nil && out.Operation.Problem != nil {
			err = errors.New(out.Operation.Problem.Message)
		}
		return err
	}
	// Control does not know the present sizes before the next heartbeat, but the agent does.
	r.Reporter.ReportPools(t.Context())
	refused("resize", resize("950MiB"))
	if err := resize("700MiB"); err != nil {
		t.Errorf("resize within the policy: %v", err)
	}
	agenttest.Await(t, func() bool { return r.Cache.Provisioned(p.ID) == 1300*dataset.MiB })
	// Two concurrent creates do not exceed the policy together.
	st, _ := r.Pools.ReadStatus(t.Context(), p.ID)
	release, err := r.Pools.Reserve(p.ID, st, uuid.New(), 100*dataset.MiB)
	require.NoError(t, err)
	_, err = r.Pools.Reserve(p.ID, st, uuid.New(), 100*dataset.MiB)
	refused("a second create", err)
	release()
	if release, err = r.Pools.Reserve(p.ID, st, uuid.New(), 100*dataset.MiB); err != nil {
		t.Error(err)
	}
	release()
}

// restoreless is a pool that has no space for a restore.
type restoreless struct{ backends.Pool }

func (restoreless) Restore(context.Context, uuid.UUID, uuid.UUID, dataset.Snapshot, backends.Progress) error {
	return dataset.Errorf(dataset.ErrNoSpace, "the pool is full")
}

func TestRestoreInFullPoolHasRemedy(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	require.NoError(t, r.Create(ctx, "db", nil))
	require.NoError(t, r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "first"}))
	p, _ := r.Pools.ByName("default")
	r.Pools.Change(p.ID, func(p *pool.Pool) { p.Storage = restoreless{p.Storage} })
	err := r.Perform(ctx, api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "first"})
	if err == nil || !strings.Contains(err.Error(), "the pool is full (") || !strings.Contains(err.Error(), "drover volume ls and drover snapshot ls show what could be deleted") {
		t.Errorf("%v", err)
	}
}

// Users who look at a volume after its resize see the usage of the enlarged filesystem. The clock of the test does not
// move, so no heartbeat reports it.
func TestUsageIsKnownAfterResize(t *testing.T) {
	r := newLoopHost(t, 0)
	d := r.NewVolume("db", map[string]string{"size": "300MiB"})
	r.MustMount("db", "user")
	require.NoError(t, r.Perform(t.Context(), api.Request{Kind: dataset.OpResize, Volume: "db", Size: "600MiB"}))
	v, err := r.Cluster.Client.Volume(t.Context(), d.ID.String())
	if err != nil || v.Status == nil || v.Status.Usage == nil {
		t.Fatalf("%+v, %v", v.Status, err)
	}
	if all := v.Status.Usage.Used + v.Status.Usage.Available; v.Size != 600*dataset.MiB || all < 500*dataset.MiB {
		t.Errorf("a volume of %s has a filesystem of %s", v.Size, all)
	}
}
