package pooladmin_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// ended returns what f returned, and fails the test if f does not return. In that case a writer opens the FIFO, so
// that f does not wait forever.
func ended(t *testing.T, fifo string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	for late := time.After(30 * time.Second); ; {
		select {
		case err := <-done:
			return err
		case <-late:
			t.Errorf("waits for a writer of %s", fifo)
			late = time.After(10 * time.Millisecond)
			if w, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				w.Close()
			}
		}
	}
}

// A user puts a FIFO in a folder, in the place of a pool's marker. Neither the creation of a pool below that folder
// nor the adoption of the folder waits for it.
func TestPoolMarkerIsAFIFO(t *testing.T) {
	r := agenttest.New(t)
	home := t.TempDir()
	fifo := filepath.Join(home, "pool.json")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	err := ended(t, fifo, func() error {
		_, err := r.CreatePool(t.Context(), api.NewPool{Name: "below", Backend: "dir", Path: filepath.Join(home, "below")})
		return err
	})
	if err != nil {
		t.Error(err)
	}
	err = ended(t, fifo, func() error {
		_, _, err := r.AdoptPool(t.Context(), home, false)
		return err
	})
	if !errors.Is(err, dataset.ErrInvalid) {
		t.Error(err)
	}
	err = ended(t, fifo, func() error {
		_, _, err := r.AdoptPool(t.Context(), fifo, false)
		return err
	})
	if !errors.Is(err, dataset.ErrInvalid) {
		t.Error(err)
	}
}
