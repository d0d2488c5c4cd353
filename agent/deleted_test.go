package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A home that comes back finds that its volume was deleted without it: it leaves who uses it
// alone, opens it for nobody new, and has all of it when somebody brings it back.
func TestDeletedWithoutTheHome(t *testing.T) {
	t.Parallel()
	f := newBounded(t, time.Second)
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	path := f.a.mounts("db", "user")
	f.a.Agent.stop() // it dies, and the mount stays
	f.a.down()
	asked := api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "host-a"}
	await(t, func() bool { _, err := f.svc.Submit(t.Context(), asked); return err == nil })

	f.a.up()
	await(t, func() bool { now, _ := f.a.Cache.Dataset(d.ID); return now.State == dataset.StateTrashed })
	if err := os.WriteFile(filepath.Join(path, "late"), []byte("late"), 0o600); err != nil {
		t.Errorf("who uses it is disturbed: %v", err)
	}
	if _, err := f.a.mounter.Use(t.Context(), d, dataset.ParseReference("db"), "new"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("a new user of what was deleted: %v", err)
	}
	if _, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: d.ID.String()}); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { now, _ := f.a.Cache.Dataset(d.ID); return now.State == dataset.StateReady })
	f.a.unmounts("db", "user")
	for file, want := range map[string]string{"token": "kept", "late": "late"} {
		if got := f.a.reads("db", file); got != want {
			t.Errorf("%s holds %q", file, got)
		}
	}
}
