package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
