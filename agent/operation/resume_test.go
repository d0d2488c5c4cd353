package operation_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// An answer of control that was read before an operation ended, and is applied afterwards, does not repeat the
// operation: an import would discard what was written since.
func TestEndedOperationIsNotResumed(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	from := t.TempDir()
	file := func(dir string) string { return filepath.Join(dir, "file") }
	if err := os.WriteFile(file(from), []byte("imported"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := r.Link.Service.Submit(ctx, api.Request{ID: uuid.New(), Kind: dataset.OpImport, Volume: "db", Path: from})
	if err != nil {
		t.Fatal(err)
	}
	stale := api.Sync{Cluster: r.Identity.Cluster(), Operations: []dataset.Operation{*out.Operation}}
	agenttest.Await(t, func() bool {
		op, known := r.Runner.Lookup(ctx, out.Operation.ID)
		return known && op.State == dataset.OpDone && len(r.Jobs.Running()) == 0
	})
	d, ok := r.Cache.Volume("db")
	if !ok {
		t.Fatal("the volume is not known")
	}
	r.MountDataset(d, "id")
	path := file(r.MountPath(d.ID))
	if err := os.WriteFile(path, []byte("written since"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Unmount(ctx, "db", "id"); err != nil {
		t.Fatal(err)
	}
	if err := r.Follower.Apply(ctx, stale, controlsync.KnownState{}); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { return r.Jobs.Count() == 0 })
	r.MountDataset(d, "id")
	if b, err := os.ReadFile(path); err != nil || string(b) != "written since" {
		t.Errorf("it holds %q, %v", b, err)
	}
	if err := r.Unmount(ctx, "db", "id"); err != nil {
		t.Fatal(err)
	}
}
