package agent

import (
	"testing"

	"github.com/droverhq/drover/internal/iolimit"
)

// What was left on a number that is another limited volume's by now is taken away from the groups
// that this one does not name; where nothing can be taken away, it stays on record.
func TestLimitThatIsLeftOnAnothersNumber(t *testing.T) {
	f := limitedBy(t, files(t, iolimit.V1, "/", "/before"))
	h := f.a.limits.hierarchy
	d := f.a.volume("db@slow", nil)
	f.a.mounts("db", "one")
	dev, old := f.a.device(d), iolimit.Limits{WriteBPS: 3 << 20}
	if err := h.Set("/before", dev, old); err != nil {
		t.Fatal(err)
	}
	rec := limitRecord{Boot: f.a.boot, Device: dev, Limits: old, Groups: []string{iolimit.Root, "/before"}}
	blind := &Agent{Config: f.a.Config, boot: f.a.boot, state: f.a.state, limits: newLimits(Cgroups{Hierarchy: h})}
	blind.limits.why = iolimit.ErrNone
	if err := blind.strip(t.Context(), d.ID, rec); err != nil {
		t.Error(err)
	}
	blind.clearLeft(t.Context())
	if n := len(blind.limits.leftovers()); n != 1 {
		t.Errorf("%d are on record where nothing can be taken away", n)
	}
	f.a.limits.leaves(rec)
	f.a.clearLeft(t.Context())
	if got, err := h.Get("/before", dev); err != nil || got != (iolimit.Limits{}) {
		t.Errorf("a group that it does not name: %+v, %v", got, err)
	}
	f.a.wantTold(dev, slowly, "one that it names")
	if n := len(f.a.limits.leftovers()); n != 0 {
		t.Errorf("%d are left", n)
	}
	f.a.unmounts("db", "one")
}
