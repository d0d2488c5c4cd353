package bolt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
)

// TestReleasePages: after a release, no page of the file is mapped, and everything is read as before, also while others
// read and write.
func TestReleasePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	st, err := bolt.Open(t.Context(), path, bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := range 50 {
				key, value := fmt.Sprintf("key/%d/%03d", w, i), strings.Repeat("x", 4000)
				if _, err := st.Txn(t.Context(), nil, []store.Write{{Key: key, Value: []byte(value)}}); err != nil {
					t.Errorf("write %s: %v", key, err)
				}
				if err := st.ReleasePages(); err != nil {
					t.Error(err)
				}
				if e, err := st.Get(t.Context(), key); err != nil || string(e.Value) != value {
					t.Errorf("read %s after a release: %d bytes, %v", key, len(e.Value), err)
				}
			}
		})
	}
	work.Wait()
	if got := mappedKiB(t, path); got == 0 {
		t.Error("no page is mapped after 200 reads: the test measures nothing")
	}
	if err := st.ReleasePages(); err != nil {
		t.Fatal(err)
	}
	// The read transaction of the release itself may map the root again.
	if got := mappedKiB(t, path); got > 64 {
		t.Errorf("%d KiB of the file are mapped after the release", got)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := st.ReleasePages(); err != nil {
		t.Errorf("release of a closed store: %v", err)
	}
}

// mappedKiB returns how much of a file is in the memory of this process, in KiB.
func mappedKiB(t *testing.T, path string) (sum int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)`+regexp.QuoteMeta(path)+`\n(?:.*\n)*?Rss: +(\d+) kB`).FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
