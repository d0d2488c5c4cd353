package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/history"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/volumes"
)

func TestMain(m *testing.M) { engine.Main(m) }

const profiles = volumes.Profiles + `  safe: {size: 512MiB, replicas: {count: 1, every: 2s}, on_delete: {trash: 1h}}
  there: {placement: 'node == "host-b" and load_10 < 100000', on_delete: purge}
  nowhere: {placement: 'load_10 < 100000 and node matches "^db"'}
  auto: {size: 512MiB, replicas: {count: 2, every: 2s}, failover: auto, fence: guard, max_loss: 1m, on_delete: {trash: 1h}}
`

// world is a cluster that scenarios share. Writers on the first and on the last host run through all scenarios.
type world struct {
	*cluster.Cluster

	writers []*cluster.Writer
	moved   []witness.Copy // contents of volumes to which other writers wrote
	losses  []witness.Loss // losses that were announced
}

// TestCluster: one cluster serves all scenarios that leave it intact. At the end everything that was created is
// removed, and nothing may be left.
func TestCluster(t *testing.T) {
	t.Parallel()
	w := &world{Cluster: cluster.New(t, cluster.Options{Profiles: profiles})}
	for _, h := range []*cluster.Host{w.Hosts[0], w.Hosts[2]} {
		w.writers = append(w.writers, w.StartWriter(t, h, "always-"+h.Name+"@gold"))
	}
	for _, s := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"volumes", testVolumes},
		{"I5", testI5},
		{"A4", testA4},
		{"A5", testA5},
		{"A9", testA9},
		{"A6", testA6},
		{"B5 control away", testControlAway},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			s.test(t, w)
			for _, wr := range w.writers {
				wr.AwaitProgress(t)
			}
		}) {
			return // the following scenarios need an intact cluster
		}
	}
	w.end(t)
}

// end stops the writers, compares what they wrote with the volumes, and removes everything.
func (w *world) end(t *testing.T) {
	t.Helper()
	heads := w.moved
	for _, wr := range w.writers {
		for _, e := range wr.Entries(t) {
			if e.Err != "" {
				t.Errorf("a write failed: %+v", e)
			}
		}
		wr.Stop(t)
		heads = append(heads, w.Head(t, wr.Host, wr.Volume))
	}
	w.Check(t, heads, w.losses...)
	control := w.Controls[1]
	last := w.Hosts[2]
	if out := control.Must(t, "node", "drain", last.Name); !strings.Contains(out, "node "+last.Name+" has no volumes left") {
		t.Errorf("drained: %s", out)
	}
	control.Must(t, "node", "cordon", "--off", last.Name)
	for _, name := range w.Hosts[1].Volumes(t) {
		control.Must(t, "volume", "rm", name, "--force", "--yes")
	}
	control.Must(t, "trash", "purge", "--all", "--yes")
	for _, h := range w.Hosts {
		host.Await(t, "all is gone on "+h.Name, func() error {
			left, err := w.datasets(h)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("left: %v", left)
			}
			return err
		})
		// A host reports to each control replica every ten seconds, and names those that did not answer.
		host.AwaitNoFinding(t, h.Host, "does not answer")
		h.Clean(t, cluster.WeakGuard)
		for _, line := range h.ErrorLines() {
			t.Errorf("%s had to log %s", h.Name, line)
		}
	}
}

// testI5: concurrent creates of one name from all hosts make one dataset, and all succeed.
func testI5(t *testing.T, w *world) {
	names := history.Names()
	var all sync.WaitGroup
	for _, h := range w.Hosts {
		for i := range 8 {
			all.Go(func() {
				c := w.NewNameClient(t, names, h)
				defer c.Close()
				for _, name := range []string{"same", fmt.Sprint("same", i)} {
					if !c.Create(name) {
						t.Errorf("create of %s on %s failed", name, h.Name)
					}
					c.Get(name)
				}
			})
		}
	}
	all.Wait()
	for _, bad := range names.Check(30 * time.Second) {
		t.Error(bad)
	}
	var mine []string
	for _, name := range w.Hosts[1].Volumes(t) {
		if strings.HasPrefix(name, "same") {
			mine = append(mine, name)
		}
	}
	if len(mine) != 9 {
		t.Errorf("volumes: %v, want one for each of 9 names", mine)
	}
	// What the losing creates made is removed: every dataset on disk has a record.
	made := map[uuid.UUID]bool{}
	for _, where := range []string{"volume", "trash"} {
		var list []api.Volume
		w.Hosts[0].JSON(t, &list, where, "ls")
		for _, v := range list {
			made[v.ID] = true
		}
	}
	for _, h := range w.Hosts {
		host.Await(t, "what lost is gone on "+h.Name, func() error {
			ids, err := w.datasets(h)
			for _, id := range ids {
				if u, perr := uuid.Parse(id); perr != nil || !made[u] {
					err = errors.Join(err, fmt.Errorf("%s is there", id))
				}
			}
			return err
		})
	}
}

// mounted mounts a volume as an engine does, calls f with the mount point, and unmounts it.
func mounted(t *testing.T, h *cluster.Host, volume string, f func(at string)) {
	t.Helper()
	h.Plug(t).Within(t, volume, f)
}
