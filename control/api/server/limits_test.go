package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// A caller without a valid certificate is answered at once. It cannot keep a connection open with a body that
// never arrives, also not at an unknown endpoint.
func TestStrangersBodies(t *testing.T) {
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), flockStart)
	require.NoError(t, err)
	pair, err := ca.Issue(controlC, flockStart)
	require.NoError(t, err)
	own := pki.NewCredentials(pair, fakes.NewClock(flockStart), nil)
	h := Handler(Deps{Service: newFake(), Peer: own.VerifyPeer})
	h.(*frontHandler).patience = 50 * time.Millisecond
	address := serveTLS(t, h, own)
	for _, begin := range []string{
		"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
		"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PUT /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"GET /v1/volumes HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := tls.Dial("tcp", address, believing(nil))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(conn, begin)
		require.NoError(t, err)
		from := bufio.NewReader(conn)
		resp, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(begin, err)
		}
		if resp.StatusCode < 400 || !resp.Close {
			t.Error(begin, resp.Status, resp.Close)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		assert.NoError(t, err)
		resp.Body.Close()
		if _, err := from.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%q holds its connection: %v", begin, err)
		}
	}
}

// The concurrent requests of one member are limited, whatever they are. Others can continue.
func TestRequestsAtOnce(t *testing.T) {
	fk := newFake()
	f := newFlock(t, Deps{Service: fk, Local: fk})
	path := "/v1/nodes/" + nodeA.Node.String() + "/"
	all := []fewAtOnce{{maxRequests, "sync?wait=1m", "has 256 requests in progress"}}
	for _, c := range append(all, largeReports()...) {
		in, out := make(chan struct{}), make(chan struct{})
		fk.mu.Lock()
		fk.block = func(context.Context) error { in <- struct{}{}; <-out; return nil }
		fk.mu.Unlock()
		var all sync.WaitGroup
		method, body := "POST", map[bool]string{true: "[]", false: "{}"}[c.what == "rebuild"]
		if strings.HasPrefix(c.what, "sync") {
			method, body = "GET", ""
		}
		a := believing(f.pair(nodeA))
		for range c.most {
			all.Go(func() {
				assert.NoError(t, f.ask(a, method, path+c.what, "", body))
			})
			<-in
		}
		if err := f.ask(a, method, path+c.what, "", body); !errors.Is(err, dataset.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		fk.mu.Lock()
		fk.block = nil
		fk.mu.Unlock()
		assert.NoError(t, f.ask(believing(f.pair(nodeB)), "GET", "/v1/volumes", "", ""))
		close(out)
		all.Wait()
		assert.NoErrorf(t, f.ask(a, method, path+c.what, "", body), "after the others have ended")
	}
}

// fewAtOnce is an endpoint for agents with a limit on the concurrent requests of one member.
type fewAtOnce struct {
	most       int
	what, want string
}

// largeReports returns the endpoints whose reports can be large, so that only a few are read at once.
func largeReports() []fewAtOnce {
	return []fewAtOnce{
		{maxHeartbeats, "heartbeat", "node a (" + nodeA.Node.String() + ") has 4 heartbeats in progress, the maximum (try again when one has ended)"},
		{maxRebuilds, "rebuild", "has 1 rebuilds in progress"},
		{maxHoldings, "hold", "has 1 holdings in progress"},
	}
}

// What a node holds is read only while a recovery asks for it.
func TestHoldingsAreRefusedUnread(t *testing.T) {
	var refusal error
	f := newFlock(t, Deps{Service: newFake(), CheckCollecting: func() error { return refusal }})
	a, path := believing(f.pair(nodeA)), "/v1/nodes/"+nodeA.Node.String()+"/hold"
	assert.ErrorIsf(t, f.ask(a, "POST", path, "", "{"), dataset.ErrInvalid, "read")
	refusal = dataset.Errorf(dataset.ErrConflict, "nobody asks")
	if err := f.ask(a, "POST", path, "", "{"); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "nobody asks") {
		t.Error("unread:", err)
	}
}

// The size of each report is limited, and the answer says what the limit is. Few large reports are read at once;
// TestRequestsAtOnce uses the same list.
func TestReportsAreBounded(t *testing.T) {
	f := newFlock(t, Deps{Service: newFake()})
	text, err := register(http.NewServeMux(), Deps{}).JSON()
	var doc struct {
		Paths map[string]map[string]struct {
			Tags        []string
			RequestBody any
		}
	}
	err = errors.Join(err, json.Unmarshal(text, &doc))
	require.NoError(t, err)
	long := `{"x":"` + strings.Repeat("a", maxReportBytes) + `"}`
	bounded, large := 0, map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if !slices.Contains(op.Tags, "agents") || op.RequestBody == nil || path == "/v1/join" { // of who is no node yet
				continue
			}
			what, ours := strings.CutPrefix(path, "/v1/nodes/{node}/")
			if !ours {
				t.Fatal(path, "is for agents, and of no node: how it is bounded is not looked at here")
			}
			err := f.ask(believing(f.pair(nodeA)), strings.ToUpper(method), "/v1/nodes/"+nodeA.Node.String()+"/"+what, "", long)
			if !errors.Is(err, dataset.ErrInvalid) {
				t.Errorf("%s: %v", path, err)
			} else if strings.Contains(err.Error(), "262144") || strings.Contains(err.Error(), "32768") {
				bounded++
			} else {
				large[what] = true
			}
		}
	}
	for _, c := range largeReports() {
		if !large[c.what] {
			t.Errorf("%s takes no more than other reports: it must not be among the large ones", c.what)
		}
		delete(large, c.what)
	}
	if len(large) > 0 || bounded < 10 {
		t.Errorf("%d endpoints are bounded, and these take more, any number at once: %v", bounded, slices.Collect(maps.Keys(large)))
	}
}

// Endpoints outside of the document have a rule as well. Nodes cannot read the metrics of control, which contain
// the names of all volumes.
func TestPlainEndpointsHaveRules(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "drover_build_info 1\n") })
	f := newFlock(t, Deps{Service: newFake(), Metrics: metrics})
	for path, want := range map[string][]bool{"/metrics": {false, true}, "/v1/openapi.json": {true, true}, "/v1/openapi.yaml": {true, true}} {
		for i, id := range []pki.Identity{nodeA, operator(pki.Viewer)} {
			err := f.ask(believing(f.pair(id)), "GET", path, "", "")
			if want[i] != (err == nil) || err != nil && !strings.Contains(err.Error(), "may not read the metrics: that is not for agents") {
				t.Errorf("%s of %s: %v", path, id, err)
			}
		}
		assert.ErrorIsf(t, f.ask(believing(nil), "GET", path, "", ""), dataset.ErrForbidden, "%s", path)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// transports runs a test against the handlers of d, once in this process and once over a unix socket.
func transports(t *testing.T, d Deps, test func(*testing.T, *client.Client)) {
	t.Helper()
	t.Run("loopback", func(t *testing.T) {
		c := loopback.New(Handler(d))
		defer c.Close()
		test(t, c)
	})
	t.Run("socket", func(t *testing.T) {
		c, _ := overSocket(t, Handler(d))
		test(t, c)
	})
}

// overSocket serves h on a unix socket until the test ends.
func overSocket(t *testing.T, h http.Handler) (*client.Client, *http.Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := New(h)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := client.New("unix://" + path)
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return c, s
}

// soon returns a context for calls that end soon.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
