package operation_test

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Users who look at a volume after its resize see the usage of the enlarged filesystem. The clock of the test does not
// move, so no heartbeat reports it.
func TestUsageIsKnownAfterResize(t *testing.T) {
	r := newLoopHost(t, 0)
	d := r.NewVolume("db", map[string]string{"size": "300MiB"})
	r.MustMount("db", "user")
	if err := r.Perform(t.Context(), api.Request{Kind: dataset.OpResize, Volume: "db", Size: "600MiB"}); err != nil {
		t.Fatal(err)
	}
	v, err := r.Cluster.Client.Volume(t.Context(), d.ID.String())
	if err != nil || v.Status == nil || v.Status.Usage == nil {
		t.Fatalf("%+v, %v", v.Status, err)
	}
	if all := v.Status.Usage.Used + v.Status.Usage.Available; v.Size != 600*dataset.MiB || all < 500*dataset.MiB {
		t.Errorf("a volume of %s has a filesystem of %s", v.Size, all)
	}
}
