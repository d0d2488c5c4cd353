package plugin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/droverhq/drover/internal/process"
)

// TestI9Caller: an agent is told which process makes a request: the same one on each connection of
// a process, and another one for another process.
func TestI9Caller(t *testing.T) {
	callers := make(chan process.Identity, 1)
	f := &fake{path: "/m", hook: func(ctx context.Context) error { callers <- Caller(ctx); return nil }}
	e, _, path := start(t, f, Options{})
	own, err := process.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"Plugin.Activate", "VolumeDriver.Mount"} {
		e.raw(t, call, `{"Name":"db","ID":"a"}`)
		if got := <-callers; got != own {
			t.Errorf("%s: by %+v, want %+v", call, got, own)
		}
		e.http.CloseIdleConnections()
	}

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PLUGIN_TEST_SOCKET="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := <-callers; got.PID != cmd.Process.Pid || !got.IsKnown() || got == own {
		t.Errorf("by %+v, want process %d", got, cmd.Process.Pid)
	}
}

// TestI9CallerNotKnown: without a unix socket, or a process that can be seen, nobody is named.
func TestI9CallerNotKnown(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := Caller(identifyCaller(t.Context(), a)); got.IsKnown() {
		t.Errorf("%+v", got)
	}
	if got := Caller(t.Context()); got.IsKnown() {
		t.Errorf("%+v", got)
	}
}

// activateOnce is a process that activates the plugin and ends.
func activateOnce(socket string) (status int) {
	resp, err := connect(socket).http.Post("http://plugin/Plugin.Activate", "", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		fmt.Println(resp, err)
		return 1
	}
	return 0
}
