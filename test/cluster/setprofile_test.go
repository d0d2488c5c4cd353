package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
)

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
