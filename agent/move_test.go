package agent

import (
	"context"
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// A volume that nobody uses moves, and back: with what was written, with its snapshots,
// at a new epoch each time, and what the home that it left keeps is no head.
func TestMoveIdle(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "first")
	if err := f.a.requests.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	f.a.writes("db", "token", "second")
	for i, to := range []*flockHost{f.b, f.a, f.b} {
		from := f.other(to)
		f.moves("db", to)
		v := f.record("db")
		if v.Home != to.Node() || v.Epoch != uint64(2+i) || v.Move != uuid.Nil || len(v.Copies) != 1 || v.Copies[0] != from.Node() {
			t.Errorf("on record: %+v", v)
		}
		from.settled(d.ID)
		if got := to.reads("db", "token"); got != "second" {
			t.Errorf("it holds %q", got)
		}
		e, err := to.thePool().Stat(t.Context(), d.ID)
		if err != nil || e.State != backends.EntryReady || e.Problem != "" {
			t.Errorf("%+v, %v", e, err)
		}
		if e.Record == nil || e.Record.Epoch != v.Epoch || e.Record.Home != to.Node() {
			t.Errorf("beside the data: %+v", e.Record)
		}
	}
	if err := f.b.requests.Perform(t.Context(), api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "mine"}); err != nil {
		t.Fatal(err)
	}
	if got := f.b.reads("db", "token"); got != "first" {
		t.Errorf("the snapshot that travelled holds %q", got)
	}
	if list, err := f.a.Doctor(t.Context()); err != nil {
		t.Error(err)
	} else {
		for _, l := range list {
			if (l.Level == findings.Warning || l.Level == findings.Error) && !strings.Contains(l.Text, "its data is in memory") {
				t.Errorf("doctor: %+v", l)
			}
		}
	}
}

// The snapshot that was copied while a volume might have been in use is the last one, when
// nothing was written since; otherwise there is another.
func TestMoveTakesNoSnapshotTwice(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "first")
	for i, written := range []bool{false, true} {
		from, to := []*flockHost{f.a, f.b}[i], []*flockHost{f.b, f.a}[i]
		taken, want := 0, "first"
		from.fuse.set(-1, false, func(act string) {
			if act == "snapshot" {
				taken++
			}
		})
		to.fuse.set(-1, false, func(act string) {
			if act == "recall" && written {
				from.writes("db", "token", "second")
			}
		})
		f.moves("db", to)
		if written {
			want = "second"
		}
		if got := to.reads("db", "token"); got != want {
			t.Errorf("it holds %q", got)
		}
		from.settled(f.record("db").ID)
		if n := map[bool]int{false: 1, true: 2}[written]; taken != n {
			t.Errorf("written to meanwhile %v: %d snapshots were taken, want %d", written, taken, n)
		}
	}
}

// What is left behind can be gone on from at the epoch that was given up, though nothing was
// written since an earlier one: after moves to and fro, and after one that ended early.
func TestLeftIdleIsGoneOnFrom(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*flock){
		"moved to and fro": func(f *flock) {
			f.moves("db", f.b)
			f.a.settled(f.record("db").ID)
			f.moves("db", f.a)
			f.b.settled(f.record("db").ID)
		},
		"given up in vain": func(f *flock) {
			begun := make(chan dataset.Operation, 1)
			f.b.fuse.set(-1, false, func(act string) {
				if act != "promote" {
					return
				}
				op := <-begun
				if _, err := f.svc.CancelOperation(context.Background(), op.ID.String()); err != nil {
					f.Error(err)
				}
			})
			op := f.begins("db", f.b)
			begun <- op
			if op = f.ended(op); op.State != dataset.OpCancelled {
				f.Fatalf("%s: %+v", op.State, op.Problem)
			}
			await(f.T, func() bool { return f.a.opener(op.DatasetID) && !f.b.moveTable.IsActive(op.DatasetID) })
			f.b.fuse.set(-1, false, nil)
		},
	} {
		for _, profile := range []string{"plain", "safe"} {
			t.Run(name+", "+profile, func(t *testing.T) {
				f := newFlock(t, "loop", "loop")
				f.may = "wants replicas on more nodes" // once its home was overtaken
				d := f.a.volume("db", map[string]string{"size": "320MiB", "profile": profile})
				f.a.writes("db", "token", "all of it")
				before(f)
				epoch := f.record("db").Epoch
				f.moves("db", f.b)
				f.a.settled(d.ID)
				if epoch < 2 {
					t.Errorf("it was left at epoch %d already", epoch)
				}
				if profile == "safe" { // it is as fresh as any, though nothing is written
					await(t, func() bool { v := f.record("db"); return len(v.Kept) == 1 && !v.Kept[0].Current.IsZero() })
				}
				f.b.down()
				out, err := f.svc.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: "host-a", Force: true, Fenced: "host-b"})
				if err != nil {
					t.Fatal(err)
				}
				if op := f.ended(*out.Operation); op.State != dataset.OpDone {
					t.Fatalf("%s: %+v", op.State, op.Problem)
				}
				if got := f.a.reads("db", "token"); got != "all of it" {
					t.Errorf("it goes on with %q", got)
				}
			})
		}
	}
}

// lastSnapshotHangs is a flock that waits 400 ms for what is in use, with a volume whose home
// takes no last snapshot of what it gives up before it goes on.
func lastSnapshotHangs(t *testing.T) (f *flock, d dataset.Dataset, goOn func()) {
	t.Helper()
	f = newFlock(t, "loop", "loop")
	for _, h := range []*flockHost{f.a, f.b} {
		h.cfg.Limits.Lease = 400 * time.Millisecond
		h.again()
	}
	d = f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.writes("db", "token", "old")
	release := make(chan struct{})
	goOn = sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	f.a.fuse.set(-1, false, func(act string) {
		if _, given := f.a.leases.Relinquished(d.ID); given && act == "snapshot" {
			<-release
		}
	})
	f.b.fuse.set(-1, false, func(act string) {
		if act == "recall" { // so that there is something to sum up
			f.a.writes("db", "token", "new")
		}
	})
	return f, d, goOn
}

// A home that takes longer to sum up what it gives up than a move waits for what is in use
// says so, and the move waits.
func TestMoveWaitsForTheSum(t *testing.T) {
	t.Parallel()
	f, _, goOn := lastSnapshotHangs(t)
	op := f.begins("db", f.b)
	await(t, func() bool { return slices.Equal(f.operation(op.ID).Holders, []string{dataset.GivingUp}) })
	until := time.Now().Add(3 * f.b.Limits.Lease)
	await(t, func() bool { return time.Now().After(until) || f.operation(op.ID).State.Final() })
	if now := f.operation(op.ID); now.State.Final() {
		t.Errorf("%s: %+v", now.State, now.Problem)
	}
	goOn()
	if op = f.ended(op); op.State != dataset.OpDone || len(op.Holders) > 0 {
		t.Errorf("%s, %v: %+v", op.State, op.Holders, op.Problem)
	}
}

// A home that hangs while it gives a volume up says so in the end, and the move ends. Once it
// goes on the volume is its own again; when it has moved the home keeps nothing of that.
func TestMoveEndsWhereItsHomeHangs(t *testing.T) {
	t.Parallel()
	f, d, goOn := lastSnapshotHangs(t)
	op := f.ended(f.begins("db", f.b))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "pool default lies on may hang") {
		t.Fatalf("%s: %+v", op.State, op.Problem)
	}
	goOn()
	f.b.fuse.set(-1, false, nil)
	await(t, func() bool { _, given := f.a.leases.Relinquished(d.ID); return !given })
	if got := f.a.reads("db", "token"); got != "new" {
		t.Errorf("it goes on with %q", got)
	}
	op = f.ended(f.begins("db", f.b))
	if op.State != dataset.OpDone {
		t.Fatalf("%s: %+v", op.State, op.Problem)
	}
	f.a.settled(d.ID)
	if _, sent := f.a.sender.Sent(f.b.Node(), dataset.Snapshot{ID: op.Manifest.Snapshot, Dataset: d.ID}); sent {
		t.Error("it still knows what it sent")
	}
}

// What a host may take of its network is one limit on all that it sends and receives.
func TestTransferRate(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	if f.a.sender.Limit != nil || f.a.puller.Limit != nil {
		t.Error("limited, though nothing is said of it")
	}
	f.a.down()
	f.a.cfg.TransferRate = 1 << 20
	f.a.up()
	if f.a.sender.Limit == nil || f.a.sender.Limit != f.a.puller.Limit {
		t.Errorf("sends by %p, receives by %p", f.a.sender.Limit, f.a.puller.Limit)
	}
}

// asks counts what a host asks others for, by the last part of the path.
type asks struct {
	http.RoundTripper
	asked map[string]int // by one request after the other
}

func (a asks) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked[path.Base(r.URL.Path)]++
	return a.RoundTripper.RoundTrip(r)
}

// What nobody uses is copied once, however much it is; of what is in use the second round
// brings what was written during the first.
func TestMoveOfIdleIsOneRound(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	f.a.cfg.Limits.Lease = time.Minute
	f.a.volume("db", map[string]string{"size": "320MiB"})
	for i, used := range []bool{false, true} {
		from, to := []*flockHost{f.a, f.b}[i], []*flockHost{f.b, f.a}[i]
		count := asks{to.cfg.PeerHTTP, map[string]int{}}
		to.cfg.PeerHTTP = count
		to.again()
		from.writes("db", "much", string(treetest.Bytes(uint64(i), move.LittleEnough+1<<20)))
		if used {
			from.mounts("db", "user")
			to.fuse.set(-1, false, func(act string) {
				if act == "recall" {
					from.unmounts("db", "user")
				}
			})
		}
		f.moves("db", to)
		from.settled(f.record("db").ID)
		if n, want := count.asked["freshen"], i+1; n != want {
			t.Errorf("used %v: its home is asked for %d snapshots, want %d", used, n, want)
		}
	}
}

// settled waits until a host has done what it is to do about a dataset whose home is
// elsewhere: it has a copy without a head and neither mounts nor opens it.
func (h *flockHost) settled(id uuid.UUID) {
	h.f.Helper()
	await(h.f.T, func() bool {
		_, given := h.leases.Relinquished(id)
		_, kept := h.Cache.Copy(id)
		e, err := h.thePool().Stat(h.f.Context(), id)
		if h.f.shared != "" {
			_, known := h.Cache.Dataset(id)
			return !kept && !given && !known && errors.Is(err, dataset.ErrNotFound)
		}
		return kept && !given && err == nil && e.State == backends.EntryCopy && !e.Promoted
	})
}
