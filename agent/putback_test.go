package agent

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
)

// A disk is put back under a running agent. Whatever is done in the pool first finds that, with
// no heartbeat between: it is not raised over, and nothing is mounted or given from it.
func TestPutBackIsFoundByWhatComesFirst(t *testing.T) {
	for what, does := range map[string]func(r *rig, d dataset.Dataset) error{
		"raise": func(r *rig, d dataset.Dataset) error {
			r.pools.changed(d.Pool, true)
			return errors.Join(r.raiseDue(r.t.Context()), r.pools.free(d.Pool))
		},
		"mount": func(r *rig, d dataset.Dataset) error {
			_, err := r.Mount(r.t.Context(), d.Volume, "id")
			return err
		},
		"snapshot for another node": func(r *rig, d dataset.Dataset) error {
			_, _, err := sending{r.Agent}.Freshen(r.t.Context(), d.ID, nil)
			return err
		},
		"list for another node": func(r *rig, d dataset.Dataset) error {
			_, err := sending{r.Agent}.Pool(r.t.Context(), d.ID)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			d, putBack := r.raised()
			r.writes(d, "new")
			putBack()
			if err := does(r, d); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), wayOut) {
				t.Error(err)
			}
			if g, err := r.pools.all()[0].backend.Generation(); g != 1 || err != nil {
				t.Errorf("it caught up: %d, %v", g, err)
			}
			r.holds(d)
		})
	}
}

// A replica that is refreshed before a heartbeat looked keeps what is newer than the disk that
// was put back to its home.
func TestReplicaOfWhatWasPutBackKeepsTheNewer(t *testing.T) {
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db@safe", map[string]string{"size": "320MiB"})
	await(t, func() bool { return !f.upToOn(f.b, "db").IsZero() })
	at := func(least uint64) func() bool {
		return func() bool {
			g, err := f.a.thePool().Generation()
			return err == nil && g >= least
		}
	}
	await(t, at(1))
	op := f.a.pools.all()[0]
	f.a.down()
	kept := filepath.Join(filepath.Dir(op.Path), "kept")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", "--reflink=always", op.Path, kept).CombinedOutput(); err != nil {
		t.Fatal(string(out), err)
	}
	f.a.cfg.Limits.Heartbeat = time.Hour // refreshes are a second apart
	f.a.up()
	await(t, at(op.generation+1))
	f.a.writes("db", "token", "new")
	written := time.Now()
	await(t, func() bool { return f.hasSince(f.b, "db", written) })
	has, _ := f.b.replicaOf(d.ID)
	if err := errors.Join(os.Rename(op.Path, op.Path+".newer"), os.Rename(kept, op.Path)); err != nil {
		t.Fatal(err)
	}
	asB := context.WithValue(t.Context(), askerKey{}, f.b.Node())
	if _, _, err := (sending{f.a.Agent}).Freshen(asB, d.ID, nil); !errors.Is(err, dataset.ErrOffline) {
		t.Error(err)
	}
	if err := f.b.refresh(t.Context(), &job{}, d.ID); err == nil {
		t.Error("it was refreshed")
	}
	if e, err := f.b.thePool().Stat(t.Context(), d.ID); err != nil || indexOf(e, has.Snapshot) < 0 {
		t.Errorf("the newer snapshot is gone from the replica (%v)", err)
	}
}
