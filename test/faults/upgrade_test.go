package faults

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/test/host"
)

// Mounts stay while the binary is replaced: a container that writes does not notice, and the new binary receives its
// unmount.
func TestB16Exchange(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	root := w.use(t, "base")
	stop, lines := writeOn(t, filepath.Join(root, "log"))
	w.h.Stop(t)
	lines.await(t)
	w.h.Up(t)
	lines.await(t)
	w.holds(t, "base", "base")
	if got := w.mounted(t); len(got) != 1 {
		t.Errorf("mounted: %v", got)
	}
	stop()
	w.release(t, "base")
	w.tidy(t)
}

type counter struct{ atomic.Int64 }

// await waits until more was written.
func (c *counter) await(t testing.TB) {
	t.Helper()
	was := c.Load()
	host.Await(t, "the writer goes on", func() error {
		if c.Load() < was+3 {
			return errors.New("it does not")
		}
		return nil
	})
}

// writeOn writes and flushes lines until stop is called; an error fails the test.
func writeOn(t testing.TB, path string) (stop func(), lines *counter) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	lines = &counter{}
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-quit:
				done <- f.Close()
				return
			default:
			}
			if _, err := f.WriteString("line\n"); err != nil {
				done <- err
				return
			}
			if err := f.Sync(); err != nil {
				done <- err
				return
			}
			lines.Add(1)
		}
	}()
	return func() {
		close(quit)
		if err := <-done; err != nil {
			t.Errorf("the writer: %v", err)
		}
	}, lines
}
