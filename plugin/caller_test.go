package plugin

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/test/require"
)

// TestI9Caller: an agent learns which process makes a request. It is the same process on each connection of a
// process, and another one for another process.
func TestI9Caller(t *testing.T) {
	callers := make(chan process.Identity, 1)
	f := &fake{path: "/m", hook: func(ctx context.Context) error { callers <- Caller(ctx); return nil }}
	e, _, path := start(t, f, Options{})
	own, err := process.Of(os.Getpid())
	require.NoError(t, err)
	for _, call := range []string{"Plugin.Activate", "VolumeDriver.Mount"} {
		e.raw(t, call, `{"Name":"db","ID":"a"}`)
		if got := <-callers; got != own {
			t.Errorf("%s: by %+v, want %+v", call, got, own)
		}
		e.http.CloseIdleConnections()
	}

	cmd := callFrom(os.Args[0], path, "Plugin.Activate")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := <-callers; got.PID != cmd.Process.Pid || !got.IsKnown() || got == own {
		t.Errorf("by %+v, want process %d", got, cmd.Process.Pid)
	}
}

// TestI9CallerNotKnown: without a unix socket, or without a visible process, no process is named.
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

// TestTool: the tool is identified by the program of the calling process. Podman gets a list of names that it can
// use: it uses only bare names, and refuses a list that contains "@".
func TestTool(t *testing.T) {
	tools := make(chan Tool, 1)
	f := &fake{hook: func(ctx context.Context) error { tools <- ToolOf(ctx); return nil }}
	for _, v := range [][2]string{
		{"db", "db@gold"}, {"db", "db"}, {"db-test", "db-test@snapshot-f23ca986"}, {"plain", "plain"},
	} {
		f.volumes = append(f.volumes, Volume{Name: v[0], Spelling: v[1], Mountpoint: "/" + v[1]})
	}
	_, _, path := start(t, f, Options{})
	const all = `{"Volumes":[{"Name":"db@gold","Mountpoint":"/db@gold"},{"Name":"db","Mountpoint":"/db"},` +
		`{"Name":"db-test@snapshot-f23ca986","Mountpoint":"/db-test@snapshot-f23ca986"},{"Name":"plain","Mountpoint":"/plain"}]}`
	const bare = `{"Volumes":[{"Name":"db","Mountpoint":"/db@gold"},` +
		`{"Name":"db-test","Mountpoint":"/db-test@snapshot-f23ca986"},{"Name":"plain","Mountpoint":"/plain"}]}`
	for program, want := range map[string]struct {
		tool Tool
		list string
	}{
		"podman": {Podman, bare}, "dockerd": {Docker, all}, "dockerd-29": {Docker, all}, "docker": {"", all}, "nomad": {"", all},
	} {
		out, err := callFrom(copyOfTest(t, program), path, "VolumeDriver.List").Output()
		if got := <-tools; err != nil || got != want.tool || string(out) != want.list+"\n" {
			t.Errorf("%s is tool %q, want %q: %v\n%swant\n%s", program, got, want.tool, err, out, want.list)
		}
	}
	if got := ToolOf(t.Context()); got != "" {
		t.Errorf("nobody is %q", got)
	}
}

// TestGetTellsPodmanThatControlIsUnreachable: Podman keeps its record of a volume after every error, and shows the text.
// The Docker engine gets no answer, because it would forget the volume.
func TestGetTellsPodmanThatControlIsUnreachable(t *testing.T) {
	_, _, path := start(t, &fake{err: dataset.Errorf(dataset.ErrUnavailable, "control is unreachable")}, Options{})
	for program, answered := range map[string]bool{"podman": true, "dockerd": false, "nomad": false} {
		cmd := callFrom(copyOfTest(t, program), path, "VolumeDriver.Get")
		cmd.Env = append(cmd.Env, `PLUGIN_TEST_BODY={"Name":"db"}`)
		out, err := cmd.Output()
		if got := strings.Contains(string(out), `{"Err":"drover: control is unreachable"}`); got != answered || err == nil {
			t.Errorf("%s: answered %t, %v: %s", program, got, err, out)
		}
	}
}

// copyOfTest returns the path of a copy of this program under the name of another program.
func copyOfTest(t *testing.T, program string) string {
	t.Helper()
	binary, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	copied := filepath.Join(t.TempDir(), program)
	require.NoError(t, os.WriteFile(copied, binary, 0o755))
	return copied
}

// callFrom returns a process that runs a copy of this program under the name of another program, and calls the plugin
// once.
func callFrom(program, socket, method string) *exec.Cmd {
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "PLUGIN_TEST_SOCKET="+socket, "PLUGIN_TEST_CALL="+method)
	return cmd
}

// callOnce is what such a process runs: it prints the answer.
func callOnce(socket string) (status int) {
	resp, err := connect(socket).http.Post("http://plugin/"+os.Getenv("PLUGIN_TEST_CALL"), "",
		strings.NewReader(os.Getenv("PLUGIN_TEST_BODY")))
	if err == nil {
		_, err = io.Copy(os.Stdout, resp.Body)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		fmt.Println(resp, err)
		return 1
	}
	return 0
}
