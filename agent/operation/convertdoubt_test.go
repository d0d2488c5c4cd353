package operation_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// stuck is a control that answers every report of a conversion with an error that leaves the outcome in doubt, until
// recover is called. It keeps the first report of a success, which may arrive late.
type stuck struct {
	api.Service
	mu        sync.Mutex
	recovered bool
	reports   []api.Report // of a success
	reads     int          // of all records of the node, other than those of the follower
}

func (c *stuck) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	if rev == 0 && wait == 0 {
		c.mu.Lock()
		c.reads++
		c.mu.Unlock()
	}
	return c.Service.Sync(ctx, node, rev, wait)
}

// readsUntilNow returns how often all records of the node were read.
func (c *stuck) readsUntilNow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

func (c *stuck) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recovered || r.Operation.Kind != dataset.OpConvert {
		return c.Service.Commit(ctx, node, r)
	}
	if r.Operation.Problem == nil {
		made := *r.Operation.DatasetRecord
		r.Operation.DatasetRecord = &made
		c.reports = append(c.reports, r)
	}
	return api.Committed{}, dataset.Errorf(dataset.ErrNoSpace, "the disk of the store is full")
}

func (c *stuck) recover() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recovered = true
}

func (c *stuck) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.reports)
}

// arrives sends the first report to control, which has been delayed until now.
func (c *stuck) arrives(f *agenttest.Cluster) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := f.Client.Commit(f.Context(), f.A.Node(), c.reports[0])
	return err
}

// sticks makes the control of host A a stuck one.
func sticks(f *agenttest.Cluster) *stuck {
	f.Helper()
	c := &stuck{Service: f.Client}
	f.A.Stop()
	f.A.Config.Control = agenttest.FusedControl{Service: c, Host: f.A}
	f.A.Start()
	return c
}

// inDoubt begins a conversion of volume db, and waits until it was reported and the attempt has ended.
func inDoubt(f *agenttest.Cluster, c *stuck) dataset.Operation {
	f.Helper()
	op := setProfile(f, "db", "ext4")
	agenttest.Await(f.T, func() bool { return c.count() > 0 && !f.A.Operations.IsRunning(op.ID) })
	return op
}

// wantRefused fails the test unless the former dataset of a conversion in doubt cannot be mounted.
func wantRefused(f *agenttest.Cluster, op dataset.Operation) {
	f.Helper()
	if _, err := f.A.Mount(f.Context(), "db", "user"); err == nil || !strings.Contains(err.Error(), op.ID.String()[:8]) {
		f.Errorf("mount: %v", err)
	}
}

// Control answers that the operation is still open after the answer to a report was lost. Until the operation has
// ended, the former dataset is neither mounted nor changed. The next attempt reports the dataset of the first one, and
// the late report takes effect.
func TestConvertReportArrivesLate(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	c := sticks(f)
	d := f.A.NewVolume("db@free")
	f.A.WriteFile("db", "token", "one")
	plan, err := f.Service.Plan(t.Context(), f.A.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db"})
	if err != nil {
		t.Fatal(err)
	}
	f.A.Fuse.Set(-1, false, nil)
	op := inDoubt(f, c)
	wantRefused(f, op)
	_, err = f.A.Jobs.Do(t.Context(), "snapshot", "snapshot", func(ctx context.Context, jb *jobs.Job) error {
		_, err := f.A.Executor.Execute(ctx, jb, *plan.Operation)
		return err
	})
	if !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), op.ID.String()[:8]) {
		t.Errorf("snapshot: %v", err)
	}
	if _, err := f.A.Follower.Join(t.Context()); err != nil { // removes leftovers, and begins the next attempt
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { return c.count() > 1 })
	wantRefused(f, op)
	if err := c.arrives(f); err != nil {
		t.Fatal(err)
	}
	if op = f.AwaitEnd(op); op.State != dataset.OpDone {
		t.Fatalf("%s, %+v", op.State, op.Problem)
	}
	agenttest.Await(t, func() bool { return !f.A.Conversions.IsInDoubt(d.ID) && f.A.WouldOpen(op.DatasetRecord.ID) })
	f.A.WantFile("db", "token", "one")
	if used := f.A.Spellings.Used(f.Recorded("db").Dataset); !slices.Contains(used, "db@free") {
		t.Errorf("the engine uses %v", used)
	}
	made := slices.DeleteFunc(slices.Clone(f.A.Fuse.Seen()), func(act string) bool { return act != "create" })
	if left := left(f.A); len(made) != 1 || len(left) > 0 {
		t.Errorf("%d datasets were made, and %v are left", len(made), left)
	}
}

// A conversion in doubt whose operation is cancelled, or which control does not know any more, ends without an effect.
// A report that arrives then is refused.
func TestConvertDoubtEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(f *agenttest.Cluster, op dataset.Operation) error{
		"cancelled": func(f *agenttest.Cluster, op dataset.Operation) error {
			_, err := f.Service.CancelOperation(f.Context(), op.ID.String())
			return err
		},
		"unknown": func(f *agenttest.Cluster, op dataset.Operation) error {
			_, err := f.Service.Ledger.Update(f.Context(), func(t *record.Tx) error {
				t.Delete(record.OperationKey(op.ID))
				t.Delete(record.WorkKey(op.Node, op.ID))
				t.WakeNode(op.Node)
				return nil
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := agenttest.NewCluster(t, "loop", "dir")
			c := sticks(f)
			d := f.A.NewVolume("db@free")
			f.A.WriteFile("db", "token", "one")
			op := inDoubt(f, c)
			if err := end(f, op); err != nil {
				t.Fatal(err)
			}
			agenttest.Await(t, func() bool { return !f.A.Conversions.IsInDoubt(d.ID) })
			if err := c.arrives(f); err == nil {
				t.Error("control accepted a report of an operation that has ended")
			}
			f.A.WriteFile("db", "token", "two")
			f.A.Restart()
			f.A.WantFile("db", "token", "two")
			if now, left := f.Recorded("db"), left(f.A); now.ID != d.ID || len(left) > 0 {
				t.Errorf("%+v, left %v", now.Dataset, left)
			}
		})
	}
}

// While the outcome of a conversion of a volume with access many is unknown, no other node can mount the former
// dataset, also after a restart of the home. Once the conversion is cancelled, the other node can.
func TestConvertOfSharedVolumeInDoubt(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	f.B.Config.Timing.InUseWait = 100 * time.Millisecond
	f.B.Restart()
	f.A.Config.Pools = append(f.A.Config.Pools, pool.Config{
		Name: "disk", Backend: "loop", Path: filepath.Join(scratch.Mount(t, "xfs", 1<<30), "pool"),
	})
	c := sticks(f)
	d := f.A.NewVolume("db@many", nil)
	f.A.WriteFile("db", "token", "one")
	op := inDoubt(f, c)
	refused := func(when string) {
		t.Helper()
		if _, err := f.B.Mount(t.Context(), "db", "guest"); !errors.Is(err, dataset.ErrPending) {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("in doubt")
	f.A.Restart()
	refused("after a restart")
	if _, err := f.Service.CancelOperation(t.Context(), op.ID.String()); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { return !f.A.Conversions.IsInDoubt(d.ID) && len(f.Recorded("db").SharedMounts) == 0 })
	if got := f.B.ReadFile("db", "token"); got != "one" {
		t.Errorf("host B reads %q", got)
	}
}

// A volume with access many is converted to a profile with another access and filesystem while no other node uses it.
func TestConvertSharedVolume(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	f.A.Stop()
	f.A.Config.Pools = append(f.A.Config.Pools, pool.Config{
		Name: "disk", Backend: "loop", Path: filepath.Join(scratch.Mount(t, "xfs", 1<<30), "pool"),
	})
	f.A.Start()
	d := f.A.NewVolume("db@many", nil)
	path := f.B.MustMount("db", "guest")
	f.B.PutToken(path, "one")
	_, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "ext4"})
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "host-b") {
		t.Errorf("in use on host B: %v", err)
	}
	f.B.MustUnmount("db", "guest")
	now := converts(f, "db", "ext4")
	agenttest.Await(t, func() bool { return !f.A.Operations.IsRunning(now.Request) })
	f.A.WantFile("db", "token", "one")
	former, err := f.Client.Trash(t.Context(), api.Page{})
	if err != nil || len(former.Items) != 1 || former.Items[0].ID != d.ID || len(former.Items[0].SharedMounts) > 0 {
		t.Errorf("%+v, %v", former.Items, err)
	}
}

// A mount that waited for the lock of the former dataset while a conversion ran checks again under the lock.
func TestMountThatWaitedForConversion(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	c := sticks(f)
	d := f.A.NewVolume("db@free")
	unlock, err := f.A.Locks.Lock(t.Context(), d.ID, "test")
	if err != nil {
		t.Fatal(err)
	}
	op := setProfile(f, "db", "ext4")
	agenttest.Await(t, func() bool { return f.A.Locks.Users(d.ID) == 2 })
	mounted := make(chan error, 1)
	go func() { _, err := f.A.Mount(t.Context(), "db", "user"); mounted <- err }()
	agenttest.Await(t, func() bool { return f.A.Locks.Users(d.ID) == 3 })
	unlock()
	if err := <-mounted; err == nil || !strings.Contains(err.Error(), op.ID.String()[:8]) || c.count() == 0 {
		t.Errorf("%v, after %d reports", err, c.count())
	}
	c.recover()
}

// The agent cannot write to its database at the end of a conversion. It tries again soon: the volume is found by the
// names that the engine uses.
func TestConvertMovesSpellingsAfterFailure(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db@free")
	f.A.MustMount("db", "user") // the record of the volume has only db@free
	f.A.MustUnmount("db", "user")
	if len(f.A.Cache.RecordedSpellings(d.ID)) == 0 {
		t.Fatal("the agent has not recorded that the engine used db")
	}
	f.A.Fuse.FailNext("state spellin", errors.New("the disk is full"))
	now := converts(f, "db", "ext4")
	agenttest.Await(t, func() bool {
		used := f.A.Spellings.Used(now)
		return slices.Contains(used, "db") && slices.Contains(used, "db@free") && !f.A.Conversions.IsInDoubt(d.ID)
	})
}

// inDoubtWhileStopped begins a conversion of volume db, stops host A, and then has control record the conversion.
func inDoubtWhileStopped(f *agenttest.Cluster, c *stuck) dataset.Operation {
	f.Helper()
	op := inDoubt(f, c)
	f.A.Stop()
	if err := c.arrives(f); err != nil {
		f.Fatal(err)
	}
	c.recover()
	return op
}

// A conversion is recorded while the agent is stopped, and the former dataset is restored from the trash before the
// agent runs again. Both volumes can be used then, and the restored one can be deleted.
func TestConvertedDatasetIsRestored(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	c := sticks(f)
	d := f.A.NewVolume("db@free")
	f.A.WriteFile("db", "token", "one")
	inDoubtWhileStopped(f, c)
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: "old"})
	f.A.Start()
	agenttest.Await(t, func() bool { return !f.A.Conversions.IsInDoubt(d.ID) })
	f.A.WantFile("db", "token", "one")
	f.A.WantFile("old", "token", "one")
	if id := f.Recorded("old").ID; id != d.ID {
		t.Errorf("volume old is dataset %s, not %s", id, d.ID)
	}
	if err := f.A.Requests.Perform(t.Context(), api.Request{Kind: dataset.OpDelete, Volume: "old"}); err != nil {
		t.Error(err)
	}
}

// While the new dataset of a recorded conversion cannot be put in its place, control does not read all records of the
// node for each attempt.
func TestConvertRetriesReadNoRecords(t *testing.T) {
	t.Parallel()
	const act, attempts = "commit in the pool", 3
	f := agenttest.NewCluster(t, "loop", "dir")
	c := sticks(f)
	d := f.A.NewVolume("db@free")
	f.A.WriteFile("db", "token", "one")
	inDoubtWhileStopped(f, c)
	reads := make(chan int, attempts)
	broken := errors.New("the disk is broken")
	f.A.Fuse.Set(-1, false, func(now string) {
		if now != act || len(reads) == attempts {
			return
		}
		if reads <- c.readsUntilNow(); len(reads) < attempts {
			f.A.Fuse.FailNext(act, broken)
		}
	})
	f.A.Fuse.FailNext(act, broken)
	f.A.Start()
	agenttest.Await(t, func() bool { return !f.A.Conversions.IsInDoubt(d.ID) })
	f.A.WantFile("db", "token", "one")
	if len(reads) < attempts {
		t.Fatalf("%d attempts", len(reads))
	}
	if first, _, last := <-reads, <-reads, <-reads; last != first {
		t.Errorf("%d reads of all records between the first attempt and the third", last-first)
	}
}
