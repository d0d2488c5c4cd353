package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The client returns an error of the same kind and text as the service. Between them the error is a problem.
func TestEveryKindTravels(t *testing.T) {
	f := newFake()
	transports(t, Deps{Service: f, Local: f, Backup: f}, func(t *testing.T, c *client.Client) {
		for _, kind := range dataset.Kinds() {
			f.err = dataset.Errorf(kind, "volume %q: ä <b> 100%% wrong %w", "db", errors.New("inside"))
			for name, call := range map[string]func(context.Context) error{
				"json":   func(ctx context.Context) error { _, err := c.Volume(ctx, "db"); return err },
				"empty":  func(ctx context.Context) error { return c.Heartbeat(ctx, node1, api.Heartbeat{}) },
				"stream": func(ctx context.Context) error { _, err := c.Export(ctx, "db", "", new(strings.Builder)); return err },
				"events": func(ctx context.Context) error { return c.Events(ctx, 0, true, func(api.Event) error { return nil }) },
				"upload": func(ctx context.Context) error {
					_, err := c.Import(ctx, api.Request{Volume: "db"}, strings.NewReader("x"))
					return err
				},
			} {
				err := call(soon(t))
				if dataset.KindOf(err) != kind || err.Error() != f.err.Error() {
					t.Errorf("%s %s: %v %v", kind.Code, name, dataset.KindOf(err), err)
				}
			}
		}
	})
}

func TestProblemDetails(t *testing.T) {
	f := newFake()
	for _, kind := range dataset.Kinds() {
		f.err = dataset.Errorf(kind, "the line")
		resp, body := raw(t, Handler(Deps{Service: f}), "GET", "/v1/volumes/db", "")
		if resp.StatusCode != kind.HTTP || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s %s", kind.Code, resp.Status, resp.Header)
		}
		var p map[string]any
		require.NoError(t, json.Unmarshal([]byte(body), &p))
		want := map[string]any{"type": "urn:drover:problem:" + kind.Code, "title": kind.Title, "status": float64(kind.HTTP), "detail": "the line", "code": kind.Code}
		if fmt.Sprint(p) != fmt.Sprint(want) {
			t.Errorf("%v\nwant %v", p, want)
		}
	}
}

// Joined errors are sent as one line.
func TestJoinedErrorsAreOneLine(t *testing.T) {
	f := newFake()
	f.err = errors.Join(dataset.Errorf(dataset.ErrInUse, "volume db is in use"), errors.New("and could not be looked at"))
	c := loopback.New(Handler(Deps{Service: f}))
	defer c.Close()
	_, err := c.Volume(soon(t), "db")
	if want := "volume db is in use; and could not be looked at"; !errors.Is(err, dataset.ErrInUse) || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if p := dataset.ProblemOf(f.err); p.Message != err.Error() {
		t.Errorf("on record: %q", p.Message)
	}
}

// A text that is too long is truncated between characters and says so, also for an internal error.
func TestLongErrorsAreCut(t *testing.T) {
	long := errors.New("cannot be read: " + strings.Repeat("/verzeichnis-ä", 5000))
	for _, err := range []error{long, dataset.Errorf(dataset.ErrInUse, "%w", long), errors.Join(long, dataset.Errorf(dataset.ErrNoSpace, "full"), long)} {
		f := newFake()
		f.err = err
		c := loopback.New(Handler(Deps{Service: f}))
		_, got := c.Volume(soon(t), "db")
		c.Close()
		text := got.Error()
		if len(text) > 4<<10 || len(text) < 4<<10-3 || !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError) ||
			!strings.HasPrefix(text, "cannot be read: /verz") || !strings.HasSuffix(text, " bytes)") || !strings.Contains(text, "... (cut off: ") {
			t.Errorf("%d bytes: %.40s ... %s", len(text), text, text[len(text)-40:])
		}
		if !errors.Is(got, dataset.KindOf(err)) {
			t.Errorf("%v is no %s any more", got, dataset.KindOf(err).Code)
		}
	}
}

// An error without a kind is internal. Only the first line is sent, without a stack.
func TestInternalErrorKeepsItsLine(t *testing.T) {
	f := newFake()
	f.err = errors.New("disk on fire\ngoroutine 1 [running]:\nmain.go:1")
	c := loopback.New(Handler(Deps{Service: f}))
	defer c.Close()
	_, err := c.Volume(soon(t), "db")
	if dataset.KindOf(err) != dataset.ErrInternal || err.Error() != "disk on fire" {
		t.Error(err)
	}
}

// Every invalid request is answered with a problem of one line, and does not reach the service.
func TestBadRequests(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f, Backup: f})
	many := `{"volume":"db"`
	for i := range 50 {
		many += fmt.Sprintf(`,"f%d":%d`, i, i)
	}
	nodes := "/v1/nodes/" + node1.String()
	for _, c := range []struct {
		method, path, body string
		status             int
		detail             string
	}{
		{"POST", "/v1/volumes", `{"volume":"db","colour":"red"}`, 422, "bad request: unknown field body.colour"},
		{"POST", "/v1/volumes", `{"volume":"db","colour":1,"age":2}`, 422, "bad request: unknown field body.age; unknown field body.colour"},
		{"POST", "/v1/volumes", many + "}", 422, "bad request: unknown field body.f0; unknown field body.f1; unknown field body.f10; unknown field body.f11; unknown field body.f12; and 45 more"},
		{"POST", "/v1/volumes", `{}`, 422, "bad request: body: expected required property volume to be present"},
		{"POST", "/v1/volumes", `{"volume":5}`, 422, "bad request: body.volume: expected string"},
		{"POST", "/v1/volumes", `{"volume":"db","options":{"a":1}}`, 422, "bad request: body.options.a: expected string"},
		{"POST", "/v1/volumes", ``, 400, "request body is required"},
		{"POST", "/v1/volumes", `{"volume":`, 400, "bad request: body: bad JSON: unexpected EOF"},
		{"POST", "/v1/volumes", `nope`, 400, "bad request: body: bad JSON at byte 2: invalid character 'o' in literal null (expecting 'u')"},
		{"POST", "/v1/volumes", `{"volume":"db"}{}`, 400, "bad request: body: bad JSON: more than one value"},
		{"POST", "/v1/volumes?operation=x", `{"volume":"db"}`, 422, "bad request: query.operation: invalid value: invalid UUID length: 1"},
		{"POST", "/v1/volumes?opertion=x", `{"volume":"db"}`, 422, "bad request: query.opertion: unknown query parameter"},
		{"POST", "/v1/operations", `{"kind":"explode"}`, 422, `bad request: body.kind: expected value to be one of "create, clone, import, snapshot, snapshot-delete, restore, resize, rekey, backup, push, verify, update, rena...`},
		{"POST", "/v1/operations", `{"kind":"delete","id":"x"}`, 422, ""},
		{"GET", "/v1/volumes?limit=1001", "", 422, "bad request: query.limit: expected number <= 1000"},
		{"GET", "/v1/volumes?limit=-1", "", 422, "bad request: query.limit: expected number >= 0"},
		{"GET", "/v1/volumes?limit=x", "", 422, "bad request: query.limit: invalid integer"},
		{"GET", "/v1/operations/x?wait=forever", "", 422, `bad wait "forever": want a duration of at most 10m0s, such as 30s`},
		{"GET", "/v1/operations/x?wait=1h", "", 422, `bad wait "1h": want a duration of at most 10m0s, such as 30s`},
		{"GET", "/v1/operations/x?wait=-1s", "", 422, ""},
		{"POST", nodes + "/plan", `{"kind":"create","colour":"red"}`, 422, `bad request: body: bad JSON: unknown field "colour"`},
		{"POST", nodes + "/commit", `[]`, 422, ""},
		{"POST", nodes + "/plan", `{"kind":"create"} x`, 422, "bad request: body: bad JSON: more than one value"},
		{"POST", "/v1/nodes/x/plan", `{"kind":"create"}`, 422, "bad request: path.node: invalid value: invalid UUID length: 1"},
		{"POST", nodes + "/register", `{"node":{"id":"f23ca986-1b7f-4f7e-9a43-0f3f5a1c2d3e"}}`, 422, "registration of node f23ca986-1b7f-4f7e-9a43-0f3f5a1c2d3e at the endpoint of node " + node1.String()},
		{"DELETE", "/v1/doctor/f23c", "", 422, "bad request: path.dataset: invalid value: invalid UUID length: 4"},
		{"POST", "/v1/volumes/db/upload?o=x", "", 422, `bad option "x": want KEY=VALUE`},
		{"POST", "/v1/volumes/db/upload?dry_run=true", "", 422, "bad request: query.dry_run: unknown query parameter"},
		{"GET", "/v1/events?after=-1", "", 422, "bad request: query.after: invalid integer"},
		{"GET", "/v2/volumes", "", 404, "no such endpoint: GET /v2/volumes (GET /v1/openapi.yaml lists all endpoints)"},
		{"PUT", "/v1/volumes", "", 405, "wrong method: PUT /v1/volumes (this path takes GET, HEAD, POST)"},
		{"DELETE", "/v1/trash/.", "", 400, `bad path "/v1/trash/.": it has an empty segment, or one of dots alone (no name is empty, . or ..)`},
		{"GET", "/metrics", "", 404, ""},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			resp, body := raw(t, h, c.method, c.path, c.body)
			var p wire.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || resp.Header.Get("Content-Type") != wire.ProblemType {
				t.Fatalf("%v: %s %s", err, resp.Header, body)
			}
			if resp.StatusCode != c.status || p.Status != c.status || p.Code != "invalid" || strings.ContainsAny(p.Detail, "\n\r") {
				t.Errorf("%s: %+v", resp.Status, p)
			}
			if c.detail != "" && p.Detail != c.detail {
				t.Errorf("got  %s\nwant %s", p.Detail, c.detail)
			}
			if got := f.take(); got != nil {
				t.Errorf("the service was asked: %v", got)
			}
		})
	}
}

func TestContentType(t *testing.T) {
	h := Handler(Deps{Service: newFake()})
	r := httptest.NewRequest("POST", "/v1/volumes", strings.NewReader(`{"volume":"db"}`))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // what curl -d sends
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 415 || !strings.Contains(w.Body.String(), "unknown content type: application/x-www-form-urlencoded (want application/json)") {
		t.Error(w.Code, w.Body)
	}
}

// endless is a body without an end that counts how much of it was read.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	e.read += len(b)
	return len(b), nil
}

func TestBodiesAreBounded(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f})
	for path, most := range map[string]int{
		"/v1/volumes":                                1 << 20,
		"/v1/operations":                             1 << 20,
		"/v1/clones":                                 1 << 20,
		"/v1/pools":                                  1 << 20,
		"/v1/trash/x/restore":                        1 << 20,
		"/v1/nodes/" + node1.String() + "/plan":      1 << 20,
		"/v1/nodes/" + node1.String() + "/commit":    1 << 20,
		"/v1/nodes/" + node1.String() + "/record":    1 << 20,
		"/v1/nodes/" + node1.String() + "/heartbeat": maxHeartbeatBytes,
		"/v1/nodes/" + node1.String() + "/register":  1 << 20,
	} {
		body := &endless{}
		r := httptest.NewRequest("POST", path, body)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), `"code":"invalid"`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if body.read > most+1<<20 {
			t.Errorf("%s: read %d bytes", path, body.read)
		}
	}
	if got := f.take(); got != nil {
		t.Error(got)
	}
}

func TestPanicIsAProblem(t *testing.T) {
	f := newFake()
	f.block = func(context.Context) error { panic("the cat\nwas on the keyboard") }
	var said []string
	h := Handler(Deps{Service: f, Local: f, Panicked: func(_ context.Context, request string, v any, stack []byte) {
		said = append(said, fmt.Sprintln(request, v, strings.Contains(string(stack), "errors_test.go")))
	}})
	transportsOf(t, h, func(t *testing.T, c *client.Client) {
		_, err := c.Volume(soon(t), "db")
		if dataset.KindOf(err) != dataset.ErrInternal || strings.Contains(err.Error(), "cat") {
			t.Error(err)
		}
		if _, err := c.Export(soon(t), "db", "", new(strings.Builder)); dataset.KindOf(err) != dataset.ErrInternal {
			t.Error(err)
		}
	})
	if len(said) != 4 || said[0] != "GET /v1/volumes/db the cat\nwas on the keyboard true\n" {
		t.Errorf("%q", said)
	}
}

// If a handler panics during its answer, the part that was sent must not look complete.
func TestPanicAmidAnAnswer(t *testing.T) {
	h := (&frontHandler{next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"version":"1`))
		panic("oops")
	})})
	transportsOf(t, h, func(t *testing.T, c *client.Client) {
		if _, err := c.Version(soon(t)); dataset.KindOf(err) != dataset.ErrUnavailable {
			t.Error(err)
		}
	})
}

// transportsOf is transports for any handler.
func transportsOf(t *testing.T, h http.Handler, test func(*testing.T, *client.Client)) {
	t.Helper()
	t.Run("loopback", func(t *testing.T) {
		c := loopback.New(h)
		defer c.Close()
		test(t, c)
	})
	t.Run("socket", func(t *testing.T) {
		c, _ := overSocket(t, h)
		test(t, c)
	})
}

func TestNoAgentNoStore(t *testing.T) {
	c := loopback.New(Handler(Deps{Service: newFake()}))
	defer c.Close()
	ctx := soon(t)
	_, doctor := c.Doctor(ctx)
	_, pool := c.CreatePool(ctx, api.NewPool{})
	_, _, adopt := c.AdoptPool(ctx, "/p", false)
	_, rebuild := c.RebuildStore(ctx, api.RebuildStore{})
	_, imported := c.Import(ctx, api.Request{Volume: "db"}, strings.NewReader(""))
	_, diff := c.Diff(ctx, "a", "b")
	_, exported := c.Export(ctx, "db", "", nil)
	_, token := c.MakeToken(ctx, api.NewToken{})
	_, joined := c.Join(ctx, api.Join{})
	_, renewed := c.Certify(ctx, node1, api.Certification{})
	_, trust := c.Trust(ctx)
	_, removed := c.RemoveNode(ctx, "a", api.NodeRemoval{})
	_, collected := c.Collect(ctx, node1, false)
	for i, err := range []error{doctor, pool, adopt, rebuild, imported, diff, collected, exported, c.Backup(ctx, nil), token, joined, renewed, trust, removed, c.RevokeOperator(ctx, "a")} {
		if dataset.KindOf(err) != dataset.ErrUnsupported {
			t.Error(i, err)
		}
	}
	for way, err := range map[string]error{"run the command on a node, or send the request there (without DROVER_API and --api": doctor, "as root of a control host with DROVER_API=unix:///run/drover/control.sock": token} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("%v; want %q", err, way)
		}
	}
}

// An answer that is not Drover's is never taken for one. ErrNotFound is returned only if the store reported it.
func TestStrangeAnswers(t *testing.T) {
	for status, kind := range map[int]*dataset.Kind{
		404: dataset.ErrInternal, 301: dataset.ErrInternal, 403: dataset.ErrInternal, 502: dataset.ErrUnavailable, 503: dataset.ErrUnavailable,
	} {
		c := loopback.New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://elsewhere/")
			http.Error(w, "<html>", status)
		}))
		_, err := c.Volume(soon(t), "db")
		if dataset.KindOf(err) != kind {
			t.Errorf("%d: %v", status, err)
		}
		c.Close()
	}
	c := loopback.New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer c.Close()
	if _, err := c.Volume(soon(t), "db"); dataset.KindOf(err) != dataset.ErrInternal {
		t.Error(err)
	}
}

// deadlines records the read deadlines that a handler sets.
type deadlines struct {
	http.ResponseWriter
	last time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error { d.last = t; return nil }

// A read deadline that stays after the body ends the context of a handler that runs longer: net/http takes it for
// the end of the connection.
func TestNoReadDeadlineOutlivesTheBody(t *testing.T) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f})
	for path, body := range map[string]string{
		"/v1/volumes":         `{"volume":"db"}`,
		"/v1/adoptions":       `{"path":"/p"}`,
		"/v1/trash/x/restore": "",
		"/v1/nodes/" + node1.String() + "/commit": "{}",
		"/v1/volumes/db/upload":                   "x",
	} {
		d := &deadlines{ResponseWriter: httptest.NewRecorder()}
		f.block = func(context.Context) error {
			if !d.last.IsZero() {
				t.Errorf("%s: the service is asked with a deadline of %s", path, d.last)
			}
			return nil
		}
		h.ServeHTTP(d, httptest.NewRequest("POST", path, strings.NewReader(body)))
		if f.take() == nil {
			t.Error(path, "was not asked")
		}
	}
}

// TestOpenAPIIsServed also checks what generators of clients depend on.
func TestOpenAPIIsServed(t *testing.T) {
	h := Handler(Deps{Service: newFake()})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.yaml", nil))
	want, _ := OpenAPI().YAML()
	if w.Code != 200 || w.Body.String() != string(want) || w.Header().Get("Content-Type") != "application/openapi+yaml" {
		t.Errorf("yaml: %d %s, %d bytes of %d", w.Code, w.Header(), w.Body.Len(), len(want))
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/openapi.json", nil))
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Description string
			Tags        []string
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 {
		t.Fatal(w.Code, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %s", doc.OpenAPI)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || op.Summary == "" || op.Description == "" || len(op.Tags) != 1 || op.Responses["4XX"] == nil || op.Responses["5XX"] == nil {
				t.Errorf("%s %s: %+v", method, path, op)
			}
		}
	}
	for name := range doc.Components.Schemas {
		if strings.Contains(w.Body.String(), `"ErrorModel"`) || strings.HasSuffix(name, "Request") && name != "Request" {
			t.Errorf("schema %s", name)
		}
	}
}
