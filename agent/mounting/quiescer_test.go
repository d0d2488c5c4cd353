package mounting_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// freezing is a pool that can freeze by itself.
type freezing struct {
	backends.Pool
	itself bool
}

func (f freezing) Info() backends.Info { return backends.Info{Exact: f.itself} }

// A request for a freeze is fulfilled. The agent does not freeze if the backend will freeze: a filesystem cannot be
// frozen twice.
func TestFreezeUnlessBackendFreezes(t *testing.T) {
	r := agenttest.New(t)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	root := r.MountExt4(d.ID)
	for _, c := range []struct {
		quiesce dataset.Quiesce
		itself  bool
		sealed  *dataset.Encryption // a backend does not see the filesystem of an encrypted volume
		frozen  bool
	}{
		{dataset.QuiesceNone, false, nil, false}, {dataset.QuiesceFreeze, false, nil, true},
		{dataset.QuiesceNone, true, nil, false}, {dataset.QuiesceFreeze, true, nil, false},
		{dataset.QuiesceNone, true, &dataset.Encryption{}, false}, {dataset.QuiesceFreeze, true, &dataset.Encryption{}, true},
	} {
		d.Profile.Quiesce, d.Encryption = c.quiesce, c.sealed
		in, end, err := r.Quiescer.Prepare(t.Context(), freezing{itself: c.itself}, d)
		if err != nil {
			t.Fatal(err)
		}
		exact, err := backends.Frozen(in, func() error {
			again := fsctl.Freeze(root)
			if frozen := errors.Is(again, fsctl.ErrFrozen); frozen != c.frozen {
				t.Errorf("%+v: frozen %v", c, frozen)
			}
			if again == nil {
				return fsctl.Thaw(root)
			}
			return nil
		})
		if want := c.frozen || c.itself && c.sealed == nil; err != nil || exact != want || end() != want {
			t.Errorf("%+v: exact %v, %v", c, exact, err)
		}
	}
}

// A snapshot or a clone that fails on a frozen volume thaws it: its writers continue.
func TestFailedSnapshotThawsVolume(t *testing.T) {
	r := agenttest.New(t)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db"}
	d.Profile.Quiesce = dataset.QuiesceFreeze
	root := r.MountExt4(d.ID)
	in, end, err := r.Quiescer.Prepare(t.Context(), freezing{}, d)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk does not take it")
	if exact, err := backends.Frozen(in, func() error { return broken }); !errors.Is(err, broken) || exact || end() {
		t.Errorf("exact %v, %v", exact, err)
	}
	if err := fsctl.Thaw(root); !errors.Is(err, fsctl.ErrNotFrozen) {
		t.Errorf("the volume was still frozen: %v", err)
	}
}
