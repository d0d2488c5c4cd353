package volume_test

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func lists(h *agenttest.Host) (names []string) {
	h.Cluster.Helper()
	list, err := h.List(h.Cluster.Context())
	if err != nil {
		h.Cluster.Fatal(err)
	}
	for _, v := range list {
		if v.Mountpoint == "" {
			h.Cluster.Errorf("%s has no mountpoint", v.Spelling)
		}
		names = append(names, v.Spelling)
	}
	slices.Sort(names)
	return names
}

// A node lists the volumes whose home it is and those that its engine has used. If drover.yaml says so it also lists
// all other volumes, each once and in the spelling that is used here. While control is unreachable it lists only the
// volumes whose home it is.
func TestListOfAllNodes(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "dir", "dir")
	f.A.NewVolume("far@plain", nil)
	f.A.NewVolume("used@plain", nil)
	f.A.NewVolume("gone", nil)
	f.B.NewVolume("near@never", nil)
	if err := f.B.Create(t.Context(), "used", nil); err != nil {
		t.Fatal(err)
	}
	own := []string{"near@never", "used"}
	if got := lists(f.B); !slices.Equal(got, own) {
		t.Errorf("it lists %v", got)
	}
	f.B.Config.ListAll = true
	f.B.Restart()
	if got := lists(f.B); !slices.Equal(got, []string{"far@plain", "gone", "near@never", "used"}) {
		t.Errorf("of the cluster it lists %v", got)
	}
	if err := f.A.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if got := lists(f.B); slices.Contains(got, "gone") {
		t.Errorf("it lists %v", got)
	}
	if v, err := f.B.Get(t.Context(), "far@plain"); err != nil || v.Spelling != "far@plain" {
		t.Errorf("%+v, %v", v, err)
	}
	f.B.Config.Control = agenttest.UnreachableControl{Service: f.Client}
	f.B.Restart()
	if got := lists(f.B); !slices.Equal(got, own) {
		t.Errorf("with control away it lists %v", got)
	}
}

// A former home that keeps a copy of a volume lists the volume until it is deleted at its new home, again after it was
// restored, and once if another volume has its name.
func TestListOfFormerHome(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	d := f.A.NewVolume("db@plain", nil)
	f.A.MustMount("db@plain", "one")
	f.A.MustUnmount("db@plain", "one")
	f.Move("db", f.B)
	await := func(what string, want ...string) {
		t.Helper()
		f.AwaitNamed(what, func() bool { return slices.Equal(lists(f.A), want) })
	}
	await("the volume is listed after its move", "db@plain")
	remove := func() {
		t.Helper()
		if op := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpDelete, Volume: "db"}).Operation); op.State != dataset.OpDone {
			t.Fatalf("%+v", op.Problem)
		}
	}
	remove()
	await("the deleted volume is not listed")
	f.Submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
	await("the restored volume is listed", "db@plain")
	remove()
	f.B.NewVolume("db@plain", nil)
	if err := f.A.Create(t.Context(), "db@plain", nil); err != nil {
		t.Fatal(err)
	}
	await("the new volume is listed once", "db@plain")
}
