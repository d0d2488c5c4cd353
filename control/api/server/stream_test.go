package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// An archive that is larger than all buffers is sent while it is written, and read while it is received.
func TestArchivesStream(t *testing.T) {
	f := newFake()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	f.stream = func(_ context.Context, w io.Writer) error { _, err := w.Write(want); return err }
	var uploaded []byte
	f.upload = func(_ context.Context, r io.Reader) (err error) { uploaded, err = io.ReadAll(r); return err }
	transports(t, Deps{Service: f, Local: f, Backup: f}, func(t *testing.T, c *client.Client) {
		var got bytes.Buffer
		if _, err := c.Export(soon(t), "db", "", &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("export: %v, %d bytes", err, got.Len())
		}
		got.Reset()
		if err := c.Backup(soon(t), &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("backup: %v, %d bytes", err, got.Len())
		}
		if _, err := c.Import(soon(t), api.Request{Volume: "db"}, bytes.NewReader(want)); err != nil || !bytes.Equal(uploaded, want) {
			t.Errorf("import: %v, %d bytes", err, len(uploaded))
		}
	})
}

// What an archive lacks is sent after it, also names with arbitrary bytes.
func TestArchiveLacksSockets(t *testing.T) {
	f := newFake()
	for _, path := range []string{"mysql.sock", "a b/ä%20\n\xff", strings.Repeat("x", 5000), "fourth"} {
		f.leftOut.Add(path)
	}
	f.stream = func(_ context.Context, w io.Writer) error { _, err := w.Write([]byte("tar")); return err }
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		got, err := c.Export(soon(t), "db", "", io.Discard)
		if err != nil || got.Count != 4 || len(got.First) != 3 || len(got.First[2]) > 210 || !cmp.Equal(got, f.leftOut) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// The handler writes no faster than the caller reads, so the whole archive is never in memory.
func TestArchiveIsNotBuffered(t *testing.T) {
	f := newFake()
	f.stream = func(ctx context.Context, w io.Writer) error { _, err := io.Copy(w, &endless{}); return err }
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		enough := errors.New("enough")
		n := 0
		_, err := c.Export(soon(t), "db", "", writerFunc(func(b []byte) (int, error) {
			if n += len(b); n > 8<<20 {
				return 0, enough
			}
			return len(b), nil
		}))
		assert.ErrorIs(t, err, enough)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// An error after the first bytes arrives with its kind and text if the client asked for trailers. Otherwise the
// connection breaks.
func TestArchiveBreaksOff(t *testing.T) {
	f := newFake()
	failure := dataset.Errorf(dataset.ErrCorrupt, "file %q: ä checksum differs 100%%", "a b")
	f.stream = func(_ context.Context, w io.Writer) error { _, _ = w.Write(make([]byte, 100_000)); return failure }
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		var got bytes.Buffer
		_, err := c.Export(soon(t), "db", "", &got)
		if dataset.KindOf(err) != dataset.ErrCorrupt || err.Error() != failure.Error() {
			t.Error(err)
		}
	})
	resp, err := http.Get("http://" + local(t, Handler(Deps{Service: f, Local: f})) + "/v1/volumes/db/export")
	require.NoError(t, err)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("%d bytes that look complete", n)
	}
}

// An answer that ends without its trailers is not taken for complete.
func TestArchiveWithoutItsTrailers(t *testing.T) {
	c, _ := overSocket(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("half")) }))
	if err := c.Backup(soon(t), io.Discard); dataset.KindOf(err) != dataset.ErrUnavailable {
		t.Error(err)
	}
}

func TestImportOfABrokenArchive(t *testing.T) {
	f := newFake()
	f.upload = func(_ context.Context, r io.Reader) error { _, err := io.ReadAll(r); return err }
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		bad := errors.New("tape is torn")
		_, err := c.Import(soon(t), api.Request{Volume: "db"}, io.MultiReader(strings.NewReader("x"), readerFunc(func([]byte) (int, error) { return 0, bad })))
		if !errors.Is(err, bad) || dataset.KindOf(err) == dataset.ErrUnavailable {
			t.Error(err)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// The server refuses a request before it has read the archive.
func TestImportRefused(t *testing.T) {
	f := newFake()
	f.err = dataset.Errorf(dataset.ErrExists, "volume db exists")
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		archive := &endless{}
		_, err := c.Import(soon(t), api.Request{Volume: "db"}, archive)
		if dataset.KindOf(err) != dataset.ErrExists || archive.read != 0 {
			t.Errorf("%v after %d bytes", err, archive.read)
		}
	})
}

func TestEvents(t *testing.T) {
	f := newFake()
	var all []api.Event
	for i := range 5 {
		all = append(all, api.Event{ID: uint64(i + 1), Time: sampleTime, Type: "volume.create", Volume: "a\nb", Dataset: node1, Detail: "ä: data: x\n\n", Labels: map[string]string{"k": "v"}})
	}
	f.happened = func(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
		for _, e := range all[after:] {
			if err := fn(e); err != nil {
				return err
			}
		}
		if follow {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	transports(t, Deps{Service: f}, func(t *testing.T, c *client.Client) {
		var got []api.Event
		take := func(e api.Event) error { got = append(got, e); return nil }
		require.NoError(t, c.Events(soon(t), 0, false, take))
		if d := cmp.Diff(all, got); d != "" {
			t.Error(d)
		}
		// A second stream continues where the first ended, until fn returns an error.
		enough := errors.New("enough")
		got = nil
		err := c.Events(soon(t), 2, true, func(e api.Event) error {
			if got = append(got, e); len(got) == 2 {
				return enough
			}
			return nil
		})
		if d := cmp.Diff(all[2:4], got); d != "" || !errors.Is(err, enough) {
			t.Error(err, d)
		}
		// A stream also ends with its context.
		ctx, cancel := context.WithCancel(soon(t))
		defer cancel()
		err = c.Events(ctx, 4, true, func(api.Event) error { cancel(); return nil })
		assert.ErrorIs(t, err, context.Canceled)
	})
	// A browser that reconnects sends the last ID in a header.
	req := httptest.NewRequest(http.MethodGet, "/v1/events", nil)
	req.Header.Set("Accept", wire.EventStreamType)
	req.Header.Set("Last-Event-ID", "4")
	w := httptest.NewRecorder()
	Handler(Deps{Service: f}).ServeHTTP(w, req)
	if text := w.Body.String(); strings.Count(text, "\ndata: ") != 1 || !strings.HasPrefix(text, "id: 5\ndata: {") {
		t.Errorf("%q", text)
	}
}

// When the caller's context ends, the service's context ends as well, and the caller gets the error of its
// context.
func TestCancel(t *testing.T) {
	f := newFake()
	ended := make(chan struct{}, 1)
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		for name, call := range map[string]func(context.Context) error{
			"json":   func(ctx context.Context) error { _, err := c.Sync(ctx, node1, 0, time.Minute); return err },
			"stream": func(ctx context.Context) error { _, err := c.Export(ctx, "db", "", io.Discard); return err },
			"events": func(ctx context.Context) error { return c.Events(ctx, 0, true, func(api.Event) error { return nil }) },
		} {
			ctx, cancel := context.WithCancel(soon(t))
			f.block = func(served context.Context) error {
				cancel()
				<-served.Done()
				ended <- struct{}{}
				return served.Err()
			}
			assert.ErrorIsf(t, call(ctx), context.Canceled, "%s", name)
			<-ended
			cancel()
		}
	})
}

// A request that only waits does not delay the shutdown, and its error names the shutdown.
func TestShutdown(t *testing.T) {
	f := newFake()
	waiting := make(chan struct{})
	f.block = func(ctx context.Context) error {
		waiting <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	for name, call := range map[string]func(context.Context, *client.Client) error{
		"sync": func(ctx context.Context, c *client.Client) error {
			_, err := c.Sync(ctx, node1, 0, time.Minute)
			return err
		},
		"operation": func(ctx context.Context, c *client.Client) error {
			_, err := c.Operation(ctx, "x", time.Minute)
			return err
		},
		"events": func(ctx context.Context, c *client.Client) error {
			return c.Events(ctx, 0, true, func(api.Event) error { return nil })
		},
		"check of a repository": func(ctx context.Context, c *client.Client) error {
			_, err := c.CheckRepository(ctx, api.RepositoryCheck{Name: "offsite"})
			return err
		},
		"prune": func(ctx context.Context, c *client.Client) error { return c.PruneRepository(ctx, "offsite") },
	} {
		t.Run(name, func(t *testing.T) {
			c, s := overSocket(t, Handler(Deps{Service: f, Local: f}))
			result := make(chan error)
			go func() { result <- call(soon(t), c) }()
			<-waiting
			stopped := make(chan error)
			go func() { stopped <- s.Shutdown(soon(t)) }()
			if err := <-result; dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "stopping") {
				t.Error(err)
			}
			assert.NoError(t, <-stopped)
		})
	}
}

// A stream that should follow events and ends is an error. Otherwise the caller would believe that nothing
// happens.
func TestFollowThatEnds(t *testing.T) {
	f := newFake()
	transports(t, Deps{Service: f}, func(t *testing.T, c *client.Client) {
		if err := c.Events(soon(t), 0, true, func(api.Event) error { return nil }); dataset.KindOf(err) != dataset.ErrUnavailable {
			t.Error(err)
		}
	})
}

// A server may close an idle connection just when it is used. An idempotent request is sent again on another
// connection; any other request fails.
func TestDeadConnection(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f})
	breakNext := false
	c, _ := overSocket(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if breakNext {
			breakNext = false
			if conn, _, err := http.NewResponseController(w).Hijack(); err != nil {
				t.Error(err)
			} else {
				conn.Close()
			}
			return
		}
		h.ServeHTTP(w, r)
	}))
	calls := map[string]func(context.Context) error{
		"commit": func(ctx context.Context) error { _, err := c.Commit(ctx, node1, api.Report{}); return err },
		"submit": func(ctx context.Context) error {
			_, err := c.Submit(ctx, api.Request{Kind: dataset.OpDelete})
			return err
		},
		"beat":   func(ctx context.Context) error { return c.Heartbeat(ctx, node1, api.Heartbeat{}) },
		"cancel": func(ctx context.Context) error { _, err := c.CancelOperation(ctx, "x"); return err },
		"volume": func(ctx context.Context) error { _, err := c.Volume(ctx, "db"); return err },
	}
	for name, call := range calls {
		for i := range 3 {
			breakNext = i == 1
			assert.NoErrorf(t, call(soon(t)), "%s", name)
		}
		if n := len(f.take()); n != 3 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
	_, err := c.CreatePool(soon(t), api.NewPool{})
	assert.NoError(t, err)
	breakNext = true
	if _, err := c.CreatePool(soon(t), api.NewPool{}); dataset.KindOf(err) != dataset.ErrUnavailable {
		t.Error(err)
	}
}

// TestFlushSendsHeaderOnce: net/http logs an error if a header is sent again after a flush.
func TestFlushSendsHeaderOnce(t *testing.T) {
	var logged bytes.Buffer
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		watched := &watchedWriter{ResponseWriter: w, knownAt: func() time.Time { return time.Time{} }}
		assert.NoError(t, http.NewResponseController(watched).Flush())
		_, _ = watched.Write([]byte("event"))
	}))
	s.Config.ErrorLog = log.New(&logged, "", 0)
	s.Start()
	r, err := s.Client().Get(s.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if s.Close(); err != nil || string(body) != "event" || logged.Len() != 0 {
		t.Errorf("body %q, %v; logged %q", body, err, logged.String())
	}
}
