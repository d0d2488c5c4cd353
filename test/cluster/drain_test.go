package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

const drainProfiles = `default: plain
profiles:
  plain: {size: 320MiB, on_delete: purge}
  safe: {size: 640MiB, replicas: {count: 1, every: 1s}, on_delete: purge}
`

// drained is a cluster with a database that two engines can run. The third host has no engine.
type drained struct {
	*cluster.Cluster

	db engine.Database
}

// TestDrain: a host is drained, and then another one that is lost. Every volume that can be moved is moved,
// preferably to a replica, with progress. Those that cannot are named with the reason. The database has its rows
// wherever it is started next.
func TestDrain(t *testing.T) {
	t.Parallel()
	const volume = "mysql@safe"
	w := &drained{cluster.New(t, cluster.Options{Consul: 1, Engines: 2, Profiles: drainProfiles, Env: []string{"DROVER_SESSION=2s"}}), engine.MariaDB()}
	a, b, c, control := w.Hosts[0], w.Hosts[1], w.Hosts[2], w.Controls[0]
	control.Must(t, "node", "cordon", b.Name) // so that the replica is on the third host
	w.start(t, a, volume)
	w.db.Query(t, a.Engine, "db", "CREATE DATABASE d; CREATE TABLE d.rows (n INT)")
	w.insert(t, a, 1)
	for _, v := range []string{"one", "two", "busy"} {
		if err := a.Plug(t).Create(v, nil); err != nil {
			t.Fatal(err)
		}
	}
	once(t, a, "two", "echo kept > /data/file")
	busy := w.StartWriter(t, a, "busy")
	host.Await(t, "there is a replica", func() error { return replicated(t, c, "mysql") })
	a.Docker(t, "rm", "--force", "--volumes=false", "db")

	w.leave(t, a, busy)
	if left := homes(t, a); len(left) > 0 {
		t.Errorf("host-a is the home of %v", left)
	}
	control.Must(t, "node", "cordon", "--off", b.Name)
	w.start(t, b, volume)
	w.wantRows(t, b, 1)
	if got := once(t, b, "two", "cat /data/file"); got != "kept" {
		t.Errorf("two has %q", got)
	}
	w.Check(t, []witness.Copy{w.Head(t, b, "busy")})
	w.lost(t, b, a)
}

// leave drains a host on which a volume is in use. The volume stays, unless the use ends meanwhile, as it does in the
// short form.
func (w *drained) leave(t *testing.T, h *cluster.Host, busy *cluster.Writer) {
	control, holder := w.Controls[0], h.Inspect(t, "busy").Status.Mounts[0].ID[:12]
	drain := make(chan host.Result, 1)
	go func() { drain <- control.Exec(t, "node", "drain", h.Name) }()
	if !long.Enabled() {
		host.Await(t, "it is asked for", func() error { return wanted(t, w.Cluster, "busy") })
		busy.Stop(t)
	}
	r := <-drain
	for _, want := range []string{"volume mysql is on node host-c\n", "volume one is on node host-", "volume two " +
		"is on node host-"} {
		if !strings.Contains(r.Out, want) {
			t.Errorf("drain does not say %q:\n%s", want, r.Out)
		}
	}
	if long.Enabled() {
		if !strings.Contains(r.Err, " of 4): ") { // it has waited long enough to be reported
			t.Errorf("the output has no progress: %s", r.Err)
		}
		if r.Exit != 1 || !strings.Contains(r.Out, "volume busy stays: ") || !strings.Contains(r.Out, holder) || !strings.Contains(r.Err, "1 of 4 volumes stay on node "+h.Name) {
			t.Errorf("with a volume in use: %+v", r)
		}
		busy.AwaitProgress(t)
		busy.Stop(t)
		r = control.Exec(t, "node", "drain", h.Name)
	}
	if r.Exit != 0 || !strings.Contains(r.Out, "volume busy is on node host-") || !strings.Contains(r.Out, "node "+h.Name+" has no "+
		"volumes left") {
		t.Errorf("drained: %+v", r)
	}
}

// lost: the host to which the database was moved is lost with everything that runs there.
func (w *drained) lost(t *testing.T, gone, next *cluster.Host) {
	control := w.Controls[0]
	control.Must(t, "node", "cordon", "--off", next.Name)
	if err := gone.Plug(t).Create("alone", nil); err != nil {
		t.Fatal(err)
	}
	w.insert(t, gone, 2)
	since := time.Now()
	host.Await(t, "the replica has the row", func() error {
		for _, k := range next.Inspect(t, "mysql").CopyDetails {
			if k.Kind == dataset.CopyReplica && k.Promotable() && k.Taken.After(since) {
				return nil
			}
		}
		return errors.New("not yet")
	})
	if r := control.Exec(t, "node", "drain", gone.Name, "--fenced", "--yes"); r.Exit != 1 || !strings.Contains(r.Out, "is alive") {
		t.Errorf("drained as lost while it is reachable: %+v", r)
	}
	w.Net.Isolate(gone.On)
	gone.Engine.Kill9(t)
	gone.Kill9(t)
	var said string // after the first of them, some volumes may be moved and others not yet
	host.Await(t, "it is away", func() error {
		r := control.Exec(t, "node", "drain", gone.Name, "--fenced", "--yes")
		said += r.Out
		if strings.Contains(r.Out, "is alive") {
			return errors.New(r.Out)
		}
		return nil
	})
	if !strings.Contains(said, "volume mysql is on node host-") || !strings.Contains(said, "volume alone stays: ") {
		t.Errorf("%s", said)
	}
	w.start(t, next, "mysql@safe")
	w.wantRows(t, next, 2)
	next.Docker(t, "rm", "--force", "db")
}

// start starts the database, and waits until it answers.
func (w *drained) start(t *testing.T, h *cluster.Host, volume string) {
	t.Helper()
	h.Docker(t, "run", "--detach", "--name", "db", "--volume", volume+":"+w.db.DataDir, "--volume-driver", h.Driver, w.db.Image)
	w.db.Await(t, h.Engine, "db")
}

func (w *drained) insert(t *testing.T, h *cluster.Host, n int) {
	t.Helper()
	w.db.Query(t, h.Engine, "db", fmt.Sprintf("INSERT INTO d.rows VALUES (%d)", n))
}

func (w *drained) wantRows(t *testing.T, h *cluster.Host, n int) {
	t.Helper()
	if got := w.db.Query(t, h.Engine, "db", "SELECT COUNT(*) FROM d.rows"); got != fmt.Sprint(n) {
		t.Errorf("on %s the database has %s rows, want %d", h.Name, got, n)
	}
}

// homes lists the volumes of which a host is the home.
func homes(t *testing.T, h *cluster.Host) (names []string) {
	t.Helper()
	for _, name := range h.Volumes(t) {
		if h.Inspect(t, name).Node == h.Name {
			names = append(names, name)
		}
	}
	return names
}
