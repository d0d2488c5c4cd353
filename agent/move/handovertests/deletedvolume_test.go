package handover_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A home that is reachable again finds that its volume was deleted meanwhile. It leaves the present users alone,
// opens the volume for nobody new, and has all of its data when an operator restores it.
func TestVolumeDeletedWithoutHomeKeepsItsUsers(t *testing.T) {
	t.Parallel()
	f := agenttest.NewBoundedCluster(t, time.Second)
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	path := f.A.MustMount("db", "user")
	f.A.Agent.Cancel() // the agent stops, and the mount stays
	f.A.Stop()
	asked := api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "host-a"}
	agenttest.Await(t, func() bool { _, err := f.Service.Submit(t.Context(), asked); return err == nil })

	f.A.Start()
	agenttest.Await(t, func() bool { now, _ := f.A.Cache.Dataset(d.ID); return now.State == dataset.StateTrashed })
	if err := os.WriteFile(filepath.Join(path, "late"), []byte("late"), 0o600); err != nil {
		t.Errorf("its user is disturbed: %v", err)
	}
	if _, err := f.A.Mounter.AddUse(t.Context(), d, 0, dataset.ParseReference("db"), "new"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("a new mount of the deleted volume: %v", err)
	}
	if _, err := f.A.Mount(t.Context(), "db", "new"); err == nil || !strings.Contains(err.Error(), "volume db was deleted, only containers that run use it (stop them, or restore it: drover trash restore "+d.ID.String()[:8]) {
		t.Errorf("a new mount by an engine: %v", err)
	}
	// An engine that stops a container asks for the volume first, and sends no Unmount if there is none.
	if v, err := f.A.Get(t.Context(), "db"); err != nil || v.Mountpoint != path {
		t.Errorf("the engine gets %+v, %v", v, err)
	}
	list, err := f.A.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(is api.Finding) bool {
		return is.Level == "error" && is.Subject == "volume db" && strings.Contains(is.Text, "was deleted while this host was confirmed as fenced, but is in use here by 1") &&
			strings.HasSuffix(is.Fix, "drover trash restore "+d.ID.String()[:8])
	}) {
		t.Errorf("doctor: %+v", list)
	}
	if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: d.ID.String()}); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { now, _ := f.A.Cache.Dataset(d.ID); return now.State == dataset.StateReady })
	f.A.MustUnmount("db", "user")
	for file, want := range map[string]string{"token": "kept", "late": "late"} {
		if got := f.A.ReadFile("db", file); got != want {
			t.Errorf("%s holds %q", file, got)
		}
	}
}
