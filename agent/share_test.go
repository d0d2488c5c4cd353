package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// anywhere takes every folder for one of a share.
func anywhere(string) (string, error) { return "", nil }

// A move between pools of one share copies nothing: what was written is there, with its
// snapshots, in the same files, and the old home has nothing of it any more.
func TestMoveOnAShare(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	s, err := f.svc.Submit(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.ended(*s.Operation); op.State != dataset.OpDone {
		t.Fatalf("snapshot: %+v", op.Problem)
	}
	f.a.writes("db", "token", "later")
	inode := func(h *flockHost) os.FileInfo {
		info, err := os.Stat(filepath.Join(f.shared, h.NodeName, "datasets", d.ID.String(), "head", "token"))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	was := inode(f.a)
	for i, to := range []*flockHost{f.b, f.a, f.b} {
		f.moves("db", to)
		if v := f.record("db"); v.Home != to.Node() || v.Epoch != uint64(i+2) || v.Pool != to.thePool().ID() || len(v.Copies) != 0 {
			t.Errorf("on record: %+v", v.Dataset)
		}
		f.other(to).settled(d.ID)
		if !os.SameFile(was, inode(to)) {
			t.Error("it was copied")
		}
		if got := to.reads("db", "token"); got != "later" {
			t.Errorf("it holds %q", got)
		}
		if e, err := to.thePool().Stat(t.Context(), d.ID); err != nil || len(e.Snapshots) != 1 || e.Problem != "" || e.Record.Epoch != uint64(i+2) || e.Record.Home != to.Node() {
			t.Errorf("it lies there as %+v, %v", e, err)
		}
	}
	if list, err := f.svc.Pools(t.Context()); err != nil || len(list) != 2 || list[0].Share != list[1].Share || list[0].Reach != dataset.ReachCluster {
		t.Errorf("pools: %+v, %v", list, err)
	}
}

// A mount on another host has it follow, however little the profile lets it take; in use it
// does not, and who uses it goes on.
func TestFollowOnAShare(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	f.a.cfg.Limits.Lease = time.Second
	f.a.again()
	f.a.volume("db@hurry", nil)
	f.a.writes("db", "token", "kept")
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
	path := f.b.mounts("db", "user")
	if _, err := f.a.Mount(t.Context(), "db", "other"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "user") {
		t.Errorf("mounted elsewhere meanwhile: %v", err)
	}
	if err := os.WriteFile(filepath.Join(path, "token"), []byte("goes on"), 0o600); err != nil {
		t.Error(err)
	}
	f.b.unmounts("db", "user")
	if got := f.a.reads("db", "token"); got != "goes on" {
		t.Errorf("it holds %q", got)
	}
}

// A home that was passed over by a person's word finds nothing to mount, nor takes it back:
// neither while control is away, nor after.
func TestPassedOverOnAShare(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	f.a.down()
	out, err := f.svc.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: f.b.NodeName, Force: true, Fenced: f.a.NodeName})
	if err != nil {
		t.Fatal(err)
	}
	if op := f.ended(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
	if v := f.record("db"); v.Home != f.b.Node() || v.Epoch != 2 || len(v.Copies) != 0 || len(v.Losses) != 0 {
		t.Errorf("on record: %+v", v.Dataset)
	}
	link := f.a.cfg.Control
	f.a.cfg.Control = away{link}
	f.a.up()
	if path, err := f.a.Mount(t.Context(), "db", "old"); err == nil {
		t.Errorf("mounted at %s without control", path)
	}
	f.a.down()
	f.a.cfg.Control = link
	f.a.up()
	f.a.settled(d.ID)
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// A host that stands in for one that is gone, with the folder of that, does not take a volume
// from there to there, whatever it is asked: all of it would go.
func TestI1TakeFromTheOwnPool(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	pool := f.a.thePool()
	next := f.record("db").Dataset
	next.Epoch++
	op := &dataset.Operation{Volume: "db", DatasetID: d.ID, Epoch: d.Epoch, Share: true, Dataset: &next}
	if err := f.a.mover.ClearPlace(t.Context(), pool, op, pool.ID(), nil); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover store rebuild") {
		t.Errorf("cleared: %v", err)
	}
	if got := f.a.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// What a crash left of a volume that went on at another node, which has not taken it yet, is
// not taken for one that was never acknowledged.
func TestNotTakenYetIsKept(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	folder := filepath.Join(f.shared, f.a.NodeName, "incoming", d.ID.String())
	if err := os.Rename(filepath.Join(f.shared, f.b.NodeName, "datasets", d.ID.String()), folder); err != nil {
		t.Fatal(err)
	}
	f.a.again()
	if _, err := os.Stat(filepath.Join(folder, "head", "token")); err != nil {
		t.Error(err)
	}
	if err := f.b.thePool().(backends.Sharer).Take(t.Context(), f.record("db").Dataset, backends.Given{Pool: f.a.thePool().ID(), Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	if got := f.b.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// What lies with a home that was left, of a volume that its new home has not taken yet, is all
// there is of it: nothing destroys it, be the volume in the trash or control away, and doctor says
// to destroy nothing.
func TestNotTakenYetIsNotCollected(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	control := &deaf{Service: f.a.cfg.Control}
	f.a.cfg.Control = control
	f.a.again()
	d := f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	f.moves("db", f.b)
	f.a.settled(d.ID)
	folder := func(h *flockHost) string { return filepath.Join(f.shared, h.NodeName, "datasets", d.ID.String()) }
	if err := os.Rename(folder(f.b), folder(f.a)); err != nil {
		t.Fatal(err)
	}
	kept := func(when string, says string, kind error) {
		t.Helper()
		found, err := f.a.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, is := range found {
			text += is.Subject + ": " + is.Text + " (" + is.Mend + ")\n"
		}
		if !strings.Contains(text, says) || strings.Contains(text, "--gc") || strings.Contains(text, "quarantined") {
			t.Errorf("%s doctor says:\n%s", when, text)
		}
		if err := f.a.Collect(t.Context(), d.ID); !errors.Is(err, kind) {
			t.Errorf("%s collected: %v", when, err)
		}
		if _, err := os.Stat(filepath.Join(folder(f.a), "head", "token")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	back := replication.MoveRecord{Move: uuid.New(), Pool: f.a.thePool().ID(), Share: true, Epoch: 3, Since: time.Now()}
	if err := f.a.moveTable.Set(t.Context(), d.ID, back); err != nil { // as a move back leaves it that failed
		t.Fatal(err)
	}
	kept("live", "dataset "+d.ID.String()+": lies in pool default as volume db, which has its home at another node", dataset.ErrExists)
	control.off.Store(true)
	kept("where control does not say", "whether another node has dataset "+d.ID.String()+" on record is not known", dataset.ErrUnavailable)
	control.off.Store(false)
	if err := f.b.Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	kept("in the trash", "dataset "+d.ID.String()+": lies in pool default as volume db, which has its home at another node", dataset.ErrExists)
}

// deaf is a control service that, while it is off, says what a node has on record, and no more.
type deaf struct {
	api.Service
	off atomic.Bool
}

func (c *deaf) Volume(ctx context.Context, ref string) (api.Volume, error) {
	if c.off.Load() {
		return api.Volume{}, errAway
	}
	return c.Service.Volume(ctx, ref)
}

func (c *deaf) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	if c.off.Load() {
		return api.List[dataset.Snapshot]{}, errAway
	}
	return c.Service.Snapshots(ctx, ref, p)
}

// A node whose share only says that it is the same one takes nothing: the move fails while the
// home has it still.
func TestMoveToACopyOfAShare(t *testing.T) {
	f := &flock{T: t}
	f.serve()
	f.a = f.host("host-a", "nfs")
	first := f.shared
	f.shared = t.TempDir()
	f.b = f.host("host-b", "nfs")
	t.Cleanup(f.close)
	f.a.up()
	mark, err := os.ReadFile(filepath.Join(first, "share.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(f.shared, "share.json"), mark, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.b.up()
	f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	out, err := f.svc.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: f.b.NodeName})
	if err != nil {
		t.Fatal(err)
	}
	op := f.ended(*out.Operation)
	if !op.Share || op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "not the share that it lies on") || op.Manifest != nil {
		t.Errorf("%+v, %+v", op, op.Problem)
	}
	if v := f.record("db"); v.Home != f.a.Node() || v.Epoch != 1 {
		t.Errorf("on record: %+v", v.Dataset)
	}
	if got := f.a.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// A pool on another share than it was made on is offline, and nothing is done in it, until its
// share is back.
func TestShareThatWasExchanged(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "nfs", "nfs")
	f.a.volume("db", nil)
	f.a.writes("db", "token", "kept")
	file := filepath.Join(f.shared, "share.json")
	was, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(`{"format":1,"id":"1b4e28ba-2fa1-41d2-883f-0016d3cca427"}`), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.a.again()
	if _, err := f.a.Mount(t.Context(), "db", "user"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "1b4e28ba-2fa1-41d2-883f-0016d3cca427") {
		t.Errorf("mounted on another share: %v", err)
	}
	if err := os.WriteFile(file, was, 0o600); err != nil {
		t.Fatal(err)
	}
	f.a.again()
	if got := f.a.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// A home that is cut off from control goes on; when another one takes its volume over, once a
// command has shut it out, whoever holds it here is killed as soon as that is heard, and
// nothing of it is left. So too when the volume was removed meanwhile.
func TestI1FailoverOnAShare(t *testing.T) {
	for _, removed := range []bool{false, true} {
		t.Run(fmt.Sprintf("removed %t", removed), func(t *testing.T) { failoverOnAShare(t, removed) })
	}
}

func failoverOnAShare(t *testing.T, removed bool) {
	g := newGuardedOn(t, "nfs", 2*time.Second)
	await(t, func() bool { // control has heard of both guards
		nodes, err := g.svc.NodeList(t.Context(), "")
		return err == nil && len(nodes) == 2 && nodes[0].Guarded && nodes[1].Guarded
	})
	if err := g.a.Create(t.Context(), "db@shut", nil); err != nil {
		t.Fatal(err)
	}
	d, _ := g.a.Cache.Volume("db")
	g.a.writes("db", "token", "kept")
	path := g.a.mounts("db", "user")
	holder := exec.Command("sleep", "1000")
	holder.Dir = path
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	killed := make(chan error, 1)
	go func() { killed <- holder.Wait() }()
	g.la.away()
	await(t, func() bool { // its session is over
		nodes, err := g.svc.NodeList(t.Context(), "")
		return err == nil && slices.ContainsFunc(nodes, func(n api.Node) bool { return n.ID == g.a.Node() && !n.Live })
	})
	if got := g.b.reads("db", "token"); got != "kept" {
		t.Errorf("it goes on with %q", got)
	}
	if v := g.record("db"); v.Home != g.b.Node() || v.Epoch != d.Epoch+1 || len(v.Copies)+len(v.Kept) != 0 {
		t.Errorf("%+v", v)
	}
	if removed {
		if err := g.b.Remove(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-killed:
		t.Errorf("killed before it was heard: %v", err)
	default:
	}
	g.la.back()
	if err := <-killed; err == nil {
		t.Error("who held it was not killed")
	}
	await(t, func() bool {
		mounted, err := host.IsMountPoint(path)
		_, there := g.wa.entry(d.ID)
		return err == nil && !mounted && !there && len(g.a.uses.Get(d.ID).IDs) == 0
	})
	g.a.settled(d.ID)
	if removed {
		return
	}
	if got := g.b.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}
