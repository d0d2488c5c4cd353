package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

// playLater maps a file that it has opened for writing (mode rw) or reading (ro), shared and read-only, and
// closes it. As soon as the file named by start exists, it makes the mapping writable and writes.
func playLater(mode, file, logFile, start string) error {
	flags := os.O_RDWR
	if mode == "ro" {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	writable := false
	for {
		if _, err := os.Stat(start); err == nil && !writable {
			if err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE); err != nil {
				return err
			}
			writable = true
		}
		if writable {
			b[0]++
		}
		if _, err := fmt.Fprintln(log, int64(clock.Boottime())); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// A process can make a shared mapping writable at any time, if it had opened the file for writing. One that
// had opened the file for reading cannot, and is not stopped.
func TestI1MappingsThatBecomeWritable(t *testing.T) {
	for mode, want := range map[string]string{"rw": "T", "ro": ""} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			r := shared(t)
			file, log, start := filepath.Join(r.Paths[0], "file"), filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "start")
			if err := os.WriteFile(file, make([]byte, os.Getpagesize()), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := begin(t, "later", mode, file, log, start)
			wrote(t, log, 0)
			r = w.armed(t, r, ahead)
			e := w.fenced(t, r.Dataset)
			if mode == "rw" {
				if err := os.WriteFile(start, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				w.recheckedAfter(t, r.Dataset, e.Fence.At)
				silent(t, log, e)
			} else {
				wrote(t, log, e.Fence.At)
			}
			if state := stateOf(t, cmd.Process.Pid); want != "" && state != want || want == "" && (state == "T" || state == "Z") {
				t.Errorf("the process is in state %s: %+v", state, e.Steps)
			}
		})
	}
}
