package agent

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/scratch"
)

// place is where a host has its pool.
func (f *flock) place(root, name, backend string) string {
	f.Helper()
	switch backend {
	case "nfs":
		if f.shared == "" {
			f.shared = f.TempDir()
		}
		return filepath.Join(f.shared, name)
	case "zfs":
		_, root = f.zfs.Pool(f.T, 1<<30)
	case "loop":
		root = scratch.Mount(f.T, "xfs", 1<<30)
	case "btrfs":
		root = scratch.Mount(f.T, "btrfs", 1<<30)
	}
	return filepath.Join(root, "pool")
}

// What agents do with a volume on a zpool: it moves, there and back, with its snapshots and what
// was written, and what it left is no head.
func TestMoveOnZFS(t *testing.T) {
	f := newFlock(t, "zfs", "zfs")
	d := f.a.volume("db", map[string]string{"size": "64MiB"})
	f.a.writes("db", "token", "first")
	if err := f.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.a.writes("db", "token", "second")
	for i, to := range []*flockHost{f.b, f.a} {
		f.moves("db", to)
		if v := f.record("db"); v.Home != to.Node() || v.Epoch != uint64(2+i) || v.Move != uuid.Nil || len(v.Copies) != 1 {
			t.Errorf("on record: %+v", v)
		}
		f.other(to).settled(d.ID)
		if got := to.reads("db", "token"); got != "second" {
			t.Errorf("it holds %q", got)
		}
		if e, err := to.thePool().Stat(t.Context(), d.ID); err != nil || e.State != backends.EntryReady || e.Problem != "" || e.Record.Home != to.Node() {
			t.Errorf("%+v, %v", e, err)
		}
		to.writes("db", "token", "second")
	}
	if err := f.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "mine"}); err != nil {
		t.Fatal(err)
	}
	if got := f.a.reads("db", "token"); got != "first" {
		t.Errorf("the snapshot that travelled holds %q", got)
	}
}

// A replica on a zpool follows what is written, and is what a volume goes on from without its home.
func TestReplicaOnZFS(t *testing.T) {
	long.Only(t)
	f := newFlock(t, "zfs", "zfs")
	f.may = "wants replicas on more nodes" // once its home was overtaken
	d := f.a.volume("db", map[string]string{"size": "64MiB", "profile": "safe"})
	for _, text := range []string{"one", "two"} {
		f.a.writes("db", "token", text)
		written := time.Now()
		await(t, func() bool { return f.hasSince(f.b, "db", written) })
	}
	f.a.down()
	out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%s: %+v, %+v", op.State, op.Problem, op.Loss)
	}
	if got := f.b.reads("db", "token"); got != "two" {
		t.Errorf("it goes on with %q", got)
	}
	f.a.up()
	f.a.settled(d.ID)
}
