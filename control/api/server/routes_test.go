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

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/test/require"
)

// over sends the bytes of a request unchanged, which no client of Go would do, and returns the answer.
func over(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
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
