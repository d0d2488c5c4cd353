package pool_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/pool", "/pool", true}, {"/pool/sub", "/pool", true}, {"/pool", "/pool/sub", false},
		{"/pools", "/pool", false}, {"/pool..x", "/pool", false}, {"/pool/..x", "/pool", true}, {"/", "/pool", false}, {"/x", "/", true},
	} {
		if got := pool.IsWithin(c.path, c.dir); got != c.want {
			t.Errorf("%s within %s: %t", c.path, c.dir, got)
		}
	}
}

// Another pool at the path of a pool is not taken for it.
func TestExchangedPoolIsOffline(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	marker := filepath.Join(r.Root, "pool", "pool.json")
	r.Stop() // until then, the marker can change
	own, err := os.ReadFile(marker)
	require.NoError(t, err)
	for _, c := range []struct {
		text string
		err  error
	}{{strings.Replace(string(own), r.Pool().ID().String(), uuid.NewString(), 1), dataset.ErrOffline}, {string(own), nil}} {
		require.NoError(t, os.WriteFile(marker, []byte(c.text), 0o600))
		r.Start()
		err := r.CallsByName("db")["mount"]
		if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), "it contains another pool") {
			t.Errorf("mount: %v, want %v", err, c.err)
		}
		r.Stop()
	}
}

// A pool that cannot be opened at a start is offline and keeps its UUID. No other pool is made in its place, its
// volumes are known, and it returns without intervention.
func TestOfflinePoolReturns(t *testing.T) {
	f := &agenttest.FailingBackend{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	ctx := t.Context()
	db := r.NewVolume("db")
	id := r.Pool().ID()
	f.Offline.Store(true)
	r.Restart()
	p, ok := r.Pools.ByName("default")
	if !ok || p.Storage != nil || p.ID != id {
		t.Fatalf("%+v", p)
	}
	for what, err := range map[string]error{"mount": r.CallsByName("db")["mount"], "create": r.Create(ctx, "new", nil)} {
		if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "its disk is gone") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Get(ctx, "db"); err != nil {
		t.Errorf("get: %v", err)
	}
	if _, err := r.RebuildStore(ctx, api.RebuildStore{}); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "--skip-offline") {
		t.Errorf("rebuild without the pool: %v", err)
	}
	if list, err := r.RebuildStore(ctx, api.RebuildStore{SkipOffline: true}); err != nil || len(list) != 0 {
		t.Errorf("rebuild of the other pools: %+v, %v", list, err)
	}
	f.Offline.Store(false)
	if !r.Pools.Retry(ctx) || r.Pools.Retry(ctx) {
		t.Error("it did not come back, once")
	}
	assert.NoError(t, r.Generations.AnnounceLate(ctx))
	r.MountDataset(db, "id")
	r.WantUses(db, "id")
	assert.NoError(t, r.Unmount(ctx, "db", "id"))
}

// Creates, clones and snapshots are refused in a pool without space. The error says how much space there is, and that
// the trash could be emptied.
func TestFullPoolRefusesCreates(t *testing.T) {
	f := &agenttest.FailingBackend{}
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	ctx := t.Context()
	r.NewVolume("db")
	r.NewVolume("waste")
	require.NoError(t, r.Remove(ctx, "waste"))
	f.Refuse = backends.CheckRoom("default", dataset.MiB, 100*dataset.GiB)
	for what, err := range map[string]error{
		"create":   r.Create(ctx, "new", nil),
		"clone":    r.Create(ctx, "copy", map[string]string{"from": "db"}),
		"snapshot": r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "db"}),
	} {
		if !errors.Is(err, dataset.ErrNoSpace) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, says := range []string{"pool default", "1MiB free of 100GiB", "the trash has 1 volume", "drover trash ls"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %q does not say %q", what, err, says)
			}
		}
	}
	f.Refuse = dataset.Errorf(dataset.ErrOffline, "its disk is gone")
	if err := r.Create(ctx, "new", nil); !errors.Is(err, dataset.ErrOffline) || strings.Contains(err.Error(), "trash") {
		t.Errorf("create on a pool that went offline: %v", err)
	}
	f.Refuse = nil
	assert.NoError(t, r.Create(ctx, "new", nil))
}

// A pool is made only on an empty place, with a name and a path that no other pool has.
func TestCreatePool(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	here := filepath.Join(r.Root, "pool")
	full := filepath.Join(r.Root, "full")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "precious"), 0o755))
	for _, c := range []struct {
		p    api.NewPool
		kind *dataset.Kind
	}{
		{api.NewPool{Name: "Bad Name", Backend: "dir", Path: "/x"}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: "relative"}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: here + "/../up"}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: here}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: filepath.Join(here, "inside")}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: r.Root}, dataset.ErrInvalid},
		{api.NewPool{Name: "default", Backend: "dir", Path: filepath.Join(r.Root, "other")}, dataset.ErrExists},
		{api.NewPool{Name: "second", Backend: "nosuch", Path: filepath.Join(r.Root, "other")}, dataset.ErrInvalid},
		{api.NewPool{Name: "second", Backend: "dir", Path: full}, dataset.ErrExists},
	} {
		if _, err := r.CreatePool(ctx, c.p); !errors.Is(err, c.kind) {
			t.Errorf("%+v: %v, want %s", c.p, err, c.kind.Code)
		}
	}
	if got := len(r.Pools.All()); got != 1 {
		t.Fatalf("%d pools", got)
	}
	second, err := r.CreatePool(ctx, api.NewPool{Name: "second", Backend: "dir", Path: filepath.Join(r.Root, "second")})
	require.NoError(t, err)
	for path, says := range map[string]string{
		full: "no pool found (", filepath.Join(r.Root, "missing"): "cannot find a pool: ",
	} {
		_, _, err := r.AdoptPool(ctx, path, false)
		if err == nil || !strings.HasPrefix(err.Error(), "adopt "+path+": "+says) || !strings.Contains(err.Error(), "is its disk mounted?") || len(err.Error()) > 200+2*len(path) {
			t.Errorf("adopt: %v", err)
		}
	}
	known, err := r.Link.Pools(ctx)
	// Before any heartbeat.
	if err != nil || len(known) != 2 || known[1].Name != "second" || known[1].Status == nil || known[1].Status.Size == 0 {
		t.Errorf("control knows %+v, %v", known, err)
	}
	assert.NoError(t, r.Create(ctx, "there", map[string]string{"pool": "second"}))
	r.Restart()
	if p, ok := r.Pools.ByName("second"); !ok || p.ID != second.ID || p.Storage == nil {
		t.Errorf("after a restart: %+v", p)
	}
}

// A start that was interrupted after it made a pool and before it recorded the pool finds that pool. A copy of a pool
// under another name is refused.
func TestPoolMadeButNotRecorded(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewVolume("db")
	id := r.Pool().ID()
	require.NoError(t, r.DB.Put(t.Context(), map[string]any{"pools/default": nil}))
	r.Restart()
	if r.Pool().ID() != id {
		t.Errorf("pool %s, want %s", r.Pool().ID(), id)
	}
	r.MountDataset(db, "id")
	assert.NoError(t, r.Unmount(t.Context(), "db", "id"))

	copied := filepath.Join(r.Root, "copy")
	agenttest.Await(t, func() bool { // the marker may be written meanwhile
		return errors.Join(os.RemoveAll(copied), os.CopyFS(copied, os.DirFS(filepath.Join(r.Root, "pool")))) == nil
	})
	_, err := r.Pools.Make(t.Context(), "copy", pool.Record{Backend: "dir", Path: copied})
	if !errors.Is(err, dataset.ErrExists) || !strings.Contains(err.Error(), "pool default") {
		t.Errorf("a copy of the pool: %v", err)
	}
	if got := r.Pools.All(); len(got) != 1 || got[0].Record.Path != filepath.Join(r.Root, "pool") || got[0].ID == uuid.Nil {
		t.Errorf("pools: %+v", got)
	}
}

// A new pool in drover.yaml that cannot be made is offline with the reason. The other pools serve, nothing is made in
// its place, and a start after the repair makes it.
func TestNewPoolThatCannotBeCreatedIsOffline(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	db := r.NewVolume("db")
	full := filepath.Join(r.Root, "full")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "precious"), 0o755))
	cfg := r.Config
	cfg.Pools = append(cfg.Pools, pool.Config{Name: "new", Backend: "dir", Path: full}, pool.Config{Name: "odd", Backend: "zfs", Path: "/odd"})
	r.Stop()
	r.StartWith(cfg)
	r.MountDataset(db, "id")
	assert.NoError(t, r.Unmount(ctx, "db", "id"))
	r.Reporter.ReportAll(ctx)
	list, err := r.Control.Pools(ctx)
	if err != nil || len(list) != 3 {
		t.Fatalf("pools %+v, %v", list, err)
	}
	for i, name := range []string{"new", "odd"} {
		if p := list[i+1]; p.Name != name || p.NodeName != "host-a" || p.ID != uuid.Nil || p.Status == nil || p.Status.Online || p.Status.Reason == "" {
			t.Errorf("%s is shown as %+v, %+v", name, p, p.Status)
		}
	}
	found, err := r.Doctor(ctx)
	require.NoError(t, err)
	said := 0
	for _, f := range found {
		if f.Level == api.LevelError && (f.Subject == "pool new" || f.Subject == "pool odd") && strings.Contains(f.Text, "is offline") {
			said++
		}
	}
	if said != 2 {
		t.Errorf("doctor says %+v", found)
	}
	if _, err := r.CreatePool(ctx, api.NewPool{Name: "new", Backend: "dir", Path: filepath.Join(r.Root, "other")}); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("another pool of that name: %v", err)
	}
	require.NoError(t, os.RemoveAll(full))
	cfg.Pools = cfg.Pools[:2]
	r.Stop()
	r.StartWith(cfg)
	if p, ok := r.Pools.ByName("new"); !ok || p.Storage == nil {
		t.Errorf("after it was mended: %+v", p)
	}
	r.Reporter.ReportAll(ctx)
	if list, err := r.Control.Pools(ctx); err != nil || len(list) != 2 {
		t.Errorf("pools %+v, %v", list, err)
	}
}

// If the only pool cannot be made, no default pool is made: a default pool would take half of a disk that nobody
// named.
func TestNoDefaultPoolBesideFailedPool(t *testing.T) {
	f := &agenttest.FailingBackend{}
	f.Offline.Store(true)
	r := agenttest.New(t, func(c *agent.Config) { c.Backends = backends.NewRegistry(f) })
	if got := r.Pools.All(); len(got) != 0 {
		t.Errorf("pools %+v", got)
	}
	if err := r.Create(t.Context(), "db", nil); err == nil {
		t.Error("a volume was made nowhere")
	} else {
		t.Log(err)
	}
}

// sizes is a backend that makes no images, and records how large they would be.
type sizes struct {
	dir.Backend
	asked []dataset.Size
}

func (*sizes) Name() string { return "loop" }

func (s *sizes) Open(_ context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image > 0 {
		s.asked = append(s.asked, cfg.Image)
	}
	return nil, dataset.Errorf(dataset.ErrUnsupported, "not here")
}

// The image that a killed start left does not reduce the size of the next start's image.
func TestDefaultPoolAfterKilledStart(t *testing.T) {
	root := scratch.Mount(t, "ext4", 8<<30)
	require.NoError(t, os.Mkdir(filepath.Join(root, "pools"), 0o711))
	f, err := os.Create(backends.TemporaryImagePath(filepath.Join(root, "pools", "default.img")))
	require.NoError(t, err)
	err = unix.Fallocate(int(f.Fd()), 0, 0, 4<<30)
	if cErr := f.Close(); err != nil || cErr != nil {
		t.Fatal(err, cErr)
	}
	s := &sizes{}
	agenttest.New(t, func(c *agent.Config) {
		c.Root, c.Pools, c.Backends = root, nil, backends.NewRegistry(s, dir.Backend{})
	})
	if len(s.asked) != 1 || s.asked[0] != 3*dataset.GiB {
		t.Errorf("images of %v were asked for, want half of the 8 GiB less what ext4 takes: 3GiB", s.asked)
	}
}

// The name of a pool's lock can be read by everyone. An unprivileged user who takes the name while Drover is down
// does not keep the pool offline. Doctor reports that the pool is not protected from another Drover.
func TestPoolNameTakenByUnprivilegedUser(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	names := slices.Collect(maps.Keys(r.Pools.PoolLocks.Sockets))
	if len(names) != 1 {
		t.Fatalf("holds %q", names)
	}
	cfg := r.Config
	r.Stop()
	fd, done := -1, make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its user ID
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		var err error
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + names[0]})
		}
		if err == nil {
			err = unix.Listen(fd, 16)
		}
		done <- err
	}()
	require.NoError(t, <-done)
	defer unix.Close(fd)
	r.StartWith(cfg)
	assert.NoError(t, r.Create(t.Context(), "new", nil))
	list, err := r.Doctor(t.Context())
	require.NoError(t, err)
	said := false
	for _, f := range list {
		said = said || f.Level == api.LevelWarning && f.Subject == "pool default" && strings.Contains(f.Text, "uid 65534")
	}
	if !said {
		t.Errorf("doctor does not say it: %+v", list)
	}
}

// The start that makes the pools finds them in another order than later starts do. The pool for new volumes must not
// depend on that.
func TestPoolsHaveOneOrder(t *testing.T) {
	configured := []pool.Config{{Name: "ssd"}, {Name: "hdd"}}
	for _, met := range [][]string{
		{"ssd", "hdd", "default", "zoo", "ant"},
		{"ant", "default", "hdd", "ssd", "zoo"},
		{"zoo", "ssd", "ant", "hdd", "default"},
	} {
		p := pool.New(&host.Host{Log: logrus.New()}, nil, nil, nil, configured)
		for _, name := range met {
			p.Add(&pool.Pool{Pool: dataset.Pool{ID: uuid.New(), Name: name, Default: name == "default"}})
		}
		p.Add(p.All()[0]) // again, as when it returns
		var got []string
		for _, o := range p.All() {
			got = append(got, o.Name)
		}
		if diff := cmp.Diff([]string{"ssd", "hdd", "default", "ant", "zoo"}, got); diff != "" {
			t.Errorf("met as %v: %s", met, diff)
		}
	}
}

// TestReadingsOfAStatusAreShared: all who wait for the status of a pool while it works on an earlier question get one
// reading, which begins after that question. A caller whose context ends does not wait, and does not end the reading.
func TestReadingsOfAStatusAreShared(t *testing.T) {
	r, h, _, there := hungRig(t)
	began, gate, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- r.Pools.Ask(t.Context(), there.Pool, func(backends.Pool) { close(began); <-gate })
	}()
	<-began
	before := h.Statuses()
	first := r.Pools.JoinReading(there.Pool)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if st, err := r.Pools.ReadStatus(ctx, there.Pool); !errors.Is(err, context.Canceled) || st.Online {
		t.Errorf("a caller that has gone: %+v, %v", st, err)
	}
	if r.Pools.JoinReading(there.Pool) != first {
		t.Error("another caller that waits has another reading")
	}
	close(gate)
	require.NoError(t, <-ended)
	<-first
	if n := h.Statuses() - before; n != 1 {
		t.Errorf("the status was read %d times, want once", n)
	}
	if st, err := r.Pools.ReadStatus(t.Context(), there.Pool); err != nil || !st.Online || st.Size == 0 {
		t.Errorf("a later caller: %+v, %v", st, err)
	}
	if n := h.Statuses() - before; n != 2 {
		t.Errorf("after a later call, the status was read %d times, want twice", n)
	}
}

// TestHangingPoolIsReportedAtOnce: once a pool counts as hanging, all callers get that answer: the one whose question
// hangs, those in the queue behind it, and later ones. The clock stands still, so none of them has waited for
// AskPatience.
func TestHangingPoolIsReportedAtOnce(t *testing.T) {
	r, _, _, there := hungRig(t)
	const callers = 4
	began, gate, ended := make(chan struct{}), make(chan struct{}), make(chan error, callers)
	ask := func(f func(backends.Pool)) { ended <- r.Pools.Ask(t.Context(), there.Pool, f) }
	go ask(func(backends.Pool) { close(began); <-gate })
	<-began
	go ask(func(backends.Pool) { t.Error("the pool is asked while it hangs") })
	reading := r.Pools.JoinReading(there.Pool) // it waits for its turn
	readStatus := func() {
		_, err := r.Pools.ReadStatus(t.Context(), there.Pool)
		ended <- err
	}
	go readStatus()
	r.Pools.MarkHung(there.Pool)
	go readStatus()
	agenttest.Await(t, func() bool { return len(ended) == callers })
	for range callers {
		assert.ErrorIs(t, <-ended, dataset.ErrOffline)
	}
	<-reading
	close(gate)
	agenttest.Await(t, func() bool { return r.PoolStatus("other").Online })
}

func TestMain(m *testing.M) { agenttest.Main(m) }

// A pool that is being removed is not served.
func TestLeavingPoolIsNotServed(t *testing.T) {
	p := pool.Pool{Record: pool.Record{Leaving: pool.LeavingRemoved}}
	if err := p.CheckServed(); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "is being removed") {
		t.Error(err)
	}
}
