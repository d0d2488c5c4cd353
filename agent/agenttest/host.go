package agenttest

import (
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

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// Host is a host with one agent on real mounts. Its methods fail the test if something goes wrong.
type Host struct {
	engineCalls
	T        *testing.T
	Cluster  *Cluster
	Config   agent.Config // of the next start
	Database store.Store  // the agent's own
	Fuse     *Fuse        // cuts off what the agent does in pools, in its database and at control

	// FakeClock is the agent's clock if the host is alone. If nil, the agent uses the clock of the system.
	FakeClock *fakes.Clock
	// Link is the connection to control of a host that is alone.
	Link *Link
	// ControlReplicas are the control replicas to which the agent has separate connections. If nil, there is only the
	// one in Config.
	ControlReplicas []api.Service

	Mu  sync.Mutex // protects Agent and Off from requests of other hosts
	Off bool       // the host does not answer other hosts
}

// New starts the agent of a host that is alone: it has the shipped profiles, a pool of backend dir, a clock that the
// test moves, and a link to control that can be cut. The changes apply to the configuration.
func New(t *testing.T, change ...func(*agent.Config)) *Host {
	t.Helper()
	return NewWithProfiles(t, drover.Profiles, change...)
}

// NewWithProfiles is New with other profiles.
func NewWithProfiles(t *testing.T, profiles []byte, change ...func(*agent.Config)) *Host {
	t.Helper()
	c := &Cluster{T: t, Profiles: profiles}
	c.StartControl()
	h := c.newHost()
	h.FakeClock, h.Link = fakes.NewClock(time.Now()), NewLink(c.Client)
	log := logrus.New()
	log.SetOutput(io.Discard)
	h.Config = agent.Config{
		Root: h.Config.Root, NodeName: "host-a", Control: h.Link,
		Pools:    []pool.Config{{Name: "default", Backend: "dir", Path: filepath.Join(h.Config.Root, "pool")}},
		Backends: backends.NewRegistry(dir.Backend{}), State: h.Database, Clock: h.FakeClock, Log: log,
		Freezer: freezerArgs,
	}
	for _, f := range change {
		f(&h.Config)
	}
	t.Cleanup(c.Close)
	h.Start()
	return h
}

// newHost returns a host with a root and a database.
func (c *Cluster) newHost() *Host {
	c.Helper()
	root := c.TempDir()
	own, err := bolt.Open(c.Context(), filepath.Join(root, "agent.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(c, err)
	c.atEnd(func() {
		assert.NoError(c, own.Close())
	})
	h := &Host{T: c.T, Cluster: c, Database: own, Fuse: &Fuse{ActsLeft: -1}, Config: agent.Config{Root: root}}
	c.Hosts = append(c.Hosts, h)
	return h
}

// AddHost makes a host with a pool of the backend. The test starts it.
func (c *Cluster) AddHost(name, backend string) *Host {
	c.Helper()
	h := c.newHost()
	lease := 3 * time.Second // each move of a volume in use waits this long
	if c.Session > 0 {
		lease = 8 * time.Second // longer than any promise
	}
	kinds := []backends.Kind{
		loop.New(&run.System{}), dir.Backend{}, btrfs.New(), zfs.New(&run.System{}, clock.System{}),
		nfs.Backend{Network: acceptAnyFolder},
	}
	for i, k := range kinds {
		kinds[i] = FusedBackend{k, h}
	}
	h.Config = agent.Config{
		Root: h.Config.Root, NodeName: name, Control: FusedControl{c.Client, h}, Version: "1.0.0",
		Pools:    []pool.Config{{Name: "default", Backend: backend, Path: c.makeDisk(h.Config.Root, name, backend)}},
		Backends: backends.NewRegistry(kinds...),
		State:    FusedStore{h.Database, h}, Clock: clock.System{}, Log: verboseLog(name),
		Timing:   agent.Timing{InUseWait: lease, Retry: 20 * time.Millisecond, Heartbeat: 200 * time.Millisecond},
		PeerHTTP: route{&c.Network, h}, Address: name + ":9471", Freezer: freezerArgs,
		PeerID: func(r *http.Request) (uuid.UUID, error) { return uuid.Parse(r.Header.Get("Node")) },
	}
	c.Network.add(name+":9471", h)
	return h
}

// acceptAnyFolder accepts every folder as the folder of a share.
func acceptAnyFolder(string) (string, error) { return "", nil }

// makeDisk makes the disk of a pool and returns the pool's path.
func (c *Cluster) makeDisk(root, name, backend string) string {
	c.Helper()
	switch backend {
	case "nfs":
		if c.Share == "" {
			c.Share = c.TempDir()
		}
		return filepath.Join(c.Share, name)
	case "zfs":
		_, root = c.zfs.Pool(c.T, 1<<30)
	case "loop":
		root = scratch.Mount(c.T, "xfs", 1<<30)
	case "btrfs":
		root = scratch.Mount(c.T, "btrfs", 1<<30)
	}
	return filepath.Join(root, "pool")
}

// verboseLog returns a log that is shown only with -v.
func verboseLog(name string) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() {
		log.SetOutput(os.Stderr)
	}
	log.AddHook(hostHook{name})
	return log
}

type hostHook struct{ name string }

func (n hostHook) Levels() []logrus.Level { return logrus.AllLevels }

func (n hostHook) Fire(e *logrus.Entry) error {
	e.Data["host"] = n.name
	return nil
}

// Start starts an agent as Config says.
func (h *Host) Start() {
	h.T.Helper()
	cfg := h.Config
	cfg.Replicas = h.ControlReplicas
	a, err := agent.New(h.T.Context(), cfg)
	if err == nil {
		h.Mu.Lock()
		h.Agent = a
		h.Mu.Unlock()
		err = a.Start(h.T.Context())
	}
	require.NoError(h.T, err)
}

// StartWith starts an agent with another configuration. Later starts use that configuration too.
func (h *Host) StartWith(cfg agent.Config) {
	h.T.Helper()
	h.Config = cfg
	h.Start()
}

// Stop stops the agent. An agent that crashed may fail to stop.
func (h *Host) Stop() {
	h.T.Helper()
	if err := h.Close(); err != nil && !h.Fuse.Blown() {
		h.T.Error(err)
	}
}

// Restart stops the agent and starts another one on the same disk.
func (h *Host) Restart() {
	h.T.Helper()
	h.Stop()
	h.Fuse.Mend()
	h.Start()
}

// Answering returns the agent that answers other hosts, or nil if the host is off.
func (h *Host) Answering() *agent.Agent {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if h.Off {
		return nil
	}
	return h.Agent
}

// tidy unmounts everything, and makes the mount points removable.
func (h *Host) tidy() {
	points, _ := filepath.Glob(filepath.Join(h.Config.Root, "mnt", "*"))
	for _, p := range points {
		scratch.Thaw(p)
		for unix.Unmount(p, unix.MNT_DETACH) == nil {
		}
		assert.NoError(h.T, mounting.RemoveMountPoint(p))
	}
}

// RestartControl is Cluster.RestartControl.
func (h *Host) RestartControl() {
	h.T.Helper()
	h.Cluster.RestartControl()
}

// NewVolume creates a volume and returns its record.
func (h *Host) NewVolume(spec string, opts ...map[string]string) dataset.Dataset {
	h.T.Helper()
	var options map[string]string
	if len(opts) > 0 {
		options = opts[0]
	}
	require.NoErrorf(h.T, h.Create(h.T.Context(), spec, options), "%s: create of %s", h.NodeName, spec)
	name, _, _ := strings.Cut(spec, "@")
	d, ok := h.Cache.Volume(name)
	if !ok {
		h.T.Fatalf("%s: created volume %s is not in the agent's cache", h.NodeName, name)
	}
	return d
}

// MustMount mounts a volume for an ID and returns the mount point.
func (h *Host) MustMount(name, id string) string {
	h.T.Helper()
	path, err := h.Mount(h.T.Context(), name, id)
	require.NoErrorf(h.T, err, "%s: mount of %s", h.NodeName, name)
	return path
}

// MountDataset mounts a volume by its record.
func (h *Host) MountDataset(d dataset.Dataset, id string) {
	h.T.Helper()
	h.MustMount(d.Volume, id)
}

// MustUnmount ends the use of a volume by an ID.
func (h *Host) MustUnmount(name, id string) {
	h.T.Helper()
	require.NoErrorf(h.T, h.Unmount(h.T.Context(), name, id), "%s: unmount of %s", h.NodeName, name)
}

// WriteFile mounts a volume and writes a file.
func (h *Host) WriteFile(volume, file, text string) {
	h.T.Helper()
	path := h.MustMount(volume, "writer")
	w, err := os.OpenFile(filepath.Join(path, file), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = w.WriteString(text)
	}
	if err == nil {
		err = errors.Join(w.Sync(), w.Close())
	}
	require.NoErrorf(h.T, err, "%s: write of %s in %s", h.NodeName, file, volume)
	h.MustUnmount(volume, "writer")
}

// ReadFile mounts a volume and reads a file.
func (h *Host) ReadFile(volume, file string) string {
	h.T.Helper()
	path := h.MustMount(volume, "reader")
	b, err := os.ReadFile(filepath.Join(path, file))
	assert.NoErrorf(h.T, err, "%s: read of %s in %s", h.NodeName, file, volume)
	h.MustUnmount(volume, "reader")
	return string(b)
}

// WantFile mounts a volume and expects the content of a file.
func (h *Host) WantFile(volume, file, want string) {
	h.T.Helper()
	if got := h.ReadFile(volume, file); got != want {
		h.T.Errorf("%s: file %s of volume %s has %q, want %q", h.NodeName, file, volume, got, want)
	}
}

// Pool returns the pool with the name default.
func (h *Host) Pool() backends.Pool {
	h.T.Helper()
	p, ok := h.Pools.ByName("default")
	if !ok || p.Storage == nil {
		h.T.Fatalf("%s: pool default is not open", h.NodeName)
	}
	return p.Storage
}

// LoseStore restarts the agent with an empty control store and, for a fresh root, without its database and identity.
func (h *Host) LoseStore(freshRoot bool) {
	h.T.Helper()
	h.Stop()
	if freshRoot {
		identity := filepath.Join(h.Config.Root, controlsync.IdentityFile)
		require.NoError(h.T, errors.Join(h.EmptyDatabase(), os.Remove(identity)))
	}
	h.Cluster.StartControl()
	h.Link = NewLink(h.Cluster.Client)
	h.Config.Control = h.Link
	h.Start()
}

// EmptyDatabase removes every key of the agent's database.
func (h *Host) EmptyDatabase() error {
	list, err := h.Config.State.List(h.T.Context(), "", "", 0)
	if err != nil {
		return err
	}
	values := map[string]any{}
	for _, e := range list {
		values[e.Key] = nil
	}
	return h.DB.Put(h.T.Context(), values)
}
