package fault

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// replace replaces a file durably, as most of the program does.
func replace(path, content string) error {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func TestEachCallFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	want := []string{"create", "write", "fsync", "rename"}
	for at := -1; at < len(want); at++ {
		require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
		var err error
		calls, rErr := Run(Failure{At: at, Errno: unix.ENOSPC}, func() { err = replace(path, "new") })
		require.NoError(t, rErr)
		content, _ := os.ReadFile(path)
		if at < 0 {
			if err != nil || !slices.Equal(calls, want) || string(content) != "new" {
				t.Errorf("without a failure: %v, %v, %q", err, calls, content)
			}
			continue
		}
		if !errors.Is(err, unix.ENOSPC) || string(content) != "old" || calls[at] != want[at] {
			t.Errorf("call %d of %v: %v, %q", at, calls, err, content)
		}
	}
}

func TestAllFailFromOneOn(t *testing.T) {
	dir := t.TempDir()
	var errs [3]error
	_, err := Run(Failure{At: 1, Errno: unix.EIO, Onwards: true}, func() {
		for i := range errs {
			errs[i] = os.Mkdir(filepath.Join(dir, string(rune('a'+i))), 0o700)
		}
	})
	if err != nil || errs[0] != nil || !errors.Is(errs[1], unix.EIO) || !errors.Is(errs[2], unix.EIO) {
		t.Errorf("%v, %v", errs, err)
	}
	assert.NoErrorf(t, os.Mkdir(filepath.Join(dir, "b"), 0o700), "after that")
}

func TestCommandsFail(t *testing.T) {
	runner := Runner{&run.System{}}
	for at, there := range []bool{false, true, true} {
		file := filepath.Join(t.TempDir(), "file")
		var err error
		calls, rErr := Run(Failure{At: at, Errno: unix.EIO}, func() {
			_, err = runner.Run(t.Context(), run.Command{Name: "touch", Args: []string{file}, Timeout: time.Minute})
		})
		if _, sErr := os.Stat(file); rErr != nil || (sErr == nil) != there || errors.Is(err, unix.EIO) != (at < 2) {
			t.Errorf("call %d of %v: %v, the file is there %t; %v", at, calls, err, sErr == nil, rErr)
		}
	}
}

// TestPollerIsWoken: the filter allows the write of 8 bytes by which Go's runtime wakes its poller.
// Otherwise a garbage collection could wait for the thread, and the thread for the listener.
func TestPollerIsWoken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	for length, want := range map[int][]string{8: {"create"}, 9: {"create", "write"}} {
		calls, err := Run(Failure{At: 1, Errno: unix.EIO}, func() {
			_ = os.WriteFile(file, make([]byte, length), 0o600)
		})
		if err != nil || !slices.Equal(calls, want) {
			t.Errorf("%d bytes: %v, %v", length, calls, err)
		}
	}
}
