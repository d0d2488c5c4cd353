package cluster_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

// released: a person releases what the guard has fenced while the agent is alive and cut off. The writers are ended
// and the volume is unmounted, and the agent opens nothing by itself. Once it is reachable again, it has the volume
// as before, at the same epoch, for the next user.
func (c *cuts) released(t *testing.T) {
	const volume = "released"
	h := c.Hosts[0]
	host.Await(t, "a volume is made", func() error { return h.Plug(t).Create(volume+"@auto", nil) })
	wr := c.StartWriter(t, h, volume)
	was := h.Inspect(t, volume)
	release := func() host.Result {
		return h.Exec(t, "guard", "release", volume, "--yes", "--run", filepath.Join(h.Dir, "run"))
	}
	state := func() guard.State {
		st, err := h.Guard.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(st.Datasets, func(e guard.Entry) bool { return e.Dataset == was.ID })
		if i < 0 {
			return ""
		}
		return st.Datasets[i].State
	}
	if r := release(); r.Exit != 1 || !strings.Contains(r.Err, "it is armed, not fenced") {
		t.Errorf("release of a volume that is not fenced: %+v", r)
	}
	c.Net.Isolate(h.On)
	host.Await(t, "it is fenced", func() error {
		if s := state(); s != guard.StateFenced {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	if r := release(); r.Exit != 0 {
		t.Fatalf("%+v", r)
	}
	at, err := witness.Now()
	if err != nil {
		t.Fatal(err)
	}
	if s := state(); s != "" {
		t.Errorf("the guard still has it as %s", s)
	}
	if points := mounts(t, h); len(points) > 0 {
		t.Errorf("mounted: %v", points)
	}
	if _, err := h.Plug(t).Mount(volume, host.NewID()); err == nil {
		t.Error("a host that is cut off opens it")
	}
	c.Net.Heal()
	var next []witness.Entry
	host.Await(t, "a container writes there again", func() (err error) {
		next, err = wrote(t, h, volume, was.ID)
		return err
	})
	wr.Stop(t) // its engine says so at last
	if points := mounts(t, h); len(points) > 0 {
		t.Errorf("with no container left: mounted %v", points)
	}
	host.Await(t, "the guard has forgotten it, after a look at the host", func() error {
		if s := state(); s != "" {
			return fmt.Errorf("the guard says %q", s)
		}
		return nil
	})
	host.Await(t, "control has heard that nobody uses it", func() error {
		if v := h.Inspect(t, volume); v.Node != h.Name || v.Epoch != was.Epoch || v.Status == nil || v.Status.Mounted || len(v.Status.Mounts) > 0 {
			return fmt.Errorf("it is on %s, at epoch %d: %+v", v.Node, v.Epoch, v.Status)
		}
		return nil
	})
	all := wr.Entries(t)
	for _, e := range all {
		if e.Begin > at {
			t.Errorf("written after it was released: %+v", e)
		}
	}
	all = append(all, next...)
	if bad := witness.Check(all, []witness.Copy{c.Head(t, h, volume)}, nil); len(bad) > 0 {
		t.Error(strings.Join(bad, "\n"))
	}
	h.Clean(t, cluster.WeakGuard)
	c.Controls[0].Must(t, "volume", "rm", volume, "--yes")
}
