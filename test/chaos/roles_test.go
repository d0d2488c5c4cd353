package chaos_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/host"
)

// An engine calls the plugin from one process, and each process activates the plugin once. A killed engine answers
// nobody, and the next one serves the same socket.
func TestEngine(t *testing.T) {
	dir := t.TempDir()
	plugin, own := filepath.Join(dir, "plugin.sock"), filepath.Join(dir, "engine.sock")
	type call struct {
		pid  int
		path string
	}
	calls := make(chan call, 10)
	l, err := net.Listen("unix", plugin)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls <- call{callerOf(t, r), r.URL.Path}
		_, _ = w.Write([]byte(`{"Mountpoint":"/m"}`))
	})}
	server.ConnContext = withConn
	go server.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { server.Close() })

	plug := host.NewPlug(t, own)
	for range 2 {
		cmd := exec.Command("/proc/self/exe", own, plugin)
		cmd.Env = append(os.Environ(), "DROVER_CHAOS_ROLE=engine")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		if got, want := <-calls, (call{cmd.Process.Pid, "/Plugin.Activate"}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		for range 2 {
			if path, err := plug.Mount("db", host.NewID()); err != nil || path != "/m" {
				t.Errorf("mounted at %q: %v", path, err)
			}
			if got, want := <-calls, (call{cmd.Process.Pid, "/VolumeDriver.Mount"}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if _, err := plug.Mount("db", host.NewID()); err == nil {
			t.Error("an engine that was killed answers")
		}
	}
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// callerOf returns the process that sent a request.
func callerOf(t *testing.T, r *http.Request) int {
	conn, ok := r.Context().Value(connKey{}).(*net.UnixConn)
	if !ok {
		t.Error("a request without a connection")
		return 0
	}
	cred, err := socket.Peer(conn)
	if err != nil {
		t.Error(err)
		return 0
	}
	return int(cred.Pid)
}
