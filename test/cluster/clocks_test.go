package cluster_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

const clockProfiles = `default: plain
profiles:
  plain: {size: 320MiB, on_delete: purge}
  auto: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: guard, max_loss: 1m, on_delete: purge}
  daily: {size: 320MiB, snapshots: {schedule: "* * * * *", keep: {last: 1}}, on_delete: purge}
`

const clockSession = 2 * time.Second // and all times of leases are measured with it

// clocks is a cluster that was set up two hours ago, by the clocks of all machines.
type clocks struct {
	*cluster.Cluster

	a, b, c *cluster.Host
	wr      *cluster.Writer // of volume db, on a
}

// TestC4: the clock of a host is set an hour ahead and an hour back while it runs. Its leases are kept and end as
// usual, the newest of its snapshots is the one that was taken last, and retention keeps that one. Only a certificate
// that is younger than the clock separates the host from the others, and one line says so.
func TestC4(t *testing.T) {
	t.Parallel()
	w := &clocks{Cluster: cluster.New(t, cluster.Options{
		Consul: 1, Engines: -1, Profiles: clockProfiles, Clock: -2 * time.Hour, Step: clockSession / 10,
		Env: []string{"DROVER_SESSION=" + clockSession.String()}, Lease: lease,
	})}
	w.a, w.b, w.c = w.Hosts[0], w.Hosts[1], w.Hosts[2]
	host.Await(t, "a volume is made", func() error {
		if r := w.a.Exec(t, "volume", "create", "db@auto"); r.Exit != 0 {
			return errors.New(r.Err) // control has not heard of the guards yet
		}
		return nil
	})
	w.a.Must(t, "volume", "create", "dated@daily")
	if err := w.c.Plug(t).Create("other", nil); err != nil {
		t.Fatal(err)
	}
	w.wr = w.StartWriter(t, w.a, "db@auto")
	for _, r := range w.Controls {
		r.SetClock(t, 0)
	}
	for _, h := range w.Hosts {
		h.SetClock(t, 0)
	}
	for _, s := range []struct {
		name string
		test func(*testing.T)
	}{{"leases", w.heldAllTheWhile}, {"retention", w.retention}, {"failover", w.failover}, {"certificates", w.certificates},
		{"certificate expires", w.certificateExpires}} {
		if !t.Run(s.name, s.test) {
			return
		}
	}
}

// heldAllTheWhile changes clocks while a writer writes, each time for longer than a lease lasts that is not renewed.
func (w *clocks) heldAllTheWhile(t *testing.T) {
	for _, off := range []time.Duration{0, -time.Hour, time.Hour} {
		w.a.SetClock(t, off)
		w.c.SetClock(t, -off)
		for since := clock.Boottime(); clock.Boottime() < since+clockSession*3/2; {
			w.wr.AwaitProgress(t)
			st, err := w.a.Guard.Status(t.Context())
			if err != nil || len(st.Datasets) != 1 || st.Datasets[0].State != guard.StateArmed || st.Datasets[0].Fence != nil {
				t.Fatalf("host-a's clock is %s off: %+v, %v", off, st, err)
			}
		}
		w.Controls[0].Must(t, "snapshot", "create", "db", "--name", fmt.Sprintf("at%.0f", off.Hours()+3))
		mounted(t, w.c, "other", func(string) {})
	}
	for _, e := range w.wr.Entries(t) {
		if e.Err != "" {
			t.Errorf("a write failed: %+v", e)
		}
	}
	w.c.SetClock(t, 0)
}

// retention has scheduled snapshots taken on a host that is an hour behind the previous host of the volume. The
// snapshot that was taken last is kept.
func (w *clocks) retention(t *testing.T) {
	w.c.SetClock(t, -time.Hour)
	minute := 0
	next := func() { // the time of the schedule, by the clocks of control
		minute++
		for _, r := range w.Controls {
			r.SetClock(t, time.Duration(minute)*time.Minute)
		}
	}
	taken := func(epochs ...uint64) {
		t.Helper()
		host.Await(t, fmt.Sprintf("snapshots of epochs %v are there", epochs), func() error {
			var list []dataset.Snapshot
			w.b.JSON(t, &list, "snapshot", "ls", "dated")
			var have []uint64
			for _, s := range list {
				have = append(have, s.Epoch)
			}
			if slices.Sort(have); !slices.Equal(have, epochs) {
				return fmt.Errorf("they are of %v", have)
			}
			return nil
		})
	}
	next()
	taken(1)
	w.Controls[0].Must(t, "volume", "move", "dated", w.c.Name)
	now := w.c.Inspect(t, "dated").Epoch
	next()
	taken(now)
	w.c.SetClock(t, 0)
}

// failover: the clock of a home is an hour behind the clock with which its snapshots were taken. The new home
// continues from what was transferred last.
func (w *clocks) failover(t *testing.T) {
	w.a.SetClock(t, -time.Hour)
	w.Controls[0].Must(t, "snapshot", "create", "db", "--name", "behind")
	w.wr.AwaitProgress(t)
	since := time.Now().Add(-time.Hour)
	host.Await(t, "a replica has what was written since", func() error {
		for _, k := range w.b.Inspect(t, "db").CopyDetails {
			if ahead := k.VerifiedAtHome.Sub(since); k.Kind == dataset.CopyReplica && k.Promotable() && ahead > 0 && ahead < time.Hour {
				return nil
			}
		}
		return fmt.Errorf("%+v", w.b.Inspect(t, "db").CopyDetails)
	})
	w.Net.Isolate(w.a.On)
	w.a.Kill9(t)
	next := w.StartWriter(t, w.b, "db@auto")
	var ops []dataset.Operation
	w.Controls[0].JSON(t, &ops, "operation", "ls")
	var losses []witness.Loss
	for _, op := range ops {
		if op.Loss != nil && op.State == dataset.OpDone {
			if op.Loss.Taken.Before(since) || op.Loss.Taken.After(time.Now()) {
				t.Errorf("it continued from %+v", op.Loss)
			}
			after := int64(clock.Boottime()) - int64(time.Since(op.Loss.Taken.Add(time.Hour)))
			losses = append(losses, witness.Loss{Dataset: op.DatasetID.String(), Epoch: op.Epoch, After: after})
		}
	}
	next.Stop(t)
	w.Check(t, []witness.Copy{w.Head(t, w.b, "db@auto")}, losses...)
	out := w.b.Must(t, "snapshot", "ls", "db")
	for _, name := range []string{"at2", "at3", "at4", "behind"} {
		if !strings.Contains(out, name) {
			t.Errorf("snapshot %s is gone:\n%s", name, out)
		}
	}
	w.Net.Heal()
	w.a.Up(t)
}

// certificates: a restarted control replica has a new certificate, which a host whose clock is an hour behind does
// not accept yet.
func (w *clocks) certificates(t *testing.T) {
	w.c.SetClock(t, -time.Hour)
	for _, r := range w.Controls {
		r.Kill9(t)
		r.Up(t)
	}
	r := w.c.Exec(t, "volume", "create", "late")
	if r.Exit != 1 || strings.Count(r.Err, "\n") != 1 || !strings.Contains(r.Err, "this host's clock shows ") || !strings.Contains(r.Err, ", the certificate of control control") || !strings.Contains(r.Err, ": set the clock, or, if it is right, get a new certificate") {
		t.Errorf("%+v", r)
	}
	mounted(t, w.c, "other", func(string) {}) // home volumes do not depend on certificates
	w.c.SetClock(t, 0)
	host.Await(t, "the clock is right, and all goes on", func() error {
		if r := w.c.Exec(t, "volume", "create", "late"); r.Exit != 0 {
			return errors.New(r.Err)
		}
		return nil
	})
}

// certificateExpires: control is dead until the certificate of a host expires. drover status on that host says so
// before, and then. It is quiet again once the clock is right and control answers.
func (w *clocks) certificateExpires(t *testing.T) {
	const day = 24 * time.Hour
	for _, r := range w.Controls {
		r.Kill9(t)
	}
	expires := finding{"warning", "certificate", "and was not renewed", "check that control is reachable"}
	expired := finding{"error", "certificate", "expired at", "drover node token, and join again"}
	w.c.SetClock(t, 27*day)
	awaitFinding(t, w.c, expires, true)
	w.c.SetClock(t, 32*day)
	awaitFinding(t, w.c, expired, true)
	w.c.SetClock(t, 0)
	awaitFinding(t, w.c, expired, false)
	awaitFinding(t, w.c, expires, false)
	for _, r := range w.Controls {
		r.Up(t)
	}
}
