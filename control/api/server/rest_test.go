package server

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// raw makes a request without the client.
func raw(t testing.TB, h http.Handler, method, path, body string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

const opID = "?operation=4b1d8a5e-3c55-4c07-8c6a-0d2f8a1c9e01"

// Each endpoint for one kind of change submits the request that it stands for.
func TestChanges(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f})
	no := false
	options := map[string]string{"size": "20GiB"}
	for _, c := range []struct {
		method, path, body string
		want               api.Request
	}{
		{"POST", "/v1/volumes" + opID, `{"volume":"db@gold","options":{"size":"20GiB"}}`, api.Request{Kind: dataset.OpCreate, Volume: "db@gold", Options: options}},
		{"DELETE", "/v1/volumes/db" + opID, "", api.Request{Kind: dataset.OpDelete, Volume: "db"}},
		{"DELETE", "/v1/volumes/db" + opID + "&force=true", "", api.Request{Kind: dataset.OpDelete, Volume: "db", Force: true}},
		{"DELETE", "/v1/volumes/db" + opID + "&force=true&fenced=host-a", "", api.Request{Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "host-a"}},
		{"POST", "/v1/volumes/db/resize" + opID, `{"size":"30GiB"}`, api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}},
		{"POST", "/v1/volumes/db/rekey" + opID, `{}`, api.Request{Kind: dataset.OpRekey, Volume: "db"}},
		{"POST", "/v1/volumes/db/rekey" + opID, `{"old_key_file":"/k.old"}`, api.Request{Kind: dataset.OpRekey, Volume: "db", Path: "/k.old"}},
		{"POST", "/v1/volumes/db/set-profile" + opID, `{"profile":"silver"}`, api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"}},
		{"POST", "/v1/volumes/db/rename" + opID, `{"name":"new"}`, api.Request{Kind: dataset.OpRename, Volume: "db", Name: "new"}},
		{"DELETE", "/v1/volumes/db/aliases/old" + opID, "", api.Request{Kind: dataset.OpDropAlias, Volume: "db", Name: "old"}},
		{"DELETE", "/v1/volumes/db/aliases/old" + opID + "&force=true", "", api.Request{Kind: dataset.OpDropAlias, Volume: "db", Name: "old", Force: true}},
		{"POST", "/v1/volumes/db/protect" + opID, `{"protect":true}`, api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &yes}},
		{"POST", "/v1/volumes/db/protect" + opID, `{"protect":false}`, api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &no}},
		{"POST", "/v1/volumes/db@gold/import" + opID, `{"path":"/p","live":true,"options":{"size":"20GiB"}}`, api.Request{Kind: dataset.OpImport, Volume: "db@gold", Path: "/p", Live: true, Options: options}},
		{"POST", "/v1/volumes/db/snapshots" + opID, `{"name":"n","message":"m"}`, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "n", Message: "m"}},
		{"POST", "/v1/volumes/db/snapshots" + opID, `{"scheduled":true}`, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Scheduled: true}},
		{"DELETE", "/v1/snapshots/f23c" + opID, "", api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: "f23c"}},
		{"DELETE", "/v1/snapshots/before" + opID + "&volume=db", "", api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: "before", Volume: "db"}},
		{"POST", "/v1/snapshots/f23c/restore" + opID, `{"volume":"db"}`, api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "f23c"}},
		{"POST", "/v1/clones" + opID, `{"source":"f23c","volume":"copy"}`, api.Request{Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "f23c"}}},
		{"POST", "/v1/clones" + opID, `{"source":"db","volume":"copy@gold","options":{"size":"20GiB"}}`, api.Request{Kind: dataset.OpClone, Volume: "copy@gold", Options: map[string]string{"from": "db", "size": "20GiB"}}},
		{"POST", "/v1/trash/f23c/restore" + opID, "", api.Request{Kind: dataset.OpUndelete, Volume: "f23c"}},
		{"POST", "/v1/trash/f23c/restore" + opID, `{"name":"back"}`, api.Request{Kind: dataset.OpUndelete, Volume: "f23c", Name: "back"}},
		{"DELETE", "/v1/trash/f23c" + opID, "", api.Request{Kind: dataset.OpPurge, Volume: "f23c"}},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			resp, body := raw(t, h, c.method, c.path, c.body)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", resp.Status, body)
			}
			c.want.ID = node1
			if d := cmp.Diff([]any{asked{"Submit", []any{c.want}}}, f.take()); d != "" {
				t.Errorf("asked (-want +got):\n%s", d)
			}
		})
	}
}

// A request without an ID gets a new one each time.
func TestAnIDIsMadeUp(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f})
	for _, c := range [][3]string{
		{"POST", "/v1/volumes", `{"volume":"db"}`},
		{"DELETE", "/v1/volumes/db", ""},
		{"POST", "/v1/operations", `{"kind":"delete","volume":"db"}`},
		{"POST", "/v1/operations", `{"kind":"delete","volume":"db"}`},
	} {
		raw(t, h, c[0], c[1], c[2])
	}
	seen := map[uuid.UUID]bool{}
	for _, a := range f.take() {
		seen[a.(asked).Args[0].(api.Request).ID] = true
	}
	if len(seen) != 4 || seen[uuid.Nil] {
		t.Error(seen)
	}
}

func TestCloneOfTwoSources(t *testing.T) {
	f := newFake()
	resp, body := raw(t, Handler(Deps{Service: f}), "POST", "/v1/clones", `{"source":"a","volume":"b","options":{"from":"c"}}`)
	if resp.StatusCode != 422 || !strings.Contains(body, "option from:") || f.take() != nil {
		t.Error(resp.Status, body)
	}
}

func TestEmptyTrash(t *testing.T) {
	f := &emptying{fake: newFake()}
	resp, body := raw(t, Handler(Deps{Service: f}), "DELETE", "/v1/trash", "")
	if resp.StatusCode != 200 || strings.Count(body, `"volume"`) != 0 {
		t.Error(resp.Status, body)
	}
	if !strings.Contains(body, `"failed":[{"dataset":"`+f.ids[1].String()+`","problem":{"code":"in_use","message":"has a clone"}}]`) {
		t.Error(body)
	}
	if d := cmp.Diff(f.ids, f.purged); d != "" {
		t.Error(d)
	}
}

// over sends the bytes of a request unchanged, which no client of Go would do, and returns the answer.
func over(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

// A path that would be another one after cleaning is refused with a problem. No answer is a redirect, which a
// client might follow to another endpoint, and the service is not called.
func TestI6NoPathIsCleaned(t *testing.T) {
	f := newFake()
	address := local(t, Handler(Deps{Service: f, Local: f, Backup: f}))
	for _, c := range []struct{ method, path string }{
		{"DELETE", "/v1/trash/."}, {"DELETE", "/v1/trash/./"}, {"DELETE", "/v1/trash/db/.."}, {"DELETE", "/v1/trash//"},
		{"DELETE", "/v1/trash/%2e"}, {"DELETE", "/v1/trash/%2E%2e"}, {"DELETE", "/v1/trash/.%2e"}, {"DELETE", "/v1/trash/x/%2e%2e"},
		{"DELETE", "/v1/volumes/../trash"}, {"DELETE", "/v1/volumes/%2e%2e/trash"}, {"DELETE", "//v1/trash"}, {"DELETE", "/v1//trash"},
		{"DELETE", "/./v1/trash"}, {"DELETE", "/v1/volumes/db/../../trash?x=y"}, {"DELETE", "/v1/trash/..%2ftrash"},
		{"GET", "/v1/volumes/./export"}, {"GET", "/v1/volumes/../store/backup"}, {"GET", "/v1/../metrics"},
		{"POST", "/v1/nodes/x/../../volumes"}, {"DELETE", "v1/trash"},
	} {
		resp, body := over(t, address, c.method+" "+c.path+" HTTP/1.1\r\nHost: drover\r\nConnection: close\r\n\r\n")
		wellFormed := strings.HasPrefix(c.path, "/") // net/http itself refuses what is not
		if resp.StatusCode != http.StatusBadRequest || wellFormed && !isProblem(resp, body, http.StatusBadRequest) {
			t.Errorf("%s %s: %s %v %s", c.method, c.path, resp.Status, resp.Header, body)
		}
		if resp.Header.Get("Location") != "" {
			t.Errorf("%s %s: redirected to %s", c.method, c.path, resp.Header.Get("Location"))
		}
		if got := f.take(); got != nil {
			t.Errorf("%s %s: the service was asked: %v", c.method, c.path, got)
		}
	}
	// Dots within a name, and escaped characters, are part of the name.
	for _, path := range []string{"/v1/volumes/..db", "/v1/volumes/d.b", "/v1/volumes/d%20b", "/v1/volumes/..."} {
		if resp, body := over(t, address, "GET "+path+" HTTP/1.1\r\nHost: drover\r\nConnection: close\r\n\r\n"); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

// For a wrong method, the answer lists the methods of the endpoint. An unknown path has no methods.
func TestWrongMethod(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f, Metrics: http.NotFoundHandler()})
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"PUT", "/v1/volumes", 405, "GET, HEAD, POST"},
		{"PATCH", "/v1/volumes/db", 405, "DELETE, GET, HEAD"},
		{"POST", "/v1/trash", 405, "DELETE, GET, HEAD"},
		{"GET", "/v1/clones", 405, "POST"},
		{"OPTIONS", "/v1/clones", 405, "POST"},
		{"HEAD", "/v1/clones", 405, "POST"},
		{"DELETE", "/v1/openapi.yaml", 405, "GET, HEAD"},
		{"POST", "/metrics", 405, "GET, HEAD"},
		{"BREW", "/v1/volumes", 405, "GET, HEAD, POST"},
		{"PUT", "/v1/nothing", 404, ""},
		{"GET", "/v1/trash/", 404, ""},
		{"DELETE", "/v1/trash/", 404, ""},
		{"GET", "/", 404, ""},
	} {
		resp, body := raw(t, h, c.method, c.path, "")
		if resp.StatusCode != c.status || resp.Header.Get("Allow") != c.allow || !isProblem(resp, body, c.status) {
			t.Errorf("%s %s: %s %v %s", c.method, c.path, resp.Status, resp.Header, body)
		}
	}
	if got := f.take(); got != nil {
		t.Errorf("the service was asked: %v", got)
	}
}

func isProblem(resp *http.Response, body string, status int) bool {
	var p wire.Problem
	return json.Unmarshal([]byte(body), &p) == nil && resp.Header.Get("Content-Type") == wire.ProblemType &&
		p.Status == status && p.Code == "invalid" && p.Detail != ""
}

// local serves a handler that takes every request for one of this process.
func local(t *testing.T, h http.Handler) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := api.WithPrincipal(t.Context(), api.Principal{Local: true}) // without the address of the listener
		h.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
