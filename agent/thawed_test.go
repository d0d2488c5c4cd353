package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// writable reports whether a volume that is mounted lets a file be written, within a time.
func writable(t *testing.T, path string, most time.Duration) bool {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(path, "written"), []byte("x"), 0o600) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
		return err == nil
	case <-time.After(most):
		t.Cleanup(func() { // the write waits for a thaw, which a test that failed may not have come to
			scratch.Thaw(path)
			select {
			case err := <-done:
				t.Log(err)
			case <-time.After(10 * time.Second):
				t.Log("the write has not ended")
			}
		})
		return false
	}
}

// A snapshot or a clone that fails on a frozen volume thaws it: its writers go on.
func TestThawedAfterAFailure(t *testing.T) {
	t.Parallel()
	for act, req := range map[string]api.Request{
		"snapshot": {Kind: dataset.OpSnapshot, Volume: "db"},
		"clone":    {Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "db"}},
	} {
		t.Run(act, func(t *testing.T) {
			f := newFlock(t, "loop", "dir")
			f.a.volume("db@still", nil)
			path := f.a.mounts("db", "user")
			frozen := false
			f.a.fuse.set(-1, false, func(now string) {
				if now == act {
					frozen = !writable(t, path, 100*time.Millisecond)
				}
			})
			broken := errors.New("the disk does not take it")
			f.a.fuse.fails(act, broken)
			if err := f.a.requests.Perform(t.Context(), req); !errors.Is(err, broken) {
				t.Errorf("%s: %v", act, err)
			}
			if !frozen {
				t.Errorf("%s: the volume was not frozen", act)
			}
			if !writable(t, path, 20*time.Second) {
				t.Errorf("%s: the volume is still frozen", act)
			}
			f.a.unmounts("db", "user")
		})
	}
}
