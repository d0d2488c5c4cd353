package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// logBuffer is a log at level debug that a test reads.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns the lines since the last call.
func (b *logBuffer) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.text.Reset()
	return strings.Split(strings.TrimSpace(b.text.String()), "\n")
}

func newLog() (*logrus.Logger, *logBuffer) {
	b, log := &logBuffer{}, logrus.New()
	log.SetOutput(b)
	log.SetLevel(logrus.DebugLevel)
	log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true})
	return log, b
}

// A request keeps the ID of its caller, if that is valid. The answer, a problem and the log have the same ID.
func TestRequestID(t *testing.T) {
	log, lines := newLog()
	var served string
	fk := newFake()
	h := Handler(Deps{Service: fk, Log: log, Audit: func(c api.Change) { served = c.Request }})
	ask := func(method, path, id, body string) (*httptest.ResponseRecorder, wire.Problem) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(requestid.Header, id)
		r = r.WithContext(api.WithPrincipal(r.Context(), api.Principal{Local: true, From: "uid 0"}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var p wire.Problem
		_ = json.Unmarshal(w.Body.Bytes(), &p) // an answer need not be a problem
		return w, p
	}
	fk.err = dataset.Errorf(dataset.ErrInUse, "db is in use")
	for what, c := range map[string][3]string{
		"refused by the service": {"DELETE", "/v1/volumes/db", ""},
		"no such endpoint":       {"DELETE", "/v1/nothing", ""},
		"not a body":             {"POST", "/v1/volumes", `{"volume":5}`},
		"bad path":               {"DELETE", "/v1//db", ""},
	} {
		for id, kept := range map[string]bool{"deploy-17": true, "": false, "a b": false, strings.Repeat("x", 65): false} {
			w, p := ask(c[0], c[1], id, c[2])
			got := w.Header().Get(requestid.Header)
			if w.Code < 400 || (got == id) != kept || !requestid.IsValid(got) || p.Request != got || served != got {
				t.Errorf("%s, %q: status %d, header %q, problem %q, audit log %q", what, id, w.Code, got, p.Request, served)
			}
			if l := lines.take(); len(l) != 1 || !strings.Contains(l[0], "request="+got) {
				t.Errorf("%s, %q: %q", what, id, l)
			}
		}
	}
}

// The client sends the ID of its context.
func TestClientSendsRequestID(t *testing.T) {
	log, lines := newLog()
	transports(t, Deps{Service: newFake(), Log: log}, func(t *testing.T, c *client.Client) {
		if _, err := c.Submit(requestid.With(soon(t), "deploy-17"), api.Request{Kind: dataset.OpDelete, Volume: "db"}); err != nil {
			t.Fatal(err)
		}
		if l := lines.take(); len(l) != 1 || !strings.Contains(l[0], "level=info") || !strings.Contains(l[0], "request=deploy-17") {
			t.Error(l)
		}
	})
}

// Each failure has one line. Its level says whether an operator must look: a refusal is info, and a failure that the
// calling agent logs is debug.
func TestLevels(t *testing.T) {
	log, lines := newLog()
	fk := newFake()
	f := newFlock(t, Deps{Service: fk, Local: fk, Log: log})
	bob, node := believing(f.pair(operator(pki.Worker))), believing(f.pair(nodeA))
	for _, c := range []struct {
		who  *tls.Config
		err  error
		want string
	}{
		{bob, nil, `level=info msg="request is done"`},
		{bob, dataset.Errorf(dataset.ErrInUse, "x"), `level=info msg="request was refused"`},
		{bob, dataset.Errorf(dataset.ErrPending, "x"), `level=info msg="request continues"`},
		{bob, dataset.Errorf(dataset.ErrUnavailable, "x"), `level=warning msg="request failed"`},
		{bob, io.ErrUnexpectedEOF, `level=error msg="request failed"`},
		{bob, failurelog.MarkLogged(io.ErrUnexpectedEOF), `level=debug msg="request failed"`},
		{node, nil, `level=debug msg="request is done"`},
		{node, io.ErrUnexpectedEOF, `level=debug msg="request failed"`},
		{believing(nil), nil, `level=debug msg="request was refused"`},
	} {
		fk.err = c.err
		_ = f.ask(c.who, "DELETE", "/v1/volumes/db", "", "")
		if l := lines.take(); len(l) != 1 || !strings.HasPrefix(l[0], c.want) {
			t.Errorf("%v: %q, want one line that begins %q", c.err, l, c.want)
		}
	}
}

// TestBy: the caller of a request is the user of the socket or the holder of the certificate. Only a node may name its
// caller, and only as somebody on that node.
func TestBy(t *testing.T) {
	ann := pki.Identity{Kind: pki.Operator, Name: "ann", Role: pki.Worker}
	for name, c := range map[string]struct {
		who          api.Principal
		header, want string
	}{
		"root":                      {api.Principal{Local: true, From: "uid 0"}, "", "root (uid 0)"},
		"user without a name":       {api.Principal{Local: true, From: "uid 4000000001"}, "", "uid 4000000001"},
		"user that is not known":    {api.Principal{Local: true, From: "user"}, "", "local user"},
		"user forges":               {api.Principal{Local: true, From: "uid 4000000001"}, "root (uid 0)", "uid 4000000001"},
		"operator forges":           {api.Principal{Identity: ann, From: "192.0.2.1:1"}, "operator bob", "operator ann"},
		"stranger":                  {api.Principal{From: "192.0.2.1:1"}, "operator bob", ""},
		"node":                      {api.Principal{Identity: nodeA}, "root (uid 0)", "root (uid 0) on a"},
		"node repeats":              {api.Principal{Identity: nodeA}, "root (uid 0) on a", "root (uid 0) on a"},
		"node names another one":    {api.Principal{Identity: nodeA}, "root (uid 0) on b", "root (uid 0) on b on a"},
		"node names an operator":    {api.Principal{Identity: nodeA}, "operator bob", "operator bob on a"},
		"node's own work":           {api.Principal{Identity: nodeA}, "", ""},
		"node sends an escape code": {api.Principal{Identity: nodeA}, "root\x1b[2J", ""},
	} {
		before := requestid.WithBy(t.Context(), "earlier request")
		ctx := withBy(before, c.who, http.Header{requestid.HeaderBy: {c.header}})
		if got := requestid.By(ctx); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	inProcess := withBy(requestid.WithBy(t.Context(), "engine docker"), api.Principal{Local: true}, http.Header{})
	if got := requestid.By(inProcess); got != "engine docker" {
		t.Errorf("within this process: %q", got)
	}
}

// callerFake remembers who made the last request.
type callerFake struct {
	*fake
	by string
}

func (f *callerFake) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	f.by = requestid.By(ctx)
	return f.fake.Submit(ctx, req)
}

// The client of an agent sends the name of its caller. The server of a socket ignores it.
func TestClientSendsBy(t *testing.T) {
	fk, sent := &callerFake{fake: newFake()}, ""
	h := Handler(Deps{Service: fk})
	c, _ := overSocket(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get(requestid.HeaderBy)
		h.ServeHTTP(w, r)
	}))
	ctx := requestid.WithBy(soon(t), "operator bob")
	if _, err := c.Submit(ctx, api.Request{Kind: dataset.OpDelete, Volume: "db"}); err != nil {
		t.Fatal(err)
	}
	if sent != "operator bob" || !strings.Contains(fk.by, "uid "+strconv.Itoa(os.Getuid())) {
		t.Errorf("sent %q, and the service got %q", sent, fk.by)
	}
}
