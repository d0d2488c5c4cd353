package move

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// C5: a transfer that is cut at any byte, and of which any byte is flipped, leaves complete snapshots and a part of
// one. The retry ends with the data that was sent, or, after several flips, with an error. No snapshot that appears
// differs from the one that was sent.
func TestC5CutsAndFlips(t *testing.T) {
	quiet(t)
	fewerCases(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	b.client.Clock = hasty{}
	d := a.create(small)
	data := treetest.Bytes(1, 9<<20)
	a.write(d.ID, "data", data)
	first := a.take(d, dataset.SnapshotManual)
	copy(data[3<<20:], treetest.Bytes(2, 2<<20))
	a.write(d.ID, "data", data)
	second := a.take(d, dataset.SnapshotManual)
	sums := map[uuid.UUID][]string{} // of the right streams; the last attempt does not send a difference
	for _, s := range []struct {
		snapshot dataset.Snapshot
		base     uuid.UUID
	}{{first, uuid.Nil}, {second, first.ID}, {second, uuid.Nil}} {
		m, err := Sum(t.Context(), a.pool, s.snapshot, s.base, io.Discard)
		must(t, err)
		sums[s.snapshot.ID] = append(sums[s.snapshot.ID], m.SHA256)
	}
	rapid.Check(t, func(rt *rapid.T) {
		type mishap struct {
			flip bool
			at   int64
		}
		mishaps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mishap {
			return mishap{rapid.Bool().Draw(t, "flip"), rapid.Int64Range(0, 12<<20).Draw(t, "at")}
		}), 0, 5).Draw(rt, "mishaps")
		n := 0
		b.wire.set(func(body io.ReadCloser) io.ReadCloser {
			if n == len(mishaps) {
				return body
			}
			h := mishaps[n]
			n++
			if h.flip {
				return &flipper{body, h.at}
			}
			return &cutter{body, h.at}
		})
		flips := 0
		for _, h := range mishaps {
			if h.flip {
				flips++
			}
		}
		check := func(all bool) {
			for id, want := range sums {
				got, err := b.pool.(backends.Copier).Received(t.Context(), d.ID, id)
				if err != nil || all && !got.Complete || got.Complete && !slices.Contains(want, got.Stream.Sum) {
					rt.Fatalf("received %+v, %v, want %v", got, err, want)
				}
			}
		}
		for n < len(mishaps) || n == 0 {
			b.log.Reset()
			_, err := b.pull(a, d, uuid.Nil)
			if err != nil && (flips < maxAttempts || !errors.Is(err, dataset.ErrCorrupt)) {
				rt.Fatalf("after %v: %v", mishaps, err)
			}
			if n := warnings(b.log); n > 1 {
				rt.Fatalf("%d lines are logged", n)
			}
			check(err == nil)
			if err == nil {
				break
			}
		}
		_, err := b.pull(a, d, uuid.Nil)
		must(t, err)
		check(true)
		b.promote(d, second.ID)
		b.holds(d.ID, "data", data)
		must(t, b.pool.Delete(t.Context(), d.ID))
	})
}

// C5: a connection to a peer that sends nothing, or receives nothing, is closed, and the transfer continues.
func TestC5SlowPeers(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	d := a.create(small)
	data := treetest.Bytes(1, 20<<20)
	a.write(d.ID, "data", data)
	s := a.take(d, dataset.SnapshotManual)
	b.client.Clock, b.client.Idle = hasty{}, 200*time.Millisecond
	var slow sync.WaitGroup
	tries := 0
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/stream") {
			slow.Add(1)
			defer slow.Done()
			if tries++; tries <= 2 {
				w = &stalling{ResponseWriter: w, r: r, left: 2 << 20}
			}
		}
		a.server.Handler().ServeHTTP(w, r)
	}))
	defer front.Close()
	_, err := b.client.Pull(t.Context(), Pull{Peer: front.URL, Dataset: d, Into: b.pool})
	must(t, err)
	if tries != 3 {
		t.Errorf("%d tries", tries)
	}
	b.promote(d, s.ID)
	b.holds(d.ID, "data", data)

	slow.Wait()
	a.server.Idle = 200 * time.Millisecond
	a.log.Reset()
	where := address(front.URL, d.ID, nil, "snapshots", s.ID.String(), "stream")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, where, nil)
	must(t, err)
	// The earlier connection may have a window by now that holds all of the data.
	idle := &http.Transport{DialContext: (&net.Dialer{ControlContext: smallWindow}).DialContext}
	defer idle.CloseIdleConnections()
	resp, err := idle.RoundTrip(withNode(req, b.id))
	must(t, err)
	defer resp.Body.Close()
	if !a.server.Busy(d.ID) {
		t.Error("nothing is being sent")
	}
	slow.Wait() // it receives nothing of 20 MiB, which is more than the sockets hold
	if a.server.InUse(d.ID, s.ID) || a.server.Busy(d.ID) {
		t.Error("it is in use still")
	}
	if got := len(a.log.AllEntries()); got != 1 {
		t.Errorf("%d lines are logged", got)
	}
}

// smallWindow makes a socket buffer little unread data. It is set before the connection, so the kernel does not
// adjust it (tcp(7)).
func smallWindow(_ context.Context, _, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10) })
	return errors.Join(err, set)
}

func withNode(r *http.Request, id uuid.UUID) *http.Request {
	r.Header.Set("X-Test-Node", id.String())
	return r
}

// The source produces data up to the point where a stream resumes, and does not send it. Meanwhile it reports that it
// is alive, so the receiver does not give up.
func TestLongSilenceIsNoCut(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	d := a.create(small)
	s := a.take(d, dataset.SnapshotManual)
	a.server.Idle, b.client.Idle = 400*time.Millisecond, 400*time.Millisecond
	heard := make(chan struct{})
	a.pool = &pausing{Copier: a.pool.(backends.Copier), Pool: a.pool, until: heard}
	frames := 0
	b.wire.set(func(body io.ReadCloser) io.ReadCloser {
		return &counter{body, func() {
			if frames++; frames == 8 { // twice as long as the receiver would have waited
				close(heard)
			}
		}}
	})
	_, err := b.pull(a, d, uuid.Nil)
	must(t, err)
	if got := b.snapshots(d.ID); !got[s.ID] || len(b.wire.asked) != 2 {
		t.Errorf("it has %v, after %q", got, b.wire.asked)
	}
}

// A node whose certificate is revoked is cut off in the middle of a transfer, gets the reason, and does not retry.
func TestRevokedInTheMiddle(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	d := a.create(small)
	a.take(d, dataset.SnapshotManual)
	a.server.Idle = 400 * time.Millisecond
	a.pool = &pausing{Copier: a.pool.(backends.Copier), Pool: a.pool}
	var revoked atomic.Bool
	peer := a.server.Peer
	a.server.Peer = func(r *http.Request) (uuid.UUID, error) {
		if revoked.Load() {
			return uuid.Nil, dataset.Errorf(dataset.ErrForbidden, "node b was removed")
		}
		return peer(r)
	}
	b.wire.set(func(body io.ReadCloser) io.ReadCloser {
		return &counter{body, func() { revoked.Store(true) }}
	})
	_, err := b.pull(a, d, uuid.Nil)
	if !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "node b was removed") || len(b.wire.asked) != 2 {
		t.Errorf("%v, after %q", err, b.wire.asked)
	}
}

// A node that may not have the dataset any more, because its copy was removed, is cut off in the middle of a transfer,
// gets the reason, and does not retry.
func TestRightEndsInTheMiddle(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	d := a.create(small)
	a.take(d, dataset.SnapshotManual)
	a.server.Idle = 400 * time.Millisecond
	a.pool = &pausing{Copier: a.pool.(backends.Copier), Pool: a.pool}
	var removed atomic.Bool
	a.asked = func() error {
		if removed.Load() {
			return dataset.Errorf(dataset.ErrForbidden, "node b may not have it")
		}
		return nil
	}
	b.wire.set(func(body io.ReadCloser) io.ReadCloser {
		return &counter{body, func() { removed.Store(true) }}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := b.client.Pull(ctx, Pull{Peer: a.http.URL, Dataset: d, Into: b.pool})
	if !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), "node b may not have it") || len(b.wire.asked) != 2 {
		t.Errorf("%v, after %q", err, b.wire.asked)
	}
}

// While the rights of a node cannot be checked, because control is unreachable, its transfers continue.
func TestTransferContinuesWithoutControl(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	d := a.create(small)
	s := a.take(d, dataset.SnapshotManual)
	a.server.Idle = 400 * time.Millisecond
	pool := &pausing{Copier: a.pool.(backends.Copier), Pool: a.pool, until: make(chan struct{})}
	a.pool = pool
	var asked atomic.Int32
	a.asked = func() error {
		switch asked.Add(1) {
		case 1, 2: // the listing and the stream
			return nil
		case 5:
			close(pool.until)
		}
		return dataset.Errorf(dataset.ErrUnavailable, "control is unreachable")
	}
	_, err := b.pull(a, d, uuid.Nil)
	must(t, err)
	if got := b.snapshots(d.ID); !got[s.ID] || len(b.wire.asked) != 2 || asked.Load() < 5 {
		t.Errorf("it has %v, after %q and %d checks", got, b.wire.asked, asked.Load())
	}
}

// pausing is a pool that sends nothing until an event.
type pausing struct {
	backends.Copier
	backends.Pool
	until chan struct{}
}

func (p *pausing) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer, progress backends.Progress) (backends.Stream, error) {
	select {
	case <-p.until:
	case <-ctx.Done():
		return backends.Stream{}, ctx.Err()
	}
	return p.Copier.Send(ctx, src, base, from, w, progress)
}

// counter reports each time that data arrived.
type counter struct {
	io.ReadCloser
	came func()
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if n > 0 {
		c.came()
	}
	return n, err
}

// stalling accepts no more data after a number of bytes, as long as somebody waits for it.
type stalling struct {
	http.ResponseWriter
	r    *http.Request
	left int
}

func (s *stalling) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *stalling) Write(b []byte) (int, error) {
	if s.left -= len(b); s.left < 0 {
		<-s.r.Context().Done()
		return 0, s.r.Context().Err()
	}
	return s.ResponseWriter.Write(b)
}

// C5: a full target has no corrupt snapshot, and continues once there is space.
func TestC5FullTarget(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			quiet(t)
			a, b := newNode(t, "xfs", disk), newNode(t, fstype, 600<<20)
			d := a.create(small)
			one := treetest.Bytes(1, 2<<20)
			a.write(d.ID, "one", one)
			first := a.take(d, dataset.SnapshotManual)
			_, err := b.pull(a, d, uuid.Nil)
			must(t, err)
			two := treetest.Bytes(2, 40<<20)
			a.write(d.ID, "two", two)
			second := a.take(d, dataset.SnapshotManual)

			st := b.pool.Status(t.Context())
			ballast, err := os.Create(b.disk + "/ballast")
			must(t, err)
			defer ballast.Close()
			room := backends.Reserve(st.Size) + 20*dataset.MiB
			// Btrfs only estimates the free space.
			for taken := dataset.Size(0); st.Free > room; st = b.pool.Status(t.Context()) {
				must(t, unix.Fallocate(int(ballast.Fd()), 0, int64(taken), int64(st.Free-room)))
				must(t, ballast.Sync())
				taken += st.Free - room
			}
			_, err = b.pull(a, d, uuid.Nil)
			if !errors.Is(err, dataset.ErrNoSpace) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("a target with %s of %s free, then %s: %v", st.Free, st.Size, b.pool.Status(t.Context()).Free, err)
			}
			if got := b.snapshots(d.ID); len(got) != 1 || !got[first.ID] {
				t.Errorf("it has %v", got)
			}
			if st := b.pool.Status(t.Context()); st.Free < backends.Reserve(st.Size)-16*dataset.MiB {
				t.Errorf("%s are left of %s", st.Free, st.Size)
			}
			must(t, errors.Join(ballast.Close(), os.Remove(ballast.Name())))
			scratch.Run(t, "sync", "-f", b.disk) // then btrfs reports it
			b.awaitRoom(room)
			have, err := b.pool.(backends.Copier).Received(t.Context(), d.ID, second.ID)
			if err != nil || have.Bytes < 4<<20 {
				t.Errorf("kept are %+v, %v", have, err)
			}
			brought, err := b.pull(a, d, uuid.Nil)
			if err != nil || brought.ReceivedBytes > 42<<20-have.Bytes {
				t.Errorf("then %d bytes came, of which %d were here: %v", brought.ReceivedBytes, have.Bytes, err)
			}
			b.promote(d, second.ID)
			b.holds(d.ID, "one", one)
			b.holds(d.ID, "two", two)
		})
	}
}

// On a link that is slower than the processor, compressible data is compressed, and everything that is sent shares
// one limit.
func TestPackedWhereTheLinkIsSlow(t *testing.T) {
	quiet(t)
	a, b := newNode(t, "xfs", disk), newNode(t, "xfs", disk)
	d := a.create(small)
	text := []byte(strings.Repeat("some text of which there is much more, ", 12<<20/39))
	a.write(d.ID, "text", text)
	s := a.take(d, dataset.SnapshotManual)
	a.server.Limit = NewLimiter(clock.System{}, 8*dataset.MiB)
	brought, err := b.pull(a, d, uuid.Nil)
	must(t, err)
	if got := brought.Snapshots[0].Bytes; got < 12<<20 || brought.ReceivedBytes > got/2 {
		t.Errorf("%d bytes over the wire for a stream of %d", brought.ReceivedBytes, got)
	}
	b.promote(d, s.ID)
	b.holds(d.ID, "text", text)
}
