package remoteserver_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/agent/remoteserver"
	"github.com/droverhq/drover/dataset"
)

// The list of grants shows the last use since the start, and the size of the repository once it is counted. A grant that
// was replaced by another one with the same name is not used.
func TestUses(t *testing.T) {
	w := serve(t)
	w.grants = w.with(func(g *dataset.Grant) { g.Quota = 1 << 20 })
	log, _ := logtest.NewNullLogger()
	s := remoteserver.New(remoteserver.Deps{Records: w.records, Clock: w.clock, Log: log, ID: "me"})
	started := w.clock.Now()
	want := func(last time.Time, used dataset.Size) {
		t.Helper()
		list := s.WithUses(w.grants)
		if got := list[0].Use; !got.Since.Equal(started) || !got.Last.Equal(last) || got.Used != used {
			t.Errorf("got %+v, want the last use %s and %d bytes", got, last, used)
		}
		if bob := list[1].Use; !bob.Last.IsZero() {
			t.Errorf("a grant that is not used: got %+v", bob)
		}
		if w.grants[0].Use != nil {
			t.Error("the list was changed")
		}
	}
	request := func(status int, method, path string) time.Time {
		t.Helper()
		w.clock.Advance(time.Minute)
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		r.SetBasicAuth("ann", secret)
		out := httptest.NewRecorder()
		s.ServeHTTP(out, r)
		if out.Code != status {
			t.Errorf("%s %s: got %d %q, want %d", method, path, out.Code, out.Body, status)
		}
		return w.clock.Now()
	}
	want(time.Time{}, 0)
	want(request(http.StatusOK, http.MethodGet, "/ann/snapshots/"), 0)
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	want(request(http.StatusOK, http.MethodPost, "/ann/data/"+empty), 2*4096) // the key and the file
	w.set(slices.Clone(w.with(func(g *dataset.Grant) { g.SecretHash = w.grants[1].SecretHash[1:] + "1" }))...)
	want(time.Time{}, 0)
}
