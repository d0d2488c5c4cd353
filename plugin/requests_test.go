package plugin

import (
	"context"
	"encoding/json"
	"errors"
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
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/test/require"
)

// TestBadRequests: a request that cannot be read is refused with a status that shows whether client or server is at
// fault.
func TestBadRequests(t *testing.T) {
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{})
	const unread = "cannot read the request: "
	for body, want := range map[string]struct {
		status int
		text   string
	}{
		"{":                                  {400, unread + "unexpected end of JSON input"},
		"nope":                               {400, unread + "invalid character 'o' in literal null (expecting 'u')"},
		`{"Name":5}`:                         {400, unread + "json: cannot unmarshal number into Go struct field"},
		`{"Name":"a"}{}`:                     {400, unread + "invalid character '{' after top-level value"},
		"[]":                                 {400, unread + "json: cannot unmarshal array"},
		strings.Repeat("[", maxBody/10):      {400, unread},
		`"` + strings.Repeat("x", maxBody):   {413, "request of more than 1048576 bytes"},
		`"` + strings.Repeat("x", 9*maxBody): {413, "request of more than 1048576 bytes"},
	} {
		for _, method := range []string{"Create", "Remove", "Mount", "Unmount", "Path", "Get"} {
			status, answer := e.raw(t, "VolumeDriver."+method, body)
			if status != want.status || !strings.HasPrefix(answer, `{"Err":"drover: `+want.text) {
				t.Errorf("%s %.20s: %d %s", method, body, status, answer)
			}
		}
	}
	if got := f.take(); got != nil {
		t.Error("the agent was asked", got)
	}
}

// TestUnknownCalls: a path that is not one of the nine calls is refused. No path is cleaned: a redirect would lead a
// client to a call that it did not make.
func TestUnknownCalls(t *testing.T) {
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{})
	for _, path := range []string{
		"", "VolumeDriver.Burn", "VolumeDriver.Mount/x", "VolumeDriver.Mount/", "/VolumeDriver.List", "./VolumeDriver.List",
		"VolumeDriver.Get/../VolumeDriver.Remove", "VolumeDriver.Get/%2e%2e/VolumeDriver.Remove", "volumedriver.list",
	} {
		status, answer := e.raw(t, path, `{"Name":"db"}`)
		if status != 404 || !strings.HasPrefix(answer, `{"Err":"drover: no such call`) {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		req, err := http.NewRequest(method, "http://d/VolumeDriver.Remove", strings.NewReader(`{"Name":"db"}`))
		require.NoError(t, err)
		resp, err := e.http.Do(req)
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := `{"Err":"drover: call /VolumeDriver.Remove expects POST, not \"` + method + `\""}` + "\n"
		if err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") != "POST" || string(text) != want {
			t.Errorf("%s: %s %s %v", method, resp.Status, text, err)
		}
	}
	if got := f.take(); got != nil {
		t.Error("the agent was asked", got)
	}
}

// TestCalledIsTold: each call is reported with its name and its error, which the engine gets too.
func TestCalledIsTold(t *testing.T) {
	type called struct {
		call string
		err  error
	}
	told := make(chan called, 1)
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{Called: func(_ context.Context, c Call) {
		if c.Took < 0 || c.Volume != "db" {
			t.Errorf("%+v", c)
		}
		told <- called{c.Name, c.Err}
	}})
	e.raw(t, "VolumeDriver.Mount", `{"Name":"db","ID":"a"}`)
	if got := <-told; got != (called{"Mount", nil}) {
		t.Errorf("got %+v", got)
	}
	f.hook = func(context.Context) error { return dataset.ErrNotFound }
	e.raw(t, "VolumeDriver.Mount", `{"Name":"db","ID":"a"}`)
	if got := <-told; got.call != "Mount" || !errors.Is(got.err, dataset.ErrNotFound) {
		t.Errorf("got %+v", got)
	}
}

// TestRequestID: each call has an ID. The agent, the observer of calls and the answer get it.
func TestRequestID(t *testing.T) {
	told := make(chan string, 1)
	var asked, by string
	f := &fake{path: "/m", hook: func(ctx context.Context) error {
		asked, by = requestid.Of(ctx), requestid.By(ctx)
		return nil
	}}
	e, _, _ := start(t, f, Options{Called: func(ctx context.Context, _ Call) { told <- requestid.Of(ctx) }})
	for _, id := range []string{"deploy-17", "", "a b"} {
		r, err := http.NewRequest(http.MethodPost, "http://plugin/VolumeDriver.Mount", strings.NewReader(`{"Name":"db","ID":"a"}`))
		require.NoError(t, err)
		r.Header.Set(requestid.Header, id)
		resp, err := e.http.Do(r)
		require.NoError(t, err)
		resp.Body.Close()
		got := resp.Header.Get(requestid.Header)
		if !requestid.IsValid(got) || (got == id) != (id == "deploy-17") || asked != got || <-told != got {
			t.Errorf("%q became %q, and the agent got %q", id, got, asked)
		}
		if by != "engine" { // the program of the test is no engine that is recognized
			t.Errorf("the caller is %q", by)
		}
	}
}

// refusals are the statuses of requests for which a fake agent that never fails is not called: those that cannot be
// read or are too large, and -o help, which is an error so that it is shown.
var refusals = map[int]bool{http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusInternalServerError: true}

// FuzzPluginRequest sends any body with any call over a socket (C7). The answer is one that the engine understands
// or, only for Get, a broken connection. There is never a panic, and the agent is called at most once.
func FuzzPluginRequest(f *testing.F) {
	calls := []string{"Create", "Remove", "Mount", "Unmount", "Path", "Get", "List", "Capabilities"}
	for i := range calls {
		for _, body := range []string{
			"", "{}", "null", "[]", `{"Name":"db@gold","Opts":{"size":"20GiB"}}`, `{"Name":"db","Opts":null}`, `{"Name":"db","ID":"01"}`,
			`{"Name":null,"ID":5}`, `{"Name":"..","Opts":{"help":"x"}}`, "\x00", `{"Name":"\ud800"}`, strings.Repeat("[", 5000), `{"Name":"` + strings.Repeat("a", 5000) + `"}`,
		} {
			f.Add(uint8(i), body)
		}
	}
	a := &fake{path: "/m"}
	e, _, _ := start(f, a, Options{Panicked: func(_ context.Context, call string, v any, stack []byte) { panic(call + "\n" + string(stack)) }})
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		name := calls[int(which)%len(calls)]
		resp, err := e.http.Post("http://d/VolumeDriver."+name, "", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		asked := a.take()
		var broken net.Error
		switch {
		case name == "Get" && body == "" && errors.As(err, &broken) && len(asked) == 0:
		case err != nil || !json.Valid(text) || len(asked) > 1:
			t.Errorf("%s: %v %s, asked %q", name, err, text, asked)
		case resp.StatusCode == http.StatusOK && !strings.Contains(string(text), `"Err"`):
		case !refusals[resp.StatusCode] || len(asked) > 0 || !strings.HasPrefix(string(text), `{"Err":"drover: `):
			t.Errorf("%s: %s %s, asked %q", name, resp.Status, text, asked)
		}
	})
}

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
