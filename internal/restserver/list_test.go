package restserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/restserver"
)

// largest is a response that remembers its largest write.
type largest struct {
	*httptest.ResponseRecorder
	most int
}

func (l *largest) Write(p []byte) (int, error) {
	l.most = max(l.most, len(p))
	return l.ResponseRecorder.Write(p)
}

// A list is sent in parts, so that its length does not need memory, and a slow caller makes progress with each part.
func TestLongList(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	restictest.Make(t, dir, password)
	const n = 3000
	for i := range n {
		name := nameOf(fmt.Append(nil, i))
		check(t, os.WriteFile(filepath.Join(dir, "index", name), []byte("x"), 0o600))
	}
	w := &largest{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodGet, "/index/", nil)
	r.Header.Set("Accept", "application/vnd.x.restic.rest.v2")
	check(t, restserver.Open(dir, clock.NewFake(time.Now()), restserver.NewUploads("me")).Serve(w, r, "index/", restserver.Access{}))
	var list []struct {
		Name string
		Size int64
	}
	check(t, json.NewDecoder(bytes.NewReader(w.Body.Bytes())).Decode(&list))
	if len(list) != n || list[0].Size != 1 || len(list[0].Name) != 64 {
		t.Errorf("got %d files, the first %+v", len(list), list[0])
	}
	if w.most > 64<<10 {
		t.Errorf("a write has %d bytes", w.most)
	}
}

// A list whose request ends before its first part is sent gets the status of the refusal, and not an empty list.
func TestEndedList(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	restictest.Make(t, dir, password)
	check(t, os.WriteFile(filepath.Join(dir, "index", nameOf(nil)), nil, 0o600))
	d := restserver.Open(dir, clock.NewFake(time.Now()), restserver.NewUploads("me"))
	for _, kind := range []string{"index", "snapshots"} { // with a file, and empty
		ctx, end := context.WithCancelCause(t.Context())
		end(restserver.Refuse(http.StatusUnauthorized, "the grant was removed"))
		w := httptest.NewRecorder()
		check(t, d.Serve(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil), kind+"/", restserver.Access{}))
		if w.Code != http.StatusUnauthorized {
			t.Errorf("list of %s: got %d %q, want 401", kind, w.Code, w.Body)
		}
	}
}
