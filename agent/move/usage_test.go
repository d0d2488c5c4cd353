package move_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
)

// What the files of a volume use is unknown before its first mount. Then it keeps its value while the volume is
// mounted, after the unmount, after a restart, and after a move. The space that it occupies in its pool is always known.
func TestUsageIsKept(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db", map[string]string{"size": "320MiB"})
	status := func(h *agenttest.Host) dataset.DatasetStatus {
		now, _ := h.Cache.Dataset(d.ID)
		return h.Status.Status(t.Context(), now)
	}
	if st := status(f.A); st.Used != nil || st.InPool == nil || *st.InPool == 0 {
		t.Errorf("never mounted: %+v", st)
	}
	f.A.MustMount("db", "user")
	st := status(f.A)
	if st.Used == nil || *st.Used == 0 || st.InPool == nil {
		t.Fatalf("mounted: %+v", st)
	}
	want := *st.Used
	check := func(h *agenttest.Host, what string) {
		t.Helper()
		if st := status(h); st.Used == nil || *st.Used != want || st.InPool == nil || *st.InPool == 0 {
			t.Errorf("%s: %+v, want %s used", what, st, want)
		}
	}
	f.A.MustUnmount("db", "user")
	check(f.A, "unmounted")
	f.A.Restart()
	check(f.A, "after a restart")
	f.Move("db", f.B)
	agenttest.Await(t, func() bool { _, known := f.B.Cache.Dataset(d.ID); return known })
	agenttest.Await(t, func() bool { return f.B.Status.Last(d.ID).Used != 0 })
	check(f.B, "moved")
	f.B.Restart()
	check(f.B, "moved, and after a restart")
}
