package agent

import (
	"errors"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
)

// freezing is a pool that freezes by itself, or does not.
type freezing struct {
	backends.Pool
	itself bool
}

func (f freezing) Info() backends.Info { return backends.Info{Freezes: f.itself} }

// filled mounts a filesystem where that of a dataset is to be, for the length of a test, and returns
// its root.
func (r *rig) filled(id uuid.UUID) *os.File {
	r.t.Helper()
	at := r.MountPath(id)
	if err := os.MkdirAll(at, 0o700); err != nil {
		r.t.Fatal(err)
	}
	root, err := os.Open(scratch.Mount(r.t, "ext4", scratch.Ext4))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = root.Close() })
	if err := mount.Bind(root, at, mount.BindFlags{}); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = mount.Unmount(at) })
	return root
}

// Who asks for a freeze gets one, and nobody freezes what a backend will freeze: that could
// not be frozen twice.
func TestWhoFreezes(t *testing.T) {
	r := newRig(t)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	root := r.filled(d.ID)
	for _, c := range []struct {
		quiesce dataset.Quiesce
		itself  bool
		sealed  *dataset.Encryption // whose filesystem a backend does not see
		frozen  bool
	}{
		{dataset.QuiesceNone, false, nil, false}, {dataset.QuiesceFreeze, false, nil, true},
		{dataset.QuiesceNone, true, nil, false}, {dataset.QuiesceFreeze, true, nil, false},
		{dataset.QuiesceNone, true, &dataset.Encryption{}, false}, {dataset.QuiesceFreeze, true, &dataset.Encryption{}, true},
	} {
		d.Profile.Quiesce, d.Encryption = c.quiesce, c.sealed
		_, thaw, err := r.quiescer.Freeze(t.Context(), freezing{itself: c.itself}, d)
		if err != nil {
			t.Fatal(err)
		}
		again := fsctl.Freeze(root)
		if frozen := errors.Is(again, fsctl.ErrFrozen); frozen != c.frozen {
			t.Errorf("%+v: frozen %v", c, frozen)
		}
		if again == nil {
			_ = fsctl.Thaw(root)
		}
		if err := thaw(); err != nil {
			t.Error(err)
		}
	}
}
