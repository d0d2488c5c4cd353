package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
)

const (
	disk  = 2 << 30
	small = 64 * dataset.MiB
)

func (n *node) pull(from *node, d dataset.Dataset, want uuid.UUID) (PullResult, error) {
	return n.client.Pull(n.Context(), Pull{Peer: from.http.URL, Dataset: d, Into: n.pool, Want: want})
}

func (n *node) promote(d dataset.Dataset, s uuid.UUID) {
	n.Helper()
	must(n, n.pool.(backends.Copier).Promote(n.Context(), d.ID, s))
	must(n, n.pool.Commit(n.Context(), d.ID))
}

// A whole move on each kind of pool and between them: pre-copies, the last step that is checked with the manifest,
// and back.
func TestMoveThereAndBack(t *testing.T) {
	for _, kinds := range [][2]string{{"xfs", "xfs"}, {"xfs", "btrfs"}, {"btrfs", "xfs"}, {"btrfs", "btrfs"}, {subvolumes, subvolumes}} {
		t.Run(kinds[0]+" to "+kinds[1], func(t *testing.T) {
			quiet(t)
			a, b := newNode(t, kinds[0], disk), newNode(t, kinds[1], disk)
			d := a.create(small)
			one, two := treetest.Bytes(1, 5<<20), treetest.Bytes(2, 1<<20)
			a.write(d.ID, "one", one)
			user := a.take(d, dataset.SnapshotManual)
			other := a.take(d, dataset.SnapshotTransfer) // for another node
			a.write(d.ID, "two", two)
			ahead, err := b.client.RequestSnapshot(t.Context(), a.http.URL, d.ID, nil)
			must(t, err)
			plan, err := b.client.Plan(t.Context(), a.http.URL, d.ID, nil, ahead.ID, nil)
			if err != nil || len(plan.Steps) != 2 || plan.Bytes() < 6<<20 || plan.Steps[1].Bytes > 3<<20 || plan.Steps[1].Base != user.ID {
				t.Fatalf("planned %+v, %v", plan, err)
			}
			var done, total int64
			brought, err := b.client.Pull(t.Context(), Pull{Peer: a.http.URL, Dataset: d, Into: b.pool, Want: ahead.ID, Progress: func(d, t int64) { done, total = d, t }})
			must(t, err)
			if len(brought.Snapshots) != 2 || len(brought.Gone) != 0 || done > total || done < plan.Bytes()/2 || brought.ReceivedBytes < plan.Bytes() {
				t.Errorf("brought %+v, progress %d of %d", brought, done, total)
			}
			if again, err := b.pull(a, d, ahead.ID); err != nil || len(again.Snapshots) != 0 {
				t.Errorf("again: %+v, %v", again, err)
			}

			a.write(d.ID, "last", []byte("last"))
			final := a.take(d, dataset.SnapshotTransfer)
			m, err := Sum(t.Context(), a.pool, final, ahead.ID, io.Discard)
			must(t, err)
			must(t, a.pool.DeleteSnapshot(t.Context(), d.ID, other.ID))
			for _, wrong := range []dataset.Manifest{{Snapshot: final.ID, Base: ahead.ID, Bytes: m.Bytes, SHA256: strings.Repeat("0", 64)}, {Snapshot: final.ID, Base: user.ID, Bytes: m.Bytes, SHA256: m.SHA256}} {
				c := newNode(t, kinds[1], disk)
				_, err := c.pull(a, d, ahead.ID)
				must(t, err)
				_, err = c.client.Pull(t.Context(), Pull{Peer: a.http.URL, Dataset: d, Into: c.pool, Want: final.ID, Manifest: &wrong})
				assert.ErrorIsf(t, err, dataset.ErrCorrupt, "with another manifest")
			}
			pull := Pull{Peer: a.http.URL, Dataset: d, Into: b.pool, Want: final.ID, Manifest: &m}
			brought, err = b.client.Pull(t.Context(), pull)
			if err != nil || !slices.Equal(brought.Snapshots, []dataset.Manifest{m}) {
				t.Fatalf("brought %+v, %v, want %+v", brought, err, m)
			}
			_, err = b.client.Pull(t.Context(), pull)
			must(t, err)
			b.promote(d, final.ID)
			b.holds(d.ID, "one", one)
			b.holds(d.ID, "two", two)
			b.holds(d.ID, "last", []byte("last"))

			must(t, a.pool.(backends.Copier).Demote(t.Context(), d.ID, final.ID))
			b.write(d.ID, "two", one)
			back := b.take(d, dataset.SnapshotTransfer)
			must(t, b.pool.DeleteSnapshot(t.Context(), d.ID, user.ID))
			brought, err = a.pull(b, d, back.ID)
			if err != nil || len(brought.Snapshots) != 1 || brought.Snapshots[0].Base != final.ID || !slices.Equal(brought.Gone, []uuid.UUID{user.ID}) {
				t.Errorf("back: %+v, %v", brought, err)
			}
			a.promote(d, back.ID)
			a.holds(d.ID, "two", one)
		})
	}
}

// If the base of a copy is not the expected one, the copy gets all of the next snapshot at the second attempt, and
// only the difference of the one after that.
func TestBaseThatDoesNotFit(t *testing.T) {
	quiet(t)
	a, b := newNode(t, subvolumes, disk), newNode(t, subvolumes, disk)
	b.client.Clock = hasty{}
	d := a.create(0)
	a.write(d.ID, "one", []byte("one"))
	first := a.take(d, dataset.SnapshotManual)
	_, err := b.pull(a, d, uuid.Nil)
	must(t, err)
	e, err := b.pool.Stat(t.Context(), d.ID)
	must(t, err)
	base := filepath.Join(e.Path, "snapshot-"+first.ID.String())
	for _, arg := range [][]string{{"btrfs", "property", "set", "-f", base, "ro", "false"}, {"rm", base + "/one"}, {"btrfs", "property", "set", base, "ro", "true"}} {
		scratch.Run(t, arg[0], arg[1:]...)
	}
	a.write(d.ID, "one", []byte("two"))
	second := a.take(d, dataset.SnapshotManual)
	brought, err := b.pull(a, d, uuid.Nil)
	if err != nil || len(brought.Snapshots) != 1 || brought.Snapshots[0].Base != uuid.Nil {
		t.Fatalf("brought %+v, %v", brought, err)
	}
	asked := slices.DeleteFunc(slices.Clone(b.wire.asked), func(uri string) bool { return !strings.Contains(uri, second.ID.String()+"/stream") })
	if len(asked) != 2 || !strings.Contains(asked[0], "base=") || strings.Contains(asked[1], "base=") {
		t.Errorf("asked for %q", asked)
	}
	a.write(d.ID, "two", []byte("two"))
	third := a.take(d, dataset.SnapshotManual)
	brought, err = b.pull(a, d, uuid.Nil)
	if err != nil || len(brought.Snapshots) != 1 || brought.Snapshots[0].Base != second.ID {
		t.Fatalf("brought %+v, %v", brought, err)
	}
	b.promote(d, third.ID)
	b.holds(d.ID, "one", []byte("two"))
}

// If a peer refuses, lacks or breaks something, the error says what.
func TestRefusals(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	files := newNode(t, "ext4", 256<<20)
	b.client.Clock, b.client.Tries = hasty{}, 3
	d := a.create(small)
	s := a.take(d, dataset.SnapshotManual)
	fails := func(what string, err error, kind *dataset.Kind) {
		t.Helper()
		if !errors.Is(err, kind) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := b.pull(a, dataset.Dataset{ID: uuid.New()}, uuid.Nil)
	fails("unknown dataset", err, dataset.ErrNotFound)
	_, err = b.pull(a, d, uuid.New())
	fails("unknown snapshot", err, dataset.ErrNotFound)
	_, err = a.pull(a, d, uuid.Nil)
	fails("itself", err, dataset.ErrForbidden)
	_, err = b.client.Pull(t.Context(), Pull{Peer: a.http.URL, Dataset: d, Into: files.pool})
	fails("into files", err, dataset.ErrUnsupported)
	of := files.create(0)
	_, err = b.pull(files, of, uuid.Nil)
	fails("from files", err, dataset.ErrUnsupported)
	a.denied = dataset.Errorf(dataset.ErrForbidden, "node b may not have it")
	_, err = b.pull(a, d, uuid.Nil)
	fails("denied", err, dataset.ErrForbidden)
	_, err = b.client.RequestSnapshot(t.Context(), a.http.URL, d.ID, nil)
	fails("denied", err, dataset.ErrForbidden)
	a.denied = nil
	for path, want := range map[string]int{
		"datasets/x": 422, "datasets/" + d.ID.String() + "?have=x": 422, "datasets/" + d.ID.String() + "?want=x": 422,
		"datasets/" + d.ID.String() + "?have=" + strings.Repeat(uuid.NewString()+",", maxHave) + uuid.NewString(): 422,
		"datasets/" + d.ID.String() + "/snapshots/" + s.ID.String() + "/stream?from=-1":                           422,
		"datasets/" + d.ID.String() + "/snapshots/" + s.ID.String() + "/stream?base=..":                           422,
		"datasets/" + d.ID.String() + "/snapshots/" + uuid.NewString() + "/stream":                                404,
		"datasets/" + d.ID.String() + "/snapshots/x/files":                                                        422,
		"other": 404,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.http.URL+Prefix+path, nil)
		must(t, err)
		resp, err := b.wire.RoundTrip(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%.80s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
	a.http.Close()
	_, err = b.pull(a, d, uuid.Nil)
	fails("away", err, dataset.ErrOffline)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.client.Pull(ctx, Pull{Peer: a.http.URL, Dataset: d, Into: b.pool}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Each invalid answer of a peer is refused with bounded effort, and logged once.
func TestBadPeers(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	b.client.Clock, b.client.Tries = hasty{}, 4
	d := a.create(small)
	s := a.take(d, dataset.SnapshotManual)
	frames := func(f func(*frameWriter)) []byte {
		var buf bytes.Buffer
		f(&frameWriter{w: plain{&buf}})
		return buf.Bytes()
	}
	// But not a broken connection, or an error that the peer reports.
	cutOff := []string{"nothing", "truncated", "text", "oversized", "no stream", "only an end"}
	for name, body := range map[string][]byte{
		"nothing":     nil,
		"truncated":   frames(func(f *frameWriter) { _ = f.frame(frameData, []byte("123456789")) })[:frameHeader+3],
		"text":        []byte("<html>not here</html>"),
		"oversized":   []byte("D\x00\x00\x00\x40"),
		"no stream":   frames(func(f *frameWriter) { _, _ = f.Write(make([]byte, 100_000)); _ = f.end(nil, nil) }),
		"only an end": frames(func(f *frameWriter) { _ = f.end(nil, nil) }),
		"its failure": frames(func(f *frameWriter) { _ = f.end(nil, dataset.Errorf(dataset.ErrCorrupt, "my disk is broken")) }),
	} {
		t.Run(name, func(t *testing.T) {
			b.log.Reset()
			fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/stream") || strings.HasSuffix(r.URL.Path, "/files") {
					_, _ = w.Write(body)
					return
				}
				fmt.Fprintf(w, `{"steps":[{"snapshot":{"id":%q,"dataset":%q},"bytes":5}]}`, s.ID, d.ID)
			}))
			defer fake.Close()
			_, err := b.client.Pull(t.Context(), Pull{Peer: fake.URL, Dataset: d, Into: b.pool})
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
			if n := warnings(b.log); n != map[bool]int{true: 1}[slices.Contains(cutOff, name)] {
				t.Errorf("%d lines are logged", n)
			}
			if got := b.snapshots(d.ID); len(got) != 0 {
				t.Errorf("it has %v", got)
			}
			b.log.Reset()
			into, err := os.Open(t.TempDir())
			must(t, err)
			defer into.Close()
			_, err = b.client.PullFiles(t.Context(), Files{Peer: fake.URL, Dataset: d.ID, Into: into})
			if n := warnings(b.log); err == nil || n != map[bool]int{true: 1}[slices.Contains(cutOff, name)] {
				t.Errorf("files: %d lines are logged, %v", n, err)
			}
			b.wire.next.(*http.Transport).CloseIdleConnections()
		})
	}
	_, err := b.pull(a, d, uuid.Nil) // the leftovers of these attempts do not matter
	must(t, err)
}

// A request that a peer was serving when its agent stopped is repeated when the peer runs again.
func TestPeerThatStops(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	b.client.Clock = hasty{}
	d := a.create(small)
	a.take(d, dataset.SnapshotManual)
	var asked atomic.Int32
	a.asked = func() error {
		if asked.Add(1) == 1 {
			return fmt.Errorf("look up the dataset: %w", context.Canceled)
		}
		return nil
	}
	if _, err := b.pull(a, d, uuid.Nil); err != nil || asked.Load() < 2 {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
	if said := a.log.AllEntries(); len(said) > 0 {
		t.Errorf("it is logged as a failure: %+v", said[0].Message)
	}
}
