package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)

// TestCalls: the agent gets what the engine sends, and its answers have the format that the engine expects.
func TestCalls(t *testing.T) {
	f := &fake{path: "/var/lib/drover/mnt/f23c"}
	f.volume = Volume{Name: "db", Spelling: "db", Mountpoint: "/m", CreatedAt: noon, Status: map[string]any{"size": 5, "mounts": []string{"a"}}}
	f.volumes = []Volume{{Spelling: "a", Mountpoint: "/a", CreatedAt: noon, Status: f.volume.Status}, {Spelling: "b@gold \"ä\"<\n"}}
	e, _, _ := start(t, f, Options{})
	for _, c := range []struct{ method, body, asked, answer string }{
		{"Plugin.Activate", "", `["Activated"]`, `{"Implements":["VolumeDriver"]}`},
		{"VolumeDriver.Capabilities", "{}\n", "", `{"Capabilities":{"Scope":"local"}}`},
		{"VolumeDriver.Capabilities", "", "", `{"Capabilities":{"Scope":"local"}}`},
		{"VolumeDriver.Create", `{"Name":"db@gold","Opts":{"size":"20GiB","protect":""}}`, `["Create","db@gold",{"protect":"","size":"20GiB"}]`, `{}`},
		{"VolumeDriver.Create", `{"Name":"db","Opts":null}`, `["Create","db",null]`, `{}`},
		{"VolumeDriver.Create", `{"Name":"db","Opts":{},"Newer":[1]}`, `["Create","db",{}]`, `{}`},
		{"VolumeDriver.Remove", `{"Name":"a/../b"}`, `["Remove","a/../b"]`, `{}`},
		{"VolumeDriver.Path", `{"Name":"db"}`, `["Path","db"]`, `{"Mountpoint":"/var/lib/drover/mnt/f23c"}`},
		{"VolumeDriver.Mount", `{"Name":"db","ID":"0123"}`, `["Mount","db","0123"]`, `{"Mountpoint":"/var/lib/drover/mnt/f23c"}`},
		{"VolumeDriver.Mount", `{"Name":"db"}`, `["Mount","db",""]`, `{"Mountpoint":"/var/lib/drover/mnt/f23c"}`},
		{"VolumeDriver.Unmount", `{"Name":"db","ID":"0123"}`, `["Unmount","db","0123"]`, `{}`},
		{"VolumeDriver.Get", `{"Name":"db@gold"}`, `["Get","db@gold"]`, `{"Volume":{"Name":"db@gold","Mountpoint":"/m","CreatedAt":"2026-03-01T12:00:00Z","Status":{"mounts":["a"],"size":5}}}`},
		{"VolumeDriver.List", "{}\n", `["List"]`, `{"Volumes":[{"Name":"a","Mountpoint":"/a"},{"Name":"b@gold \"ä\"\u003c\n"}]}`},
		{"VolumeDriver.List", "", `["List"]`, `{"Volumes":[{"Name":"a","Mountpoint":"/a"},{"Name":"b@gold \"ä\"\u003c\n"}]}`},
	} {
		t.Run(c.method+" "+c.body, func(t *testing.T) {
			status, answer := e.raw(t, c.method, c.body)
			if status != 200 || answer != c.answer+"\n" {
				t.Errorf("%d %s\nwant %s", status, answer, c.answer)
			}
			if got := strings.Join(f.take(), " "); got != c.asked {
				t.Errorf("asked %s, want %s", got, c.asked)
			}
		})
	}
	all, _, _ := start(t, f, Options{Global: true})
	if _, answer := all.raw(t, "VolumeDriver.Capabilities", ""); answer != `{"Capabilities":{"Scope":"global"}}`+"\n" {
		t.Errorf("in a cluster: %s", answer)
	}
	if status, answer := e.raw(t, "VolumeDriver.Create", `{"Name":"db","Opts":{"help":""}}`); status != 500 || answer != `{"Err":"drover: options:\n  size=SIZE\nprofiles:\n  gold\n"}`+"\n" {
		t.Errorf("help: %d %s", status, answer)
	}
	f.volumes = nil
	if _, answer := e.raw(t, "VolumeDriver.List", "{}"); answer != "{\"Volumes\":[]}\n" {
		t.Errorf("empty list: %s", answer)
	}
}

// A part of the answer that would make the engine believe that the volume does not exist is left out.
func TestGetNeverSpoilsItsAnswer(t *testing.T) {
	for want, v := range map[string]Volume{
		`{"Volume":{"Name":"db"}}`:                   {Spelling: "other"},
		`{"Volume":{"Name":"db","Mountpoint":"/m"}}`: {Mountpoint: "/m", CreatedAt: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), Status: map[string]any{}},
		`{"Volume":{"Name":"db","Status":{"problem":"status that is no JSON: json: unsupported value: NaN"}}}`: {Status: map[string]any{"x": math.NaN()}},
	} {
		e, _, _ := start(t, &fake{volume: v}, Options{})
		if _, answer := e.raw(t, "VolumeDriver.Get", `{"Name":"db"}`); answer != want+"\n" {
			t.Errorf("got  %swant %s", answer, want)
		}
	}
}

// TestMountNeverSucceedsWithoutAPath: without a path the container would get a folder of the runtime.
func TestMountNeverSucceedsWithoutAPath(t *testing.T) {
	for _, path := range []string{"", "mnt/x", "./x"} {
		e, _, _ := start(t, &fake{path: path}, Options{})
		if status, answer := e.raw(t, "VolumeDriver.Mount", `{"Name":"db","ID":"1"}`); status != 500 || !strings.HasPrefix(answer, `{"Err":"drover: mount of \"db\": the path \"`) {
			t.Errorf("%d %s", status, answer)
		}
	}
}

// TestErrors: an error has a status that no client takes for success, a single prefix and a single line.
func TestErrors(t *testing.T) {
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{})
	for _, method := range []string{"Create", "Remove", "Mount", "Unmount", "Path", "List", "Get"} {
		for text, want := range map[string]string{
			`unknown profile "glod" (available: bronze, gold, silver)`: `{"Err":"drover: unknown profile \"glod\" (available: bronze, gold, silver)"}`,
			"drover: already said": `{"Err":"drover: already said"}`,
			"two\nlines":           `{"Err":"drover: two; lines"}`,
		} {
			f.err = dataset.Errorf(dataset.ErrInvalid, "%s", text)
			if status, answer := e.raw(t, "VolumeDriver."+method, `{"Name":"db","ID":"1"}`); status != 500 || answer != want+"\n" {
				t.Errorf("%s: %d %s", method, status, answer)
			}
		}
	}
}

// TestGetKeepsTheRecord: an error of Get makes the engine forget a volume only if the volume certainly does not
// exist. Get never waits.
func TestGetKeepsTheRecord(t *testing.T) {
	var unseen []string
	f := &fake{}
	e, _, _ := start(t, f, Options{Called: func(_ context.Context, c Call) {
		if !errors.Is(c.Err, dataset.ErrNotFound) && c.Err != nil {
			unseen = append(unseen, c.Name+" "+c.Volume+" "+c.Err.Error())
		}
	}})
	forgets := map[*dataset.Kind]bool{
		dataset.ErrNotFound: true, dataset.ErrInvalid: true, dataset.ErrUnsupported: true, dataset.ErrAmbiguous: true,
		dataset.ErrExists: true, dataset.ErrForbidden: true,
	}
	errs := []error{errors.New("disk on fire"), context.DeadlineExceeded, context.Canceled}
	for _, k := range dataset.Kinds() {
		errs = append(errs, dataset.Errorf(k, "is %s", k.Code))
	}
	for _, err := range errs {
		f.err = err
		want := !forgets[dataset.KindOf(err)]
		for range 3 {
			found, kept, got := e.lookup("db")
			if found || kept != want || e.attempts != 1 {
				t.Errorf("%v: found %t, kept %t, %d attempts: %v", err, found, kept, e.attempts, got)
			}
		}
	}
	// A volume that does not exist is not reported.
	if want := 3 * (len(errs) - 1); len(unseen) != want || unseen[0] != "Get db disk on fire" {
		t.Errorf("told of %d, want %d: %q", len(unseen), want, unseen)
	}
	f.err = nil
	if found, _, err := e.lookup("db"); !found {
		t.Error("the next one:", err)
	}
}

// On a connection that cannot be reset the record is kept too, but slowly.
func TestGetKeepsTheRecordOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := New(&fake{err: errors.New("disk on fire")}, Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	e := &engine{http: http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("tcp", l.Addr().String())
	}}}}
	if found, kept, err := e.lookup("db"); found || !kept || e.attempts != 5 {
		t.Error(found, kept, e.attempts, err)
	}
	e.http.CloseIdleConnections()
	assert.NoError(t, s.Shutdown(t.Context()))
	assert.ErrorIs(t, <-served, http.ErrServerClosed)
}

// TestBodylessRetry: a request without a body has no effect. A Get without a body must not make the engine forget a
// volume that nobody named.
func TestBodylessRetry(t *testing.T) {
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{})
	for _, method := range []string{"Create", "Remove", "Mount", "Unmount", "Path"} {
		status, answer := e.raw(t, "VolumeDriver."+method, "")
		if status != 400 || answer != `{"Err":"drover: the connection broke and the engine repeated the request without its body (nothing was done: retry)"}`+"\n" {
			t.Errorf("%s: %d %s", method, status, answer)
		}
	}
	resp, err := e.http.Post("http://d/VolumeDriver.Get", "", http.NoBody)
	require.NoError(t, err)
	defer resp.Body.Close()
	var transport net.Error
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.As(err, &transport) {
		t.Errorf("%d %v", resp.StatusCode, err)
	}
	if got := f.take(); got != nil {
		t.Error("the agent was asked", got)
	}
}

// TestPanic: a panic of the agent is the error of one call. For Get it is an error of the transport, because nobody
// knows whether the volume exists.
func TestPanic(t *testing.T) {
	var said []string
	f := &fake{hook: func(context.Context) error { panic("the cat") }}
	e, _, _ := start(t, f, Options{Panicked: func(_ context.Context, call string, v any, stack []byte) {
		said = append(said, fmt.Sprint(call, " ", v, " ", strings.Contains(string(stack), "plugin_test.go")))
	}})
	for _, method := range []string{"Create", "Remove", "Mount", "Unmount", "Path", "List"} {
		status, answer := e.raw(t, "VolumeDriver."+method, `{"Name":"db","ID":"1"}`)
		if status != 500 || answer != `{"Err":"drover: failed with an internal error (see its log)"}`+"\n" {
			t.Errorf("%s: %d %s", method, status, answer)
		}
	}
	if found, kept, err := e.lookup("db"); found || !kept || e.attempts != 1 {
		t.Error(found, kept, err)
	}
	if len(said) != 7 || said[0] != "Create the cat true" {
		t.Errorf("%q", said)
	}
}

// Each call has a deadline, which is half of the time that the engine waits for it (I8).
func TestI8EveryCallHasADeadline(t *testing.T) {
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{})
	const long, short = 2 * time.Minute, time.Minute // pkg/plugins of moby
	for method, gives := range map[string]time.Duration{
		"VolumeDriver.Create": long, "VolumeDriver.Mount": long, "VolumeDriver.Remove": short, "VolumeDriver.Unmount": short,
		"VolumeDriver.Path": short, "VolumeDriver.Get": short, "VolumeDriver.List": short, "Plugin.Activate": short,
	} {
		asked := false
		f.hook = func(ctx context.Context) error {
			at, ok := ctx.Deadline()
			if left := time.Until(at); !ok || left > gives/2 || left < gives/2-20*time.Second {
				t.Errorf("%s: %s left, %t", method, left, ok)
			}
			asked = true
			return nil
		}
		e.raw(t, method, `{"Name":"db","ID":"1"}`)
		if !asked {
			t.Error(method, "did not arrive")
		}
	}
}

// The error of a call that runs out of time says so, and says what to do.
func TestDeadlineIsExplained(t *testing.T) {
	s := New(&fake{}, Options{})
	_, err := limited(t.Context(), s, Call{Name: "Mount"}, time.Nanosecond, func(ctx context.Context) (any, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("mount of db: %w", ctx.Err())
	})
	if want := "not done within 1ns (try again): mount of db: context deadline exceeded"; err == nil || err.Error() != want {
		t.Error(err)
	}
	assert.NoError(t, s.Shutdown(t.Context()))
}

// The engine closes the connection when its own time is over: the context of the call ends.
func TestEngineHangsUp(t *testing.T) {
	started, ended := make(chan struct{}), make(chan error)
	f := &fake{hook: func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}}
	e, _, _ := start(t, f, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://d/VolumeDriver.Mount", strings.NewReader(`{"Name":"db","ID":"1"}`))
	go func() { <-started; cancel() }()
	if resp, err := e.http.Do(req); err == nil {
		resp.Body.Close()
		t.Error(resp.Status)
	}
	assert.ErrorIs(t, <-ended, context.Canceled)
}

// Many calls at once, with bodies of any size, on connections that are used repeatedly.
func TestManyAtOnce(t *testing.T) {
	f := &fake{path: "/m"}
	e, _, _ := start(t, f, Options{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				name := fmt.Sprintf("v%d-%d", i, j)
				pad := strings.Repeat("x", (i*j*97)%20_000)
				status, answer := e.raw(t, "VolumeDriver.Create", fmt.Sprintf(`{"Name":%q,"Opts":{"label.x":%q}}`, name, pad))
				if status != 200 || answer != "{}\n" {
					t.Errorf("%s: %d %s", name, status, answer)
				}
			}
		})
	}
	wg.Wait()
	got := map[string]bool{}
	for _, c := range f.take() {
		got[c] = true
	}
	for i := range 16 {
		for j := range 50 {
			if want := fmt.Sprintf(`["Create","v%d-%d",{"label.x":%q}]`, i, j, strings.Repeat("x", (i*j*97)%20_000)); !got[want] {
				t.Errorf("v%d-%d did not arrive whole", i, j)
			}
		}
	}
	if d := cmp.Diff(800, len(got)); d != "" {
		t.Error(d)
	}
}

// deadlines records the read deadlines that a handler sets.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.set = append(d.set, t); return nil }

// The deadline for reading a body must end with the body: net/http would take it for the end of the connection, and
// end the context of a slow call.
func TestReadDeadlineEndsWithTheBody(t *testing.T) {
	d := &deadlines{ResponseWriter: httptest.NewRecorder()}
	f := &fake{path: "/m", hook: func(context.Context) error {
		if len(d.set) != 2 || d.set[0].IsZero() || !d.set[1].IsZero() {
			t.Error("deadlines while the agent is asked:", d.set)
		}
		return nil
	}}
	s := New(f, Options{})
	s.http.Handler.ServeHTTP(d, httptest.NewRequest("POST", "/VolumeDriver.Mount", strings.NewReader(`{"Name":"db","ID":"1"}`)))
	if f.take() == nil {
		t.Error("the agent was not asked")
	}
	assert.NoError(t, s.Shutdown(t.Context()))
}

// The list arrives unchanged, whatever the names are.
func TestListIsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Volume {
			return Volume{Spelling: rapid.String().Draw(t, "name"), Mountpoint: rapid.String().Draw(t, "mountpoint")}
		})).Draw(t, "list")
		var got bytes.Buffer
		require.NoError(t, volumeList(list).write(&got))
		want := volume.ListResponse{Volumes: []*volume.Volume{}}
		for _, v := range list {
			want.Volumes = append(want.Volumes, &volume.Volume{Name: v.Spelling, Mountpoint: v.Mountpoint})
		}
		var read volume.ListResponse
		require.NoError(t, json.Unmarshal(got.Bytes(), &read))
		if d := cmp.Diff(want, read); d != "" {
			t.Fatal(d)
		}
	})
}

func manyVolumes(n int) []Volume {
	list := make([]Volume, n)
	for i := range list {
		list[i] = Volume{Spelling: fmt.Sprintf("volume-%06d@gold", i), Mountpoint: fmt.Sprintf("/var/lib/drover/mnt/f23ca986-1b7f-4f7e-9a43-%012d", i)}
	}
	return list
}

// The memory that is needed to send a list does not grow with the list.
func TestListIsStreamed(t *testing.T) {
	for _, n := range []int{10, 10_000} {
		list := volumeList(manyVolumes(n))
		if allocs := testing.AllocsPerRun(5, func() { _ = list.write(io.Discard) }); allocs > 2 {
			t.Errorf("%d volumes: %f allocations", n, allocs)
		}
	}
	largest := 0
	err := volumeList(manyVolumes(10_000)).write(writerFunc(func(b []byte) (int, error) {
		largest = max(largest, len(b))
		return len(b), nil
	}))
	if err != nil || largest > chunk+1<<10 {
		t.Error(err, largest)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
