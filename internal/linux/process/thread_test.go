package process_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/process"
)

// Each function has a thread of its own, never the main one, and the thread ends.
func TestRun(t *testing.T) {
	for range 50 {
		id := 0
		process.RunOnThread(func() { id = unix.Gettid() })
		if id == 0 || id == os.Getpid() {
			t.Fatalf("it ran on thread %d of process %d", id, os.Getpid())
		}
		path := fmt.Sprintf("/proc/self/task/%d", id)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
				break
			} else if time.Now().After(end) {
				t.Fatalf("thread %d did not end: %v", id, err)
			}
		}
	}
}
