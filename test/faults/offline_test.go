package faults

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// twoPools is a host with its pool "default" and another one, "far", on a disk that can be removed.
func twoPools(t *testing.T) (w *world, far *disk) {
	t.Helper()
	shelf := scratch.Mount(t, "xfs", 8<<30)
	near := newDisk(t, shelf, "xfs", 2<<30)
	far = newDisk(t, shelf, "xfs", 2<<30)
	w = newWorld(t, host.Options{
		Root: filepath.Join(near.at, "root"),
		Config: fmt.Sprintf("pools:\n- {name: default, backend: loop, path: %s/pool}\n- {name: far, backend: loop, path: %s/pool}\n",
			near.at, far.at),
	})
	w.make(t, "here", "plain", "here")
	w.ok(t, w.plug.Create("there", map[string]string{"pool": "far"}))
	w.write(t, "there", "there")
	return w, far
}

// says fails unless err is one line that says all of it.
func (w *world) says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q in one line", err, p)
		}
	}
}
