package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// routes serves the endpoints of a mux, and answers all other requests with a problem.
//
// http.ServeMux redirects a path that has "." or ".." segments, or empty ones, to the path without them. That
// path is another endpoint: DELETE /v1/trash/. would become DELETE /v1/trash. So routes refuses such a path
// before the mux sees it, even if it is escaped, since a proxy may unescape it.
type routes struct{ mux *http.ServeMux }

// newRoutes returns the routes of a mux, which must not have a pattern for all paths yet.
func newRoutes(mux *http.ServeMux) *routes {
	rt := &routes{mux}
	mux.HandleFunc(allPaths, rt.unknown)
	return rt
}

const allPaths = "/"

func (rt *routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !plainPath(r.URL.Path) {
		line := fmt.Sprintf("bad path %q: it has an empty segment, or one of dots alone (no name is empty, "+
			". or ..)", dataset.Clip(r.URL.Path))
		wire.NewProblem(dataset.ErrInvalid, http.StatusBadRequest, line).Write(w)
		return
	}
	rt.mux.ServeHTTP(w, r)
}

// plainPath reports whether an unescaped path begins with a slash, has no "." or ".." segments, and has no empty
// segment before its last one.
func plainPath(path string) bool {
	rest, rooted := strings.CutPrefix(path, "/")
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return false
		}
	}
	return rooted
}

// unknown answers a request that no endpoint accepts. The status is 405 if the path belongs to an endpoint. The
// code is not not_found: a client must not mistake a wrong path for a volume that does not exist.
func (rt *routes) unknown(w http.ResponseWriter, r *http.Request) {
	status, asked := http.StatusNotFound, dataset.Clip(r.Method)+" "+dataset.Clip(r.URL.Path)
	line := fmt.Sprintf("no such endpoint: %s (GET /v1/openapi.yaml lists all endpoints)", asked)
	if allowed := rt.methods(r); len(allowed) > 0 {
		status = http.StatusMethodNotAllowed
		line = fmt.Sprintf("wrong method: %s (this path takes %s)", asked, strings.Join(allowed, ", "))
		w.Header().Set("Allow", strings.Join(allowed, ", "))
	}
	wire.NewProblem(dataset.ErrInvalid, status, line).Write(w)
}

// methods lists the methods that the endpoints at the path of a request accept, sorted.
func (rt *routes) methods(r *http.Request) []string {
	candidates := []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPatch, http.MethodPost,
		http.MethodPut}
	return slices.DeleteFunc(candidates, func(method string) bool {
		_, pattern := rt.mux.Handler(&http.Request{Method: method, Host: r.Host, URL: r.URL})
		return pattern == allPaths
	})
}
