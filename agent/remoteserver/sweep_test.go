package remoteserver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/agent/remoteserver"
	"github.com/droverhq/drover/dataset"
)

// The first upload with a quota uses the count that the server makes at its start.
func TestFirstUploadUsesTheCountOfTheStart(t *testing.T) {
	w := serve(t)
	w.grants = w.with(func(g *dataset.Grant) { g.Quota = 20_000 })
	write := func(name string, size int) string {
		t.Helper()
		file := filepath.Join(w.repositories[0].URL, name)
		if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	left := write("snapshots/"+strings.Repeat("0", 64)+".drover-upload-me-X", 0)
	log, _ := logtest.NewNullLogger()
	s := remoteserver.New(remoteserver.Deps{Records: w.records, Clock: w.clock, Log: log, ID: "me"})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { s.Run(ctx) })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(left); os.IsNotExist(err) {
			break
		} else if time.Now().After(end) {
			t.Fatal("the file of an interrupted upload stays")
		}
	}
	write("index/other", 30_000) // another count would find it
	content := make([]byte, 5_000)
	sum := sha256.Sum256(content)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ann/data/"+hex.EncodeToString(sum[:]),
		bytes.NewReader(content))
	r.SetBasicAuth("ann", secret)
	out := httptest.NewRecorder()
	if s.ServeHTTP(out, r); out.Code != http.StatusOK {
		t.Errorf("got %d %q, want 200", out.Code, out.Body)
	}
}
