package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

// changing is a request to each endpoint whose work can continue as an operation.
var changing = []struct {
	route endpoint.Endpoint
	path  string
	body  string
}{
	{endpoint.CreateVolume.Endpoint, "/v1/volumes", `{"volume":"db"}`},
	{endpoint.DeleteVolume.Endpoint, "/v1/volumes/db", ""},
	{endpoint.ResizeVolume.Endpoint, "/v1/volumes/db/resize", `{"size":"30GiB"}`},
	{endpoint.RekeyVolume.Endpoint, "/v1/volumes/db/rekey", `{}`},
	{endpoint.BackUpVolume.Endpoint, "/v1/volumes/db/backups", `{"repository":"offsite"}`},
	{endpoint.PushVolume.Endpoint, "/v1/volumes/db/pushes", `{"repository":"offsite","name":"prod"}`},
	{endpoint.VerifyBackup.Endpoint, "/v1/volumes/db/verify", `{"repository":"offsite","backup":"5f1c"}`},
	{endpoint.SetVolumeProfile.Endpoint, "/v1/volumes/db/set-profile", `{"profile":"silver"}`},
	{endpoint.RenameVolume.Endpoint, "/v1/volumes/db/rename", `{"name":"new"}`},
	{endpoint.DropAlias.Endpoint, "/v1/volumes/db/aliases/old", ""},
	{endpoint.ProtectVolume.Endpoint, "/v1/volumes/db/protect", `{"protect":true}`},
	{endpoint.ImportVolume.Endpoint, "/v1/volumes/db/import", `{"path":"/p"}`},
	{endpoint.CreateSnapshot.Endpoint, "/v1/volumes/db/snapshots", `{}`},
	{endpoint.DeleteSnapshot.Endpoint, "/v1/snapshots/f23c", ""},
	{endpoint.RestoreSnapshot.Endpoint, "/v1/snapshots/f23c/restore", `{"volume":"db"}`},
	{endpoint.CreateClone.Endpoint, "/v1/clones", `{"source":"f23c","volume":"copy"}`},
	{endpoint.RestoreTrash.Endpoint, "/v1/trash/f23c/restore", ""},
	{endpoint.PurgeTrash.Endpoint, "/v1/trash/f23c", ""},
	{endpoint.EmptyTrash.Endpoint, "/v1/trash", ""},
	{endpoint.SubmitOperation.Endpoint, "/v1/operations", `{"kind":"delete","volume":"db"}`},
	{endpoint.CancelOperation.Endpoint, "/v1/operations/f23c/cancel", ""},
	{endpoint.Recall.Endpoint, "/v1/nodes/" + node1.String() + "/recall", `{}`},
}

// An endpoint answers 202 with a Location while an operation carries out the work, and 200 once the operation has
// ended. The OpenAPI document says so of these endpoints, and of no others.
func TestWorkThatContinuesIsAccepted(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f})
	f.outcome.Operation = &f.op
	var byID []string
	for _, c := range changing {
		byID = append(byID, c.route.ID)
		for state, want := range map[dataset.OpState]int{
			dataset.OpPending: 202, dataset.OpRunning: 202, dataset.OpDone: 200, dataset.OpFailed: 200, dataset.OpCancelled: 200,
		} {
			f.op.State = state
			location := "/v1/operations/" + f.op.ID.String()
			if c.route.ID == endpoint.EmptyTrash.ID {
				location = "/v1/operations"
			}
			if want == 200 {
				location = ""
			}
			resp, body := raw(t, h, c.route.Method, c.path, c.body)
			if resp.StatusCode != want || resp.Header.Get("Location") != location || !strings.Contains(body, string(state)) {
				t.Errorf("%s with an operation that is %s: got %s and Location %q, want %d and %q\n%s", c.route.ID, state,
					resp.Status, resp.Header.Get("Location"), want, location, body)
			}
		}
	}
	var stated []string
	for _, e := range endpoints(t) {
		if e.accepts {
			stated = append(stated, e.id)
		}
	}
	slices.Sort(byID)
	slices.Sort(stated)
	if d := cmp.Diff(byID, stated); d != "" {
		t.Errorf("endpoints with the response 202 (-tested +in the document):\n%s", d)
	}
}

// Without an operation there was nothing to do.
func TestWorkWithoutAnOperation(t *testing.T) {
	resp, body := raw(t, Handler(Deps{Service: newFake()}), "POST", "/v1/volumes", `{"volume":"db"}`)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Location") != "" {
		t.Error(resp.Status, resp.Header, body)
	}
}

// An error that names an operation arrives as the same error, with the operation. Its status is that of an error.
func TestPendingErrorNamesTheOperation(t *testing.T) {
	f := newFake()
	const line = "volume db is being moved: try again"
	f.err = errors.Join(dataset.PendingOn(node1, line))
	resp, body := raw(t, Handler(Deps{Service: f}), "POST", "/v1/volumes", `{"volume":"db"}`)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Location") != "/v1/operations/"+node1.String() ||
		resp.Header.Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(body, `"status":503`) || !strings.Contains(body, `"code":"pending","operation":"`+node1.String()+`"`) {
		t.Error(resp.Status, resp.Header, body)
	}
	transports(t, Deps{Service: f}, func(t *testing.T, c *client.Client) {
		_, submit := c.Submit(soon(t), api.Request{Kind: dataset.OpMove, Volume: "db"})
		_, guest := c.ReportSharedMount(soon(t), node1, api.SharedMountReport{})
		for _, err := range []error{submit, guest} {
			if !errors.Is(err, dataset.ErrPending) || err.Error() != line || dataset.ContinuesAs(err) != node1 {
				t.Errorf("got %v (operation %s), want %q and operation %s", err, dataset.ContinuesAs(err), line, node1)
			}
		}
	})
}

// The client follows work that continues: it returns the operation, and no error.
func TestClientTakesAcceptedWork(t *testing.T) {
	f := newFake()
	f.op.State = dataset.OpPending
	f.outcome.Operation = &f.op
	transports(t, Deps{Service: f}, func(t *testing.T, c *client.Client) {
		out, err := c.Submit(soon(t), api.Request{Kind: dataset.OpCreate, Volume: "db"})
		if err != nil || out.Operation == nil || out.Operation.State != dataset.OpPending {
			t.Errorf("got %+v, %v", out, err)
		}
		op, err := c.CancelOperation(soon(t), "f23c")
		if err != nil || op.ID != f.op.ID {
			t.Errorf("got %+v, %v", op, err)
		}
	})
}
