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

// untaken has a volume on host-b, of which that is the home, and which it has not taken from host-a
// yet; nor does it know any more that it was to.
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

// A home that was lost before it had taken a volume, or where that was lost on record, has not
// lost the volume: it goes on where it was, at a third node, and at that home itself.
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

// What a move file by file left in a pool that was cut short is not in the way of what is taken
// there, nor kept for what went on elsewhere.
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
