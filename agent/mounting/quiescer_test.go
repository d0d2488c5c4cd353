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

func (f freezing) Info() backends.Info { return backends.Info{Freezes: f.itself} }

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
		_, thaw, err := r.Quiescer.Freeze(t.Context(), freezing{itself: c.itself}, d)
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
