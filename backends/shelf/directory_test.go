package shelf

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A pool does not count as absent while its marker is rewritten.
func TestMarkerThatIsWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	s, err := Open(backends.Config{Name: "test", Path: path, Make: true}, "test")
	require.NoError(t, err)
	s.markerMu.Lock()
	marker := filepath.Join(path, MarkerFile)
	require.NoError(t, os.Rename(marker, marker+".away"))
	looked := make(chan dataset.PoolStatus)
	go func() { looked <- s.Status() }()
	select {
	case st := <-looked:
		t.Fatalf("it did not wait: %+v", st)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, os.Rename(marker+".away", marker))
	s.markerMu.Unlock()
	if st := <-looked; !st.Online {
		t.Error(st.Reason)
	}
}
