package pooladmin_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// I3: while another node says that the store is older than what that node knows, the store may lack the record of any
// dataset. So nothing is destroyed because it has no record, although this node itself sees no difference.
func TestI3CollectKeepsDataIfPeerRejectsStore(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewIncoming()
	r.Link.ChangeSync(func(s *api.Sync) { s.Halted = "node host-b says that it is older" })
	for _, dryRun := range []bool{true, false} {
		_, err := r.Collect(ctx, d.ID, dryRun)
		if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "node host-b says that it is older") {
			t.Errorf("dry run %t: %v", dryRun, err)
		}
	}
	if got := r.ListPool("incoming"); len(got) != 1 {
		t.Errorf("in the pool: %v", got)
	}
	r.Link.ChangeSync(nil)
	_, err := r.Collect(ctx, d.ID, false)
	assert.NoError(t, err)
}

// uncommitted moves a ready dataset back to the incoming ones, as after a power cut before the rename is durable.
func uncommitted(r *agenttest.Host, d dataset.Dataset) {
	r.T.Helper()
	pool := filepath.Join(r.Root, "pool")
	if err := os.Rename(filepath.Join(pool, "datasets", d.ID.String()), filepath.Join(pool, "incoming", d.ID.String())); err != nil {
		r.T.Fatal(err)
	}
}

// I3: a node without records finds a pool by its path in drover.yaml. Incoming datasets in it may have been
// acknowledged: they are kept across any number of starts and reported, and return with a rebuild or are removed by
// an operator. Datasets that the node itself leaves incoming from then on were never acknowledged, and are removed.
func TestI3IncomingOfFoundPoolIsKept(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	db, other := r.NewVolume("db"), r.NewVolume("other")
	uncommitted(r, db)
	uncommitted(r, other)
	r.LoseStore(true)
	for range 2 {
		if got := r.ListPool("incoming"); len(got) != 2 {
			t.Fatalf("incoming: %v", got)
		}
		if got := r.DatasetFinding(db); !strings.Contains(got, "volume db") || !strings.Contains(got, "is kept") {
			t.Errorf("doctor says %q", got)
		}
		r.Restart()
	}
	cut := r.NewIncoming()
	r.Restart()
	if got := r.ListPool("incoming"); len(got) != 2 || slices.Contains(got, cut.ID.String()) {
		t.Errorf("after a start incoming: %v", got)
	}
	if found, err := r.Collect(ctx, other.ID, true); err != nil || found.Dataset != other.ID || found.Pool == "" {
		t.Fatalf("dry run: %+v, %v", found, err)
	}
	if _, err := r.Pool().Stat(ctx, other.ID); err != nil {
		t.Fatalf("the dry run destroyed it: %v", err)
	}
	_, err := r.Collect(ctx, other.ID, false)
	assert.NoError(t, err)
	back, err := r.RebuildStore(ctx, api.RebuildStore{})
	if err != nil || len(back) != 1 || back[0].Dataset != db.ID || back[0].Action != "trashed" {
		t.Errorf("rebuilt: %+v, %v", back, err)
	}
	r.Restart()
	if got := r.ListPool("datasets"); len(got) != 1 || got[0] != db.ID.String() || len(r.ListPool("incoming")) != 0 {
		t.Errorf("in the pool: %v, incoming %v", got, r.ListPool("incoming"))
	}
	if p, _ := r.Pools.ByName("default"); p.Record.Unexamined || len(p.Record.Doubtful) != 0 {
		t.Errorf("still doubtful: %+v", p.Record)
	}
}

// An incoming dataset whose record cannot be read does not return with a rebuild, and is not destroyed after it
// either.
func TestI3UnreadableIncomingIsKeptByRebuild(t *testing.T) {
	r := agenttest.New(t)
	db := r.NewIncoming()
	require.NoError(t, os.WriteFile(filepath.Join(r.Root, "pool/incoming", db.ID.String(), "record.json"), []byte("no record"), 0o600))
	r.LoseStore(false)
	for range 2 {
		_, err := r.RebuildStore(t.Context(), api.RebuildStore{})
		require.NoError(t, err)
		r.Restart()
		if got := r.ListPool("incoming"); len(got) != 1 {
			t.Fatalf("incoming: %v", got)
		}
		if got := r.DatasetFinding(db); !strings.Contains(got, "--gc "+db.ID.String()) {
			t.Errorf("doctor says %q", got)
		}
	}
}

// A crash before an adoption has brought its datasets back loses none of them.
func TestI3IncomingOfAdoptedPoolSurvivesCrash(t *testing.T) {
	r := agenttest.New(t)
	rec := pool.Record{ID: uuid.New(), Backend: "dir", Path: filepath.Join(r.Root, "second")}
	if _, err := r.Pools.Make(t.Context(), "second", rec); err != nil {
		t.Fatal(err)
	}
	p, _ := r.Pools.ByName("second")
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Epoch: 1}
	if _, err := p.Storage.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	r.LoseStore(true)
	r.Link.Cut()
	if _, _, err := r.AdoptPool(t.Context(), rec.Path, false); err == nil {
		t.Fatal("adopted without control")
	}
	r.Link.Mend()
	r.Restart()
	if p, _ := r.Pools.ByName("second"); p == nil {
		t.Fatal("the pool is not known")
	} else if _, err := p.Storage.Stat(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
}
