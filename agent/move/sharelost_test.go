package move_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// untaken makes a volume whose recorded home is host-b, but which host-b has not taken from host-a yet. host-b has no
// record any more that it should take it.
func untaken(f *agenttest.Cluster) dataset.Dataset {
	f.Helper()
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	old := filepath.Join("datasets", d.ID.String())
	err := os.Rename(filepath.Join(f.Share, f.B.NodeName, old), filepath.Join(f.Share, f.A.NodeName, old))
	if err == nil {
		err = f.A.Pool().WriteRecord(f.Context(), d, true)
	}
	if err != nil {
		f.Fatal(err)
	}
	return d
}

// The data survives if a home is lost before it has taken a volume, or if its record of the move is lost. The volume
// continues where its data is, on a third node, and on that home.
func TestHomeThatNeverTookVolumeLosesNothing(t *testing.T) {
	for _, to := range []string{"host-a", "host-c", "host-b"} {
		t.Run(to, func(t *testing.T) { neverTook(t, to) })
	}
}

func neverTook(t *testing.T, to string) {
	f := agenttest.NewCluster(t, "nfs", "nfs")
	third := f.AddHost("host-c", "nfs")
	third.Start()
	d := untaken(f)
	next := map[string]*agenttest.Host{"host-a": f.A, "host-b": f.B, "host-c": third}[to]
	if next == f.B {
		f.B.Restart()
	} else {
		f.B.Stop()
		out, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: to, Force: true, Fenced: "host-b"})
		if err != nil {
			t.Fatal(err)
		}
		if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
			t.Fatalf("%s: %+v", to, op.Problem)
		}
		f.B.Start()
	}
	if got := next.ReadFile("db", "token"); got != "kept" {
		t.Errorf("%s has %q", to, got)
	}
	v := f.Recorded("db")
	if e, err := next.Pool().Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != v.Epoch || v.TakenOver == nil || v.TakenOver.FromPool != f.A.Pool().ID() {
		t.Errorf("%s: %+v, %+v, %v", to, v.TakenOver, e, err)
	}
}

// The data of an interrupted file-by-file move in a pool does not hinder a volume that is taken there. It is not kept
// for a volume that continued elsewhere.
func TestInterruptedMoveOfFilesOnShare(t *testing.T) {
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	for _, restart := range []bool{false, true} {
		half := filepath.Join(f.Share, f.B.NodeName, "incoming", d.ID.String())
		if err := os.MkdirAll(filepath.Join(half, "head"), 0o700); err != nil {
			t.Fatal(err)
		}
		if restart {
			f.B.Restart()
			if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is kept: %v", err)
			}
			continue
		}
		f.Move("db", f.B)
		f.B.WantFile("db", "token", "kept")
		f.Move("db", f.A)
		f.B.AwaitSettled(d.ID)
	}
}
