package move

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// node is one host with a pool, and the server with which it answers others.
type node struct {
	testing.TB
	id     uuid.UUID
	disk   string
	pool   backends.Pool
	server *Server
	http   *httptest.Server
	client *Client
	wire   *wire
	log    *logtest.Hook
	denied error
	asked  func() error // is called by Authorize, if it is not nil
	bases  []uuid.UUID  // that are transferred too
}

// quiet checks that no goroutine is left when all nodes of a test have ended.
func quiet(tb testing.TB) {
	before := goleak.IgnoreCurrent()
	tb.Cleanup(func() { goleak.VerifyNone(tb, before) })
}

// fewerCases makes rapid try 30 cases of each property of a test in the short form, and not 100. Each case there writes
// many MiB. A number of cases in the arguments of the test program has precedence.
func fewerCases(t *testing.T) {
	const name = "rapid.checks"
	f := flag.Lookup(name)
	if long.Enabled() || f.Value.String() != f.DefValue {
		return
	}
	must(t, flag.Set(name, "30"))
	t.Cleanup(func() { must(t, flag.Set(name, f.DefValue)) })
}

func must(tb testing.TB, err error) {
	tb.Helper()
	require.NoError(tb, err)
}

// subvolumes makes newNode create a pool of backend btrfs. "btrfs" creates one of backend loop on a btrfs.
const subvolumes = "subvolumes"

func newNode(tb testing.TB, fstype string, size int64) *node {
	tb.Helper()
	n := &node{TB: tb, id: uuid.New()}
	var kind backends.Kind = loop.New(&run.System{})
	switch fstype {
	case "ext4":
		kind = dir.Backend{}
	case subvolumes:
		kind, fstype = btrfs.New(), "btrfs"
	}
	n.disk = scratch.Mount(tb, fstype, size)
	if kind.Name() == btrfs.Name {
		scratch.Quota(tb, n.disk, "full")
	}
	pool, err := kind.Open(tb.Context(), backends.Config{Name: "test", Path: filepath.Join(n.disk, "pool"), Make: true})
	must(tb, err)
	n.pool = pool
	tb.Cleanup(func() { must(tb, pool.Close()) })
	log, hook := logtest.NewNullLogger()
	n.log = hook
	n.server = &Server{
		Source: n, Clock: clock.System{}, Log: log,
		Peer: func(r *http.Request) (uuid.UUID, error) { return uuid.Parse(r.Header.Get("X-Test-Node")) },
	}
	n.http = httptest.NewUnstartedServer(n.server.Handler())
	n.http.EnableHTTP2 = true
	n.http.StartTLS()
	transport := n.http.Client().Transport.(*http.Transport) // all nodes have the same certificate
	n.wire = &wire{next: transport, node: n.id}
	n.client = &Client{HTTP: n.wire, Clock: clock.System{}, Log: log}
	tb.Cleanup(func() {
		n.http.Close()
		transport.CloseIdleConnections()
	})
	return n
}

// Authorize implements Source.
func (n *node) Authorize(_ context.Context, peer, _ uuid.UUID) error {
	if peer == n.id {
		return dataset.Errorf(dataset.ErrForbidden, "a node does not ask itself")
	}
	if n.asked != nil {
		return n.asked()
	}
	return n.denied
}

// Pool implements Source.
func (n *node) Pool(context.Context, uuid.UUID) (backends.Pool, error) { return n.pool, nil }

// TakeSnapshot implements Source.
func (n *node) TakeSnapshot(ctx context.Context, ds uuid.UUID, _ []uuid.UUID) (dataset.Snapshot, bool, error) {
	e, err := n.pool.Stat(ctx, ds)
	if err != nil {
		return dataset.Snapshot{}, false, err
	}
	s := newSnapshot(*e.Record, dataset.SnapshotTransfer)
	return s, true, n.pool.Snapshot(ctx, s, nil)
}

// CopyBases implements Source.
func (n *node) CopyBases(context.Context, uuid.UUID) []uuid.UUID { return n.bases }

// SharedSnapshots implements Source.
func (n *node) SharedSnapshots(context.Context, uuid.UUID, uuid.UUID) []uuid.UUID { return n.bases }

// OpenTree implements Source.
func (n *node) OpenTree(ctx context.Context, ds, _ uuid.UUID) (*os.File, func() error, error) {
	root, err := openRoot(ctx, n.pool, ds)
	return root, func() error { return nil }, err
}

// GuardSpace implements Source.
func (n *node) GuardSpace(ctx context.Context, _ backends.Pool, _ uuid.UUID, work func(context.Context) error) error {
	return work(ctx)
}

func openRoot(ctx context.Context, pool backends.Pool, ds uuid.UUID) (*os.File, error) {
	att, err := pool.Attach(ctx, ds, backends.AttachOptions{})
	if err != nil {
		return nil, err
	}
	var root *os.File
	if att.Mount.FSType == "bind" {
		root, err = os.Open(att.Mount.Source)
	} else {
		root, err = mount.Detached(mount.Spec{Source: att.Mount.Source, FSType: att.Mount.FSType, Options: att.Mount.Options})
	}
	return root, errors.Join(err, att.Release())
}

var taken = time.Date(2026, 11, 20, 7, 0, 0, 0, time.UTC)

var order struct {
	sync.Mutex
	n int
}

func newSnapshot(d dataset.Dataset, kind dataset.SnapshotKind) dataset.Snapshot {
	order.Lock()
	defer order.Unlock()
	order.n++
	return dataset.Snapshot{
		ID: uuid.New(), Dataset: d.ID, Kind: kind, Size: d.Size, Epoch: d.Epoch,
		Created: taken.Add(time.Duration(order.n) * time.Second),
	}
}

func (n *node) create(size dataset.Size) dataset.Dataset {
	n.Helper()
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Size: size, Epoch: 1, Pool: n.pool.ID(), Created: taken}
	got, err := n.pool.Create(n.Context(), d)
	must(n, err)
	d.Size = got
	must(n, n.pool.Commit(n.Context(), d.ID))
	return d
}

func (n *node) take(d dataset.Dataset, kind dataset.SnapshotKind) dataset.Snapshot {
	n.Helper()
	s := newSnapshot(d, kind)
	must(n, n.pool.Snapshot(n.Context(), s, nil))
	return s
}

// open opens the root of a dataset during f.
func (n *node) open(ds uuid.UUID, f func(root *os.File)) {
	n.Helper()
	root, err := openRoot(n.Context(), n.pool, ds)
	must(n, err)
	defer root.Close()
	f(root)
	must(n, root.Sync())
}

// pathBelow returns a path at which other processes find a name below an open directory.
func pathBelow(root *os.File, name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(root.Fd())), name)
}

// mounted mounts a dataset on a new path during f.
func (n *node) mounted(ds uuid.UUID, f func(at string)) {
	n.Helper()
	att, err := n.pool.Attach(n.Context(), ds, backends.AttachOptions{})
	must(n, err)
	at := att.Mount.Source
	if att.Mount.FSType != "bind" {
		at = n.TempDir()
		err = mount.Mount(at, mount.Spec{Source: att.Mount.Source, FSType: att.Mount.FSType, Options: att.Mount.Options})
		defer func() { must(n, mount.Unmount(at)) }()
	}
	must(n, errors.Join(err, att.Release()))
	f(at)
}

func (n *node) write(ds uuid.UUID, name string, data []byte) {
	n.Helper()
	n.open(ds, func(root *os.File) {
		f, err := os.Create(pathBelow(root, name))
		must(n, err)
		_, err = f.Write(data)
		must(n, errors.Join(err, f.Sync(), f.Close()))
	})
}

func (n *node) holds(ds uuid.UUID, name string, want []byte) {
	n.Helper()
	n.open(ds, func(root *os.File) {
		got, err := os.ReadFile(pathBelow(root, name))
		if err != nil || !bytes.Equal(got, want) {
			n.Errorf("%s has %d bytes (%v), want %d", name, len(got), err, len(want))
		}
	})
}

// snapshots returns the snapshots of a dataset that a node has.
func (n *node) snapshots(ds uuid.UUID) map[uuid.UUID]bool {
	n.Helper()
	e, err := n.pool.Stat(n.Context(), ds)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		n.Fatal(err)
	}
	if e.Problem != "" {
		n.Errorf("problem: %s", e.Problem)
	}
	out := map[uuid.UUID]bool{}
	for _, s := range e.Snapshots {
		out[s.ID] = true
	}
	return out
}

// wire is the connection to other nodes, on which failures happen.
type wire struct {
	next http.RoundTripper
	node uuid.UUID

	mu     sync.Mutex
	mishap func(body io.ReadCloser) io.ReadCloser // for answers that are streams
	asked  []string
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	mishap := w.mishap
	w.asked = append(w.asked, r.URL.RequestURI())
	w.mu.Unlock()
	r = r.Clone(r.Context())
	r.Header.Set("X-Test-Node", w.node.String())
	resp, err := w.next.RoundTrip(r)
	streams := err == nil && (filepath.Base(r.URL.Path) == "stream" || filepath.Base(r.URL.Path) == "files")
	if mishap != nil && streams && resp.StatusCode == http.StatusOK {
		resp.Body = mishap(resp.Body)
	}
	return resp, err
}

func (w *wire) set(mishap func(io.ReadCloser) io.ReadCloser) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mishap = mishap
}

// cutter ends a body, with an error, after a number of bytes.
type cutter struct {
	io.ReadCloser
	left int64
}

var errReset = errors.New("connection reset by peer")

func (c *cutter) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errReset
	}
	n, err := c.ReadCloser.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

// flipper flips a bit of the byte at a position.
type flipper struct {
	io.ReadCloser
	at int64
}

func (f *flipper) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if f.at >= 0 && f.at < int64(n) {
		b[f.at] ^= 0x10
	}
	f.at -= int64(n)
	return n, err
}

// hasty is a clock whose waits end at once: attempts follow each other immediately.
type hasty struct{ clock.System }

func (hasty) After(time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	ch <- time.Time{}
	return ch
}

func warnings(hook *logtest.Hook) (n int) {
	for _, e := range hook.AllEntries() {
		if e.Level <= logrus.WarnLevel {
			n++
		}
	}
	return n
}

// plain is a writer that buffers nothing.
type plain struct{ io.Writer }

func (plain) Flush() error { return nil }

// awaitRoom waits until that much space is free: XFS frees removed data some time later.
func (n *node) awaitRoom(room dataset.Size) {
	n.Helper()
	for until := time.Now().Add(time.Minute); n.pool.Status(n.Context()).Free < room; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			n.Fatalf("%s are not free after a minute", room)
		}
	}
}
