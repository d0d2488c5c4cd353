package verify

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/droverhq/drover/backends/backendtest"
)

// try runs one case of the suite in a separate folder. It implements backendtest.T instead of package testing. mu
// protects the fields below it, because a case can report a failure from any goroutine.
type try struct {
	ctx context.Context
	dir string

	mu       sync.Mutex
	failures []string
	cleanups []func()
	folders  int
}

var _ backendtest.T = (*try)(nil)

// maxFailures is how many failures of a case are reported, and maxFailureBytes is how many bytes of each.
const (
	maxFailures     = 10
	maxFailureBytes = 1 << 10
)

func (t *try) Helper()                   {}
func (t *try) Context() context.Context  { return t.ctx }
func (t *try) FailNow()                  { runtime.Goexit() }
func (t *try) Error(args ...any)         { t.fail(fmt.Sprintln(args...)) }
func (t *try) Errorf(f string, a ...any) { t.fail(fmt.Sprintf(f, a...)) }

func (t *try) Fatal(args ...any) {
	t.Error(args...)
	t.FailNow()
}

func (t *try) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	t.FailNow()
}

func (t *try) fail(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text = strings.TrimSpace(text); len(text) > maxFailureBytes {
		text = text[:maxFailureBytes] + "…"
	}
	if len(t.failures) < maxFailures {
		t.failures = append(t.failures, text)
	}
}

func (t *try) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// TempDir makes a folder. It is removed with the folder of the case.
func (t *try) TempDir() string { return t.folder("t") }

func (t *try) folder(prefix string) string {
	t.mu.Lock()
	t.folders++
	path := filepath.Join(t.dir, fmt.Sprint(prefix, t.folders))
	t.mu.Unlock()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a case, and then its cleanups in reverse order.
func (t *try) run(f func()) {
	t.runGuarded(f)
	for {
		t.mu.Lock()
		n := len(t.cleanups) - 1
		if n < 0 {
			t.mu.Unlock()
			return
		}
		last := t.cleanups[n]
		t.cleanups = t.cleanups[:n]
		t.mu.Unlock()
		t.runGuarded(last)
	}
}

// runGuarded runs f in a goroutine and waits for it, because f may call FailNow, which ends the goroutine. A panic is
// reported as a failure.
func (t *try) runGuarded(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				t.fail(fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
			}
		}()
		f()
	})
	wg.Wait()
}
