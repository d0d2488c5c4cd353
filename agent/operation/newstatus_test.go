package operation_test

import (
	"archive/tar"
	"bytes"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// wantIdle fails unless control shows a volume as idle, with its usage.
func wantIdle(t *testing.T, r *agenttest.Host, d dataset.Dataset, what string, used dataset.Size) {
	t.Helper()
	v, err := r.Control.Volume(t.Context(), d.ID.String())
	if err != nil || v.Status == nil {
		t.Fatalf("%s: %+v, %v", what, v.Status, err)
	}
	if v.Status.Mounted || v.Status.Problem != "" || used > 0 && (v.Status.InPool == nil || *v.Status.InPool < used) {
		t.Errorf("%s: %+v", what, v.Status)
	}
}

// Users who look at a volume that was just created, cloned, imported or restored from the trash see its status. The
// clock of the test does not move, so no heartbeat reports it.
func TestStatusIsKnownAfterCreate(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *agenttest.Host{
		"loop": func(t *testing.T) *agenttest.Host { return newLoopHost(t, 0) },
		"dir":  func(t *testing.T) *agenttest.Host { return agenttest.New(t) },
	} {
		t.Run(name, func(t *testing.T) {
			r, ctx := start(t), t.Context()
			var used dataset.Size
			if name == "loop" {
				used = 1
			}
			made := r.NewVolume("db")
			wantIdle(t, r, made, "create", used)
			wantIdle(t, r, r.NewVolume("copy", map[string]string{"from": "db"}), "clone", used)
			var archive bytes.Buffer
			if err := tar.NewWriter(&archive).Close(); err != nil {
				t.Fatal(err)
			}
			imported, err := r.Import(ctx, api.Request{ID: uuid.New(), Volume: "imported"}, &archive)
			if err != nil {
				t.Fatal(err)
			}
			wantIdle(t, r, imported, "import", used)
			if err := r.Remove(ctx, "db"); err != nil {
				t.Fatal(err)
			}
			_, err = r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: made.ID.String()})
			if err != nil {
				t.Fatal(err)
			}
			wantIdle(t, r, made, "restored from the trash", used)
		})
	}
}
