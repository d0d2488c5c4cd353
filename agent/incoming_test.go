package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/registration"
	"github.com/droverhq/drover/dataset"
)

// uncommitted puts a ready dataset back among the incoming ones, as a power cut does
// before the rename is durable.
func (r *rig) uncommitted(d dataset.Dataset) {
	r.t.Helper()
	pool := filepath.Join(r.root, "pool")
	if err := os.Rename(filepath.Join(pool, "datasets", d.ID.String()), filepath.Join(pool, "incoming", d.ID.String())); err != nil {
		r.t.Fatal(err)
	}
}

// loseStore is a start with an empty store; of a fresh root also with nothing of the
// agent's own.
func (r *rig) loseStore(freshRoot bool) {
	r.t.Helper()
	cfg := r.config
	r.close()
	if freshRoot {
		if err := errors.Join(r.forgetAll(), os.Remove(filepath.Join(r.root, registration.IdentityFile))); err != nil {
			r.t.Fatal(err)
		}
	}
	r.link = r.control(uuid.NewString() + ".db")
	cfg.Control = r.link
	r.start(cfg)
}

// says returns what doctor finds of a dataset, and what would mend it.
func (r *rig) says(d dataset.Dataset) (text string) {
	r.t.Helper()
	found, err := r.Doctor(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range found {
		if f.Subject == "dataset "+d.ID.String() {
			text += f.Text + " (" + f.Mend + ")"
		}
	}
	return text
}

// I3: a node without any record finds a pool by its path in drover.yaml. What is
// incoming in it may have been acknowledged: it is kept over any number of starts,
// named, and comes back with a rebuild or goes when a person says so. What the node
// itself leaves incoming from then on was never acknowledged, and goes.
func TestI3IncomingOfAFoundPool(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	db, other := r.volume("db"), r.volume("other")
	r.uncommitted(db)
	r.uncommitted(other)
	r.loseStore(true)
	for range 2 {
		if got := r.inPool("incoming"); len(got) != 2 {
			t.Fatalf("incoming: %v", got)
		}
		if got := r.says(db); !strings.Contains(got, "volume db") || !strings.Contains(got, "is kept") {
			t.Errorf("doctor says %q", got)
		}
		r.restart()
	}
	cut := r.incoming()
	r.restart()
	if got := r.inPool("incoming"); len(got) != 2 || slices.Contains(got, cut.ID.String()) {
		t.Errorf("after a start incoming: %v", got)
	}
	if err := r.Collect(ctx, other.ID); err != nil {
		t.Error(err)
	}
	back, err := r.RebuildStore(ctx, false)
	if err != nil || len(back) != 1 || back[0].Dataset != db.ID || back[0].Action != "trashed" {
		t.Errorf("rebuilt: %+v, %v", back, err)
	}
	r.restart()
	if got := r.inPool("datasets"); len(got) != 1 || got[0] != db.ID.String() || len(r.inPool("incoming")) != 0 {
		t.Errorf("in the pool: %v, incoming %v", got, r.inPool("incoming"))
	}
	if p, _ := r.pools.ByName("default"); p.Record.Found || len(p.Record.Doubtful) != 0 {
		t.Errorf("still doubtful: %+v", p.Record)
	}
}

// An incoming dataset whose record cannot be read does not come back with a
// rebuild, and is not destroyed after it either.
func TestI3IncomingThatARebuildCannotBringBack(t *testing.T) {
	r := newRig(t)
	db := r.incoming()
	if err := os.WriteFile(filepath.Join(r.root, "pool/incoming", db.ID.String(), "dataset.json"), []byte("no record"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.loseStore(false)
	for range 2 {
		if _, err := r.RebuildStore(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		r.restart()
		if got := r.inPool("incoming"); len(got) != 1 {
			t.Fatalf("incoming: %v", got)
		}
		if got := r.says(db); !strings.Contains(got, "--gc "+db.ID.String()) {
			t.Errorf("doctor says %q", got)
		}
	}
}

// A crash while an adoption has not brought its datasets back yet loses none.
func TestI3IncomingOfAnAdoptedPool(t *testing.T) {
	r := newRig(t)
	rec := pool.Record{ID: uuid.New(), Backend: "dir", Path: filepath.Join(r.root, "second")}
	if _, err := r.poolMaker.Make(t.Context(), "second", rec); err != nil {
		t.Fatal(err)
	}
	p, _ := r.pools.ByName("second")
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady, Epoch: 1}
	if _, err := p.Storage.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	r.loseStore(true)
	r.link.away()
	if _, _, err := r.AdoptPool(t.Context(), rec.Path); err == nil {
		t.Fatal("adopted without control")
	}
	r.link.back()
	r.restart()
	if p, _ := r.pools.ByName("second"); p == nil {
		t.Fatal("the pool is not known")
	} else if _, err := p.Storage.Stat(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
}
