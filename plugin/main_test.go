package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv("PLUGIN_TEST_SOCKET"); socket != "" {
		os.Exit(callOnce(socket))
	}
	if os.Getenv("PLUGIN_TEST_CHILD") != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// fake is an agent that records its calls.
type fake struct {
	mu    sync.Mutex
	calls []string

	err     error
	path    string
	volume  Volume
	volumes []Volume
	hook    func(ctx context.Context) error
}

func (f *fake) note(ctx context.Context, call ...any) error {
	text, _ := json.Marshal(call)
	f.mu.Lock()
	f.calls = append(f.calls, string(text))
	hook, err := f.hook, f.err
	f.mu.Unlock()
	if hook != nil {
		return hook(ctx)
	}
	return err
}

func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

func (f *fake) Activated(ctx context.Context) { _ = f.note(ctx, "Activated") }
func (f *fake) Create(ctx context.Context, ref dataset.Reference, opts map[string]string) error {
	return f.note(ctx, "Create", ref.Spelling, opts)
}
func (f *fake) Remove(ctx context.Context, ref dataset.Reference) error {
	return f.note(ctx, "Remove", ref.Spelling)
}
func (f *fake) Mount(ctx context.Context, ref dataset.Reference, id string) (string, error) {
	return f.path, f.note(ctx, "Mount", ref.Spelling, id)
}
func (f *fake) Unmount(ctx context.Context, ref dataset.Reference, id string) error {
	return f.note(ctx, "Unmount", ref.Spelling, id)
}
func (f *fake) Get(ctx context.Context, ref dataset.Reference) (Volume, error) {
	return f.volume, f.note(ctx, "Get", ref.Spelling)
}
func (f *fake) List(ctx context.Context) ([]Volume, error) { return f.volumes, f.note(ctx, "List") }
func (f *fake) Path(ctx context.Context, ref dataset.Reference) (string, error) {
	return f.path, f.note(ctx, "Path", ref.Spelling)
}
func (f *fake) Help(context.Context) string { return "options:\n  size=SIZE\nprofiles:\n  gold\n" }

// engine calls a plugin as dockerd does (pkg/plugins/client.go and volume/service/store.go of moby 28.5), with
// shorter pauses.
type engine struct {
	http     http.Client
	attempts int
}

// start serves the agent on a new socket until the test ends.
func start(t testing.TB, a Agent, o Options) (*engine, *Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drover.sock")
	l, err := socket.Listen(context.Background(), path, "")
	require.NoError(t, err)
	s := New(a, o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	e := connect(path)
	t.Cleanup(func() {
		e.http.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx))
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return e, s, path
}

func connect(path string) *engine {
	return &engine{http: http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}}
}

// raw posts a body without a retry.
func (e *engine) raw(t testing.TB, method, body string) (int, string) {
	t.Helper()
	resp, err := e.http.Post("http://plugin.moby.localhost/"+method, "", bytes.NewBufferString(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

type statusError struct{ text string }

func (e statusError) Error() string { return e.text }

// call corresponds to callWithRetry and its callers: after an error of the transport it tries again with the rest of
// the body.
func (e *engine) call(method string, args, ret any) error {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(args); err != nil {
		return err
	}
	for {
		e.attempts++
		req, err := http.NewRequest("POST", "http://plugin.moby.localhost/VolumeDriver."+method, &body)
		if err != nil {
			return err
		}
		resp, err := e.http.Do(req)
		if err != nil {
			if e.attempts == 5 {
				return err
			}
			continue
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(resp.Body)
			return statusError{string(text)}
		}
		return json.NewDecoder(resp.Body).Decode(ret)
	}
}

// lookup corresponds to lookupVolume and getVolume of the engine's store. It returns whether the volume exists, and
// whether its record is kept if it seems not to exist.
func (e *engine) lookup(name string) (found, kept bool, err error) {
	var ret struct {
		Volume *struct{ Name string }
		Err    string
	}
	e.attempts = 0
	if err = e.call("Get", map[string]string{"Name": name}, &ret); err == nil && ret.Err != "" {
		err = errors.New(ret.Err)
	}
	var transport net.Error
	if errors.As(err, &transport) {
		return false, true, err
	}
	return err == nil && ret.Volume != nil, false, err
}
