package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// TestGracefulStop: the socket file is removed at once, so that no client waits for this process. Calls in progress
// end normally.
func TestGracefulStop(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	f := &fake{path: "/m", hook: func(ctx context.Context) error {
		close(started)
		<-goOn
		return ctx.Err()
	}}
	path := filepath.Join(t.TempDir(), "drover.sock")
	l, err := socket.Listen(t.Context(), path, "")
	require.NoError(t, err)
	s := New(f, Options{})
	closed := make(chan struct{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(&tellingListener{Listener: l, closed: closed}) }()
	e := connect(path)
	defer e.http.CloseIdleConnections()
	type result struct {
		status int
		answer string
	}
	got := make(chan result)
	go func() {
		status, answer := e.raw(t, "VolumeDriver.Mount", `{"Name":"db","ID":"1"}`)
		got <- result{status, answer}
	}()
	<-started
	stopped := make(chan error)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	<-closed
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the file is still there:", err)
	}
	select {
	case err := <-stopped:
		t.Error("did not wait:", err)
	default:
	}
	close(goOn)
	if r := <-got; r != (result{200, "{\"Mountpoint\":\"/m\"}\n"}) {
		t.Error(r)
	}
	assert.NoError(t, <-stopped)
	assert.ErrorIs(t, <-served, http.ErrServerClosed)
}

// tellingListener reports when it was closed.
type tellingListener struct {
	net.Listener
	once   sync.Once
	closed chan struct{}
}

func (l *tellingListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { close(l.closed) })
	return err
}

// After a grace period, or when the time for the stop has ended, the running calls are cancelled. Only the latter is an
// error.
func TestStopCancelsCalls(t *testing.T) {
	t.Run("grace", func(t *testing.T) { testStopCancelsCalls(t, true) })
	t.Run("no time", func(t *testing.T) { testStopCancelsCalls(t, false) })
}

func testStopCancelsCalls(t *testing.T, hasTime bool) {
	started, ended := make(chan struct{}), make(chan struct{})
	f := &fake{hook: func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}}
	s := New(f, Options{})
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := socket.Listen(t.Context(), path, "")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	e := connect(path)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if resp, err := e.http.Post("http://d/VolumeDriver.Mount", "", strings.NewReader(`{"Name":"db","ID":"1"}`)); err == nil {
			resp.Body.Close()
		}
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if hasTime {
		s.grace = 0
		assert.NoError(t, s.Shutdown(ctx))
	} else {
		cancel()
		assert.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
	}
	<-ended
	<-answered
	assert.NoErrorf(t, s.Shutdown(t.Context()), "again")
	assert.ErrorIs(t, <-served, http.ErrServerClosed)
}

// child is a drover process that systemd started: it serves until SIGTERM.
func child() int {
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil { // systemd does this between fork and exec
		fmt.Println(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	l, err := socket.FromSystemd().Take("plugin", os.Getenv("PLUGIN_TEST_CHILD"))
	if err != nil || l == nil {
		fmt.Println("no socket:", err)
		return 1
	}
	s := New(&fake{path: "/m"}, Options{})
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	<-stop
	err = s.Shutdown(context.Background())
	fmt.Println(err, <-served)
	return 0
}

// TestSocketActivation: the engine's call waits in systemd's socket until drover has started. The socket file
// outlives drover.
func TestSocketActivation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drover.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	file, err := l.File()
	require.NoError(t, err)
	defer file.Close()
	e := connect(path)
	defer e.http.CloseIdleConnections()
	for range 2 { // again after drover has stopped
		answered := make(chan string)
		go func() {
			_, answer := e.raw(t, "VolumeDriver.Mount", `{"Name":"db","ID":"1"}`)
			answered <- answer
		}()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "PLUGIN_TEST_CHILD="+path, "LISTEN_FDS=1")
		cmd.ExtraFiles = []*os.File{file}
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		if answer := <-answered; answer != "{\"Mountpoint\":\"/m\"}\n" {
			t.Error(answer)
		}
		e.http.CloseIdleConnections()
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		said, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil || string(said) != "<nil> http: Server closed\n" {
			t.Errorf("%v: %s", err, said)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error("systemd's socket:", err)
		}
	}
}
