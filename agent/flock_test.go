package agent

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/profiles"
)

// flock is one control service and two agents, each with its own pool, that reach each
// other.
type flock struct {
	*testing.T
	store store.Store
	svc   *control.Service
	link  *client.Client
	a, b  *flockHost
	hosts []*flockHost
	wires wires
	may   string // what control may fail with
	// shared is the folder that stands for a share, once a host has a pool on it.
	shared string
	zfs    scratch.ZFS
	ends   []func()
	// session is the time of an agent's session with control, which then counts as one of
	// several; 0: control works alone, and nobody is bounded in time.
	session time.Duration
}

// flockHost is one agent of a flock.
type flockHost struct {
	engineCalls
	f    *flock
	cfg  Config
	own  store.Store
	fuse *fuse
	mu   sync.Mutex // over Agent and off, for who asks it from another host
	off  bool       // it does not answer
}

const moveProfiles = `
default: plain
profiles:
  plain: {}
  never: {follow: never}
  hurry: {follow: {within: 1ns}}
  safe: {replicas: {count: 1, every: 1s}}
  auto: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: guard, max_loss: 1h}
  cut: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: {exec: [/bin/true, -f]}, max_loss: 1h}
  shut: {backend: nfs, failover: auto, fence: {exec: [/bin/true]}}
  many: {backend: nfs, access: many}
  safer: {replicas: {count: 2, every: 1s}}
  slow: {size: 320MiB, qos: {write_bps: 5MiB}}
  faster: {size: 320MiB, qos: {write_bps: 20MiB}}
  frozen: {size: 512MiB, qos: {write_bps: 5MiB}, quiesce: freeze}
  still: {size: 320MiB, quiesce: freeze}
  strict: {size: 512MiB, qos: {write_bps: 5MiB, strict: true}}
  free: {size: 512MiB}
`

// newFlock starts one on pools of the given backends.
func newFlock(t *testing.T, backendA, backendB string) *flock {
	t.Helper()
	f := &flock{T: t}
	f.serve()
	f.a, f.b = f.host("host-a", backendA), f.host("host-b", backendB)
	t.Cleanup(f.close) // before what they lie on goes
	f.a.up()
	f.b.up()
	return f
}

// serve starts control.
func (f *flock) serve() {
	f.Helper()
	st, err := bolt.Open(f.Context(), filepath.Join(f.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		f.Fatal(err)
	}
	f.store = st
	f.serveAgain()
	f.ends = append(f.ends, func() {
		f.link.Close()
		f.svc.Close()
		if err := st.Close(); err != nil {
			f.Error(err)
		}
	})
}

// serveAgain is a control service that has only what is in the store.
func (f *flock) serveAgain() {
	f.Helper()
	if f.svc != nil {
		f.link.Close()
		f.svc.Close()
	}
	set, err := profiles.Parse("profiles.yaml", []byte(moveProfiles))
	if err != nil {
		f.Fatal(err)
	}
	f.svc = control.New(control.Deps{
		Store: f.store, Profiles: func() control.Profiles { return set }, Clock: clock.System{},
		Failed: func(what string, err error) {
			// With sessions a loaded machine may end one.
			if f.session == 0 && (f.may == "" || !strings.Contains(err.Error(), f.may)) {
				f.Error(what, err)
			}
		},
		Shared: f.session > 0, Limits: membership.Limits{Session: f.session, House: cmp.Or(f.session/5, 300*time.Millisecond)},
	})
	f.link = client.NewLoopback(server.Handler(server.Deps{Service: f.svc}))
	for _, h := range f.hosts {
		h.cfg.Control = fusedControl{f.link, h}
	}
}

func (f *flock) close() {
	for _, h := range f.hosts {
		if h.Agent != nil {
			h.down()
			h.tidy()
		}
	}
	f.wires.close()
	for _, end := range f.ends {
		end()
	}
}

// host makes a host with a pool of its own; it is not up yet.
func (f *flock) host(name, backend string) *flockHost {
	f.Helper()
	root := f.TempDir()
	own, err := bolt.Open(f.Context(), filepath.Join(root, "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		f.Fatal(err)
	}
	f.ends = append(f.ends, func() {
		if err := own.Close(); err != nil {
			f.Error(err)
		}
	})
	target := f.place(root, name, backend)
	lease := 3 * time.Second // which each move of what is in use costs a test
	if f.session > 0 {
		lease = 8 * time.Second // longer than any promise
	}
	log := quiet(name)
	h := &flockHost{f: f, own: own, fuse: &fuse{left: -1}}
	h.cfg = Config{
		Root: root, NodeName: name, Control: fusedControl{f.link, h}, Version: "1.0.0",
		Pools:    []pool.Config{{Name: "default", Backend: backend, Path: target}},
		Backends: backends.NewRegistry(fusedKind{loop.New(&run.System{}), h}, fusedKind{dir.Backend{}, h}, fusedKind{btrfs.New(), h}, fusedKind{zfs.New(&run.System{}, clock.System{}), h}, fusedKind{nfs.Backend{Network: anywhere}, h}),
		State:    fusedStore{own, h}, Clock: clock.System{}, Log: log,
		Limits:   Limits{Lease: lease, Retry: 20 * time.Millisecond, Heartbeat: 200 * time.Millisecond},
		PeerHTTP: wire{&f.wires, h}, Address: name + ":9471",
		PeerID: func(r *http.Request) (uuid.UUID, error) { return uuid.Parse(r.Header.Get("Node")) },
	}
	f.wires.add(name+":9471", h)
	f.hosts = append(f.hosts, h)
	return h
}

// quiet is a log that is seen with -v alone.
func quiet(name string) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() {
		log.SetOutput(os.Stderr)
	}
	log.AddHook(named{name})
	return log
}

type named struct{ name string }

func (n named) Levels() []logrus.Level { return logrus.AllLevels }
func (n named) Fire(e *logrus.Entry) error {
	e.Data["host"] = n.name
	return nil
}

// up starts the agent.
func (h *flockHost) up() {
	h.f.Helper()
	a, err := New(h.f.Context(), h.cfg)
	if err == nil {
		h.mu.Lock()
		h.Agent = a
		h.mu.Unlock()
		err = a.Start(h.f.Context())
	}
	if err != nil {
		h.f.Fatal(err)
	}
}

// down stops it. One that has crashed cannot end as it should.
func (h *flockHost) down() {
	h.f.Helper()
	if err := h.Close(); err != nil && !h.fuse.blown() {
		h.f.Error(err)
	}
}

// again is an agent that finds what the last one left.
func (h *flockHost) again() {
	h.f.Helper()
	h.down()
	h.fuse.mend()
	h.up()
}

func (h *flockHost) agent() *Agent {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off {
		return nil
	}
	return h.Agent
}

func (h *flockHost) tidy() {
	points, _ := filepath.Glob(filepath.Join(h.cfg.Root, "mnt", "*"))
	for _, p := range points {
		scratch.Thaw(p)
		for unix.Unmount(p, unix.MNT_DETACH) == nil {
		}
		if err := mounting.RemoveMountPoint(p); err != nil {
			h.f.Error(err)
		}
	}
}

// volume makes a volume on a host.
func (h *flockHost) volume(spec string, opts map[string]string) dataset.Dataset {
	h.f.Helper()
	if err := h.Create(h.f.Context(), spec, opts); err != nil {
		h.f.Fatal(err)
	}
	name, _, _ := strings.Cut(spec, "@")
	d, ok := h.Cache.Volume(name)
	if !ok {
		h.f.Fatal("the volume is not known")
	}
	return d
}

func (h *flockHost) mounts(name, id string) string {
	h.f.Helper()
	path, err := h.Mount(h.f.Context(), name, id)
	if err != nil {
		h.f.Fatalf("%s: mount of %s: %v", h.NodeName, name, err)
	}
	return path
}

func (h *flockHost) unmounts(name, id string) {
	h.f.Helper()
	if err := h.Unmount(h.f.Context(), name, id); err != nil {
		h.f.Fatalf("%s: unmount of %s: %v", h.NodeName, name, err)
	}
}

// writes puts a file into a volume.
func (h *flockHost) writes(volume, file, text string) {
	h.f.Helper()
	path := h.mounts(volume, "writer")
	w, err := os.OpenFile(filepath.Join(path, file), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = w.WriteString(text)
	}
	if err == nil {
		err = errors.Join(w.Sync(), w.Close())
	}
	if err != nil {
		h.f.Fatal(err)
	}
	h.unmounts(volume, "writer")
}

// reads returns what a file of a volume holds.
func (h *flockHost) reads(volume, file string) string {
	h.f.Helper()
	path := h.mounts(volume, "reader")
	b, err := os.ReadFile(filepath.Join(path, file))
	if err != nil {
		h.f.Errorf("%s: %v", h.NodeName, err)
	}
	h.unmounts(volume, "reader")
	return string(b)
}

// begins asks for a move.
func (f *flock) begins(volume string, to *flockHost) dataset.Operation {
	f.Helper()
	out, err := f.svc.Submit(f.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: volume, Node: to.NodeName})
	if err != nil {
		f.Fatal(err)
	}
	if out.Operation == nil {
		f.Fatalf("volume %s is on node %s already", volume, to.NodeName)
	}
	return *out.Operation
}

func (f *flock) operation(id uuid.UUID) dataset.Operation {
	f.Helper()
	op, err := f.svc.Operation(f.Context(), id.String(), 0)
	if err != nil {
		f.Fatal(err)
	}
	return op
}

// ends waits for the end of an operation.
func (f *flock) ended(op dataset.Operation) dataset.Operation {
	f.Helper()
	until := time.Now().Add(time.Minute)
	for !op.State.Final() {
		var err error
		if op, err = f.svc.Operation(f.Context(), op.ID.String(), 5*time.Second); err != nil {
			f.Fatal(err)
		}
		if time.Now().After(until) {
			f.Fatalf("operation %s does not end: %+v", op.ID, op)
		}
	}
	return op
}

// moves moves a volume, which must succeed.
func (f *flock) moves(volume string, to *flockHost) {
	f.Helper()
	if op := f.ended(f.begins(volume, to)); op.State != dataset.OpDone {
		f.Fatalf("move of %s to %s: %+v", volume, to.NodeName, op.Problem)
	}
}

func (f *flock) record(volume string) api.Volume {
	f.Helper()
	v, err := f.svc.Volume(f.Context(), volume)
	if err != nil {
		f.Fatal(err)
	}
	return v
}

// other is the host that a is not.
func (f *flock) other(h *flockHost) *flockHost {
	if h == f.a {
		return f.b
	}
	return f.a
}

func (h *flockHost) thePool() backends.Pool {
	h.f.Helper()
	p, ok := h.pools.ByName("default")
	if !ok || p.Storage == nil {
		h.f.Fatal("no pool")
	}
	return p.Storage
}
