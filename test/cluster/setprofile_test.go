package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

const replicaProfiles = `default: plain
profiles:
  plain: {size: 320MiB, on_delete: purge}
  safe: {size: 320MiB, replicas: {count: 1, every: 1s}, on_delete: purge}
`

// rows inserts rows into a database until it is stopped. A query that fails is an error of the test.
type rows struct {
	stop  chan struct{}
	ended sync.WaitGroup
	acked int // rows whose insert was acknowledged; valid after end
	got   chan int
}

// insertRows starts to insert rows into the table d.rows.
func insertRows(t *testing.T, w *drained, h *cluster.Host) *rows {
	r := &rows{stop: make(chan struct{}), got: make(chan int)}
	r.ended.Go(func() {
		for n := 1; ; n++ {
			if q := w.db.Try(t, h.Engine, "db", fmt.Sprintf("INSERT INTO d.rows VALUES (%d)", n)); q.Exit != 0 {
				t.Errorf("insert of row %d failed: %v", n, q)
				<-r.stop
				return
			}
			r.acked = n
			select {
			case <-r.stop:
				return
			case r.got <- n:
			default:
			}
		}
	})
	return r
}

// awaitMore waits until a few more rows are acknowledged.
func (r *rows) awaitMore() {
	for range 3 {
		<-r.got
	}
}

// end stops the inserts, and returns how many were acknowledged.
func (r *rows) end() int {
	close(r.stop)
	r.ended.Wait()
	return r.acked
}

// TestSetProfileToReplicas: a volume gets replicas while a database writes to it. No write fails, the replica is built
// in the background, and the database has every acknowledged row on the node with the replica. The profile is changed
// back while the database runs there.
func TestSetProfileToReplicas(t *testing.T) {
	t.Parallel()
	w := &drained{cluster.New(t, cluster.Options{
		Consul: 1, Engines: 2, Hosts: 2, Profiles: replicaProfiles, Env: []string{"DROVER_SESSION=2s"},
	}), engine.MariaDB()}
	a, b, control := w.Hosts[0], w.Hosts[1], w.Controls[0]
	w.start(t, a, "mysql@plain")
	w.db.Query(t, a.Engine, "db", "CREATE DATABASE d; CREATE TABLE d.rows (n INT)")
	writes, wr := insertRows(t, w, a), w.StartWriter(t, a, "busy@plain")
	before := a.Inspect(t, "mysql")
	for _, v := range []string{"mysql", "busy"} {
		r := control.Exec(t, "volume", "set-profile", v, "safe")
		if r.Exit != 0 || !strings.Contains(r.Out, "; building replica on "+b.Name+" in the background") {
			t.Fatalf("%+v", r)
		}
	}
	for _, v := range []string{"mysql", "busy"} {
		host.Await(t, "the replica is complete", func() error { return replicated(t, b, v) })
	}
	if out := control.Must(t, "volume", "inspect", "mysql"); !strings.Contains(out, "healthy: 1 of 1 complete") {
		t.Errorf("%s", out)
	}
	writes.awaitMore()
	wr.AwaitProgress(t)
	if now := a.Inspect(t, "mysql"); now.Home != before.Home || now.Epoch != before.Epoch {
		t.Errorf("epoch %d on %s before, %d on %s now", before.Epoch, before.Node, now.Epoch, now.Node)
	}
	acked := writes.end()
	for _, e := range wr.Entries(t) {
		if e.Err != "" {
			t.Errorf("a write failed: %+v", e)
		}
	}
	wr.Stop(t)
	a.Docker(t, "rm", "--force", "--volumes=false", "db")

	w.start(t, b, "mysql@safe")
	w.wantRows(t, b, acked)
	w.Check(t, []witness.Copy{w.Head(t, b, "busy")})
	t.Logf("%d rows were inserted", acked)
	host.Await(t, "the replica is on the other host", func() error { return replicated(t, a, "mysql") })
	if r := control.Exec(t, "volume", "set-profile", "mysql", "plain"); r.Exit != 2 ||
		!strings.Contains(r.Err, "destroys its replica on "+a.Name) {
		t.Errorf("set-profile without a confirmation: %+v", r)
	}
	control.Must(t, "volume", "set-profile", "mysql", "plain", "--yes")
	host.Await(t, "the replica is destroyed", func() error {
		if v := b.Inspect(t, "mysql"); len(v.CopyDetails) > 0 {
			return fmt.Errorf("%+v", v.CopyDetails)
		}
		return nil
	})
	w.insert(t, b, acked+1)
	w.wantRows(t, b, acked+1)
	b.Docker(t, "rm", "--force", "db")
}

const failoverProfiles = `default: plain
profiles:
  plain: {size: 320MiB, replicas: {count: 1, every: 1s}, on_delete: purge}
  auto: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: guard, max_loss: 1h, on_delete: purge}
`

// TestSetProfileToFailover: a volume gets failover auto, manual and auto again while a program writes to it. No write
// fails, and the guard has the volume only with failover auto. Then its host is lost, and the other one takes over.
func TestSetProfileToFailover(t *testing.T) {
	t.Parallel()
	w := cluster.New(t, cluster.Options{
		Consul: 1, Controls: 1, Hosts: 2, Engines: -1, Profiles: failoverProfiles, Step: 500 * time.Millisecond,
		Env: []string{"DROVER_SESSION=5s"},
	})
	a, b, control := w.Hosts[0], w.Hosts[1], w.Controls[0]
	wr := w.StartWriter(t, a, "db@plain")
	host.Await(t, "the replica is complete", func() error { return replicated(t, b, "db") })
	guarded := func() bool {
		st, err := a.Guard.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(st.Datasets) > 0
	}
	for range 2 {
		if guarded() {
			t.Error("the guard has a volume with failover manual")
		}
		host.Await(t, "control knows the guards", func() error {
			if r := control.Exec(t, "volume", "set-profile", "db", "auto"); r.Exit != 0 || !strings.Contains(r.Out, "volume db has profile auto@") {
				return errors.New(r.Err + r.Out)
			}
			return nil
		})
		if !guarded() {
			t.Error("set-profile to auto has ended, and the guard does not have the volume")
		}
		wr.AwaitProgress(t)
		control.Must(t, "volume", "set-profile", "db", "plain")
		host.Await(t, "the guard has forgotten it", func() error {
			if guarded() {
				return errors.New("the guard still has it")
			}
			return nil
		})
		wr.AwaitProgress(t)
	}
	control.Must(t, "volume", "set-profile", "db", "auto")
	wr.AwaitProgress(t)
	for _, e := range wr.Entries(t) {
		if e.Err != "" {
			t.Errorf("a write failed: %+v", e)
		}
	}
	before := b.Inspect(t, "db")
	w.Net.Isolate(a.On)
	next := w.StartWriter(t, b, "db@auto")
	next.AwaitProgress(t)
	if now := b.Inspect(t, "db"); now.Node != b.Name || now.Epoch != before.Epoch+1 {
		t.Errorf("epoch %d on %s before, %d on %s now", before.Epoch, before.Node, now.Epoch, now.Node)
	}
	w.Net.Heal()
	host.Await(t, "what was overtaken is kept aside", func() error {
		for _, k := range b.Inspect(t, "db").CopyDetails {
			if k.Kind == dataset.CopySuperseded && k.NodeName == a.Name && k.Snapshot != uuid.Nil {
				return nil
			}
		}
		return errors.New("there is no such copy")
	})
	next.AwaitProgress(t)
	wr.Stop(t)
	next.Stop(t)
}
