package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Each change is one line of the log, with who made it and how it ended. Reads of records have none.
func TestAudit(t *testing.T) {
	fk := newFake()
	f := newFlock(t, Deps{Service: fk, Local: fk})
	op := uuid.New()
	bob, viewer := believing(f.pair(operator(pki.Worker))), believing(f.pair(operator(pki.Viewer)))
	_ = f.ask(bob, "GET", "/v1/volumes", "", "")
	_ = f.ask(bob, "POST", "/v1/volumes?operation="+op.String(), "", `{"volume":"db@gold"}`)
	_ = f.ask(viewer, "DELETE", "/v1/volumes/db?force=true", "", "")
	_ = f.ask(believing(nil), "DELETE", "/v1/volumes/db", "", "")
	_ = f.ask(believing(f.pair(nodeA)), "POST", "/v1/nodes/"+nodeA.Node.String()+"/heartbeat", "", "{}")
	_ = f.ask(believing(f.pair(nodeA)), "POST", "/v1/nodes/"+nodeA.Node.String()+"/commit", "", `{"operation":{"kind":"create","volume":"db","id":"`+op.String()+`"}}`)
	fk.err = dataset.Errorf(dataset.ErrInUse, "db is in use")
	_ = f.ask(bob, "DELETE", "/v1/volumes/db?force=true&operation="+op.String(), "", "")
	_ = f.ask(bob, "POST", "/v1/volumes", "", `{"volume":5}`)
	var got []api.Change
	for _, c := range f.took() {
		if !strings.HasPrefix(c.From, "127.0.0.1:") {
			t.Errorf("from %q", c.From)
		}
		c.From = ""
		if c.Outcome == api.Refused && c.Error == "" {
			t.Errorf("%+v", c)
		}
		c.Error = ""
		got = append(got, c)
	}
	want := []api.Change{
		{Who: "operator bob (operator)", What: "create-volume", Kind: "create", Target: "db@gold", ID: op, Outcome: api.Done},
		{Who: "operator bob (viewer)", What: "delete-volume", Target: "db", Outcome: api.Refused, Code: "forbidden"},
		{Who: "nobody", What: "DELETE /v1/volumes/db", Outcome: api.Refused, Code: "forbidden"},
		{Who: nodeA.String(), What: "commit", Node: nodeA.Node.String(), Kind: "create", Target: "db", ID: op, Outcome: api.Done},
		{Who: "operator bob (operator)", What: "delete-volume", Kind: "delete", Target: "db", ID: op, Detail: "force", Outcome: api.Failed, Code: "in_use"},
		{Who: "operator bob (operator)", What: "create-volume", Outcome: api.Failed, Code: "invalid"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(api.Change{})); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
}

// The log names what the path names.
func TestAuditNamesThePath(t *testing.T) {
	for _, e := range endpoints(t) {
		for _, part := range strings.Split(e.path, "/") {
			name, isParam := strings.CutPrefix(part, "{")
			if !isParam || e.method == "GET" {
				continue
			}
			name = strings.TrimSuffix(name, "}")
			var c pending
			c.start(endpoint.Endpoint{ID: e.id}, func(asked string) string {
				if asked == name {
					return "the " + name
				}
				return ""
			})
			if got := c.Target + c.Node; got != "the "+name {
				t.Errorf("%s %s: the log says %q", e.method, e.path, got)
			}
		}
	}
}

// The log says who confirmed that a node is fenced, and where a volume was moved after that.
func TestAuditOfWords(t *testing.T) {
	f := newFlock(t, Deps{Service: newFake(), Members: newFake(), Local: newFake()})
	admin := believing(f.pair(operator(pki.Admin)))
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "/v1/operations", `{"kind":"move","volume":"db","node":"host-b"}`, "node host-b"},
		{"POST", "/v1/operations", `{"kind":"move","volume":"db","node":"host-b","force":true,"fenced":"host-a"}`, "node host-b, force, fenced host-a"},
		{"DELETE", "/v1/volumes/db?force=true&fenced=host-a", "", "force, fenced host-a"},
		{"DELETE", "/v1/pools/fast?forget=true", "", "forget"},
		{"DELETE", "/v1/pools/fast", "", ""},
		{"POST", "/v1/store/recover", `{"fenced_nodes":["host-a"]}`, "fenced host-a"},
		{"POST", "/v1/store/recover", `{"digest":"0123","fenced_nodes":["host-a","host-c"]}`, "confirmed 0123, fenced host-a, fenced host-c"},
		{"POST", "/v1/store/recover", `{"dry_run":true}`, "dry run"},
		{"POST", "/v1/store/recover", `{"digest":"0123"}`, "confirmed 0123"},
	} {
		assert.NoErrorf(t, f.ask(admin, c.method, c.path, "", c.body), "%s %s", c.method, c.path)
		if got := f.took(); len(got) != 1 || got[0].Outcome != api.Done || got[0].Detail != c.want {
			t.Errorf("%s %s %s: %+v, want the detail %q", c.method, c.path, c.body, got, c.want)
		}
	}
}

// A read of a whole volume or of the store is in the log like a change, also if it was refused or interrupted,
// with the number of bytes that were sent.
func TestAuditOfWhatIsCarriedOut(t *testing.T) {
	fk := newFake()
	fk.stream = func(_ context.Context, w io.Writer) error { _, err := w.Write(make([]byte, 3000)); return err }
	f := newFlock(t, Deps{Service: fk, Local: fk, Backup: fk})
	worker, admin := believing(f.pair(operator(pki.Worker))), believing(f.pair(operator(pki.Admin)))
	want := func(want api.Change) {
		t.Helper()
		got := f.took()
		for i := range got {
			got[i].From, got[i].Error = "", ""
		}
		if diff := cmp.Diff([]api.Change{want}, got, cmp.AllowUnexported(api.Change{})); diff != "" {
			t.Error("-want +got:\n" + diff)
		}
	}
	bob := operator(pki.Worker).String()
	_ = f.ask(worker, "GET", "/v1/volumes/db/export", "", "")
	want(api.Change{Who: bob, What: "export-volume", Target: "db", Bytes: 3000, Outcome: api.Done})
	_ = f.ask(worker, "GET", "/v1/volumes/db/export?snapshot=before", "", "")
	want(api.Change{Who: bob, What: "export-volume", Target: "db", Detail: "snapshot before", Bytes: 3000, Outcome: api.Done})
	_ = f.ask(worker, "GET", "/v1/store/backup", "", "")
	want(api.Change{Who: bob, What: "backup-store", Outcome: api.Refused, Code: "forbidden"})
	_ = f.ask(believing(f.pair(nodeA)), "GET", "/v1/volumes/db/export", "", "")
	want(api.Change{Who: nodeA.String(), What: "export-volume", Target: "db", Outcome: api.Refused, Code: "forbidden"})
	_ = f.ask(admin, "GET", "/v1/store/backup", "", "")
	want(api.Change{Who: operator(pki.Admin).String(), What: "backup-store", Bytes: 3000, Outcome: api.Done})
	fk.stream = func(_ context.Context, w io.Writer) error {
		_, err := w.Write(make([]byte, 1000))
		return errors.Join(err, dataset.Errorf(dataset.ErrOffline, "the pool went away"))
	}
	f.asksAndBreaksOff(worker, "/v1/volumes/db/export")
	want(api.Change{Who: bob, What: "export-volume", Target: "db", Bytes: 1000, Outcome: api.Failed, Code: "offline"})
	fk.err = dataset.Errorf(dataset.ErrNotFound, "no such volume")
	_ = f.ask(worker, "GET", "/v1/volumes/none/export", "", "")
	want(api.Change{Who: bob, What: "export-volume", Target: "none", Outcome: api.Failed, Code: "not_found"})
}

// The removal of a backup, and of the data that no backup needs, are in the log. There is no event for either: the
// host changes the repository, and control does not see it.
func TestAuditOfBackups(t *testing.T) {
	fk := newFake()
	f := newFlock(t, Deps{Service: fk, Local: fk})
	admin, id := believing(f.pair(operator(pki.Admin))), strings.Repeat("1f2e3d4c", 8)
	_ = f.ask(admin, "DELETE", "/v1/host/repositories/offsite/backups/"+id, "", "")
	_ = f.ask(admin, "POST", "/v1/host/repositories/offsite/prune", "", "{}")
	got := f.took()
	for i := range got {
		got[i].From = ""
	}
	who := operator(pki.Admin).String()
	want := []api.Change{
		{Who: who, What: "remove-backup", Target: id, Detail: "repository offsite", Outcome: api.Done},
		{Who: who, What: "prune-repository", Target: "offsite", Outcome: api.Done},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(api.Change{})); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
}

// asksAndBreaksOff makes a request whose answer ends early.
func (f *flock) asksAndBreaksOff(cfg *tls.Config, path string) {
	f.t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(f.t.Context(), "GET", "https://"+f.address+path, nil)
	require.NoError(f.t, err)
	resp, err := transport.RoundTrip(r)
	if err != nil { // the connection broke before anything was sent
		return
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		f.t.Error("the answer was whole")
	}
}

// Changes by an agent in the same process are in the log as well.
func TestAudited(t *testing.T) {
	fk := newFake()
	var got []api.Change
	s := Audited(fk, func(c api.Change) { got = append(got, c) })
	ctx := requestid.With(soon(t), "r-1")
	_, _ = s.Commit(ctx, nodeA.Node, api.Report{Operation: sampleOperation()})
	fk.err = dataset.Errorf(dataset.ErrForbidden, "no")
	_, _ = s.Submit(ctx, api.Request{Kind: dataset.OpDelete, Volume: "db"})
	_ = s.Register(ctx, api.Registration{Node: dataset.Node{Name: "a"}})
	_ = s.Record(ctx, nodeA.Node, api.Report{})
	_, _ = s.ReportSharedMount(ctx, nodeA.Node, api.SharedMountReport{})
	_, _ = s.Rebuild(ctx, nodeA.Node, nil, false)
	_, _ = s.CancelOperation(ctx, "f23c")
	var what []string
	for _, c := range got {
		what = append(what, c.What+" "+string(c.Outcome))
		if c.Who != "this process" || c.Request != "r-1" {
			t.Error(c.Who, c.Request)
		}
	}
	want := []string{"commit done", "submit-operation refused", "register-node refused", "record refused",
		"guest refused", "rebuild refused", "cancel-operation refused"}
	if diff := cmp.Diff(want, what); diff != "" {
		t.Error(diff)
	}
}
