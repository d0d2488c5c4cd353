package agent

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// When only the disk of a home fails, its volume does not go on elsewhere by itself, and a move is refused
// with the reason. It goes on from another node's copy by an operator's word, once Drover is stopped on
// the home. Drover starts there again after that, and serves its other pools.
func TestMoveFromAFailingDisk(t *testing.T) {
	t.Parallel()
	f := &flock{T: t, session: 5 * time.Second} // control is one of several: it knows who is alive
	f.serve()
	f.a, f.b = f.host("host-a", "loop"), f.host("host-b", "loop")
	t.Cleanup(f.close)
	disk := scratch.Mount(t, "xfs", 2<<30)
	f.a.cfg.Pools = []pool.Config{
		{Name: "default", Backend: "loop", Path: filepath.Join(disk, "pool")},
		{Name: "near", Backend: "dir", Path: filepath.Join(t.TempDir(), "near")},
	}
	f.a.up()
	f.b.up()
	d := f.a.volume("db", map[string]string{"size": "320MiB", "pool": "default"})
	f.a.volume("near", map[string]string{"pool": "near"})
	f.a.writes("db", "token", "before")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	f.moves("db", f.a) // which leaves a copy there
	f.b.settled(d.ID)
	f.a.writes("db", "token", "after")

	scratch.ShutDown(t, disk)
	if _, err := f.a.Mount(t.Context(), "db", "refused"); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a mount: %v", err)
	}
	if op := f.ended(f.begins("db", f.b)); op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "its disk fails") {
		t.Errorf("a move: %s, %+v", op.State, op.Problem)
	}
	force := func() (api.Outcome, error) {
		return f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	}
	if _, err := force(); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "is alive") {
		t.Errorf("by force while its home is alive: %v", err)
	}
	f.a.down()
	var out api.Outcome
	await(t, func() bool { // until control knows that it is gone
		var err error
		if out, err = force(); err != nil && !strings.Contains(err.Error(), "is alive") {
			t.Fatal(err)
		}
		return err == nil
	})
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("by force: %+v", op.Problem)
	}
	if got := f.b.reads("db", "token"); got != "before" {
		t.Errorf("it goes on with %q", got)
	}
	f.a.up()
	f.a.writes("near", "token", "served")
	if got := f.a.reads("near", "token"); got != "served" {
		t.Errorf("the other pool: %q", got)
	}
}
