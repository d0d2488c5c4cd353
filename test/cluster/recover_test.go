package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

// TestStoreGoesBack: Consul is restored from a snapshot that was taken before volumes were made, moved and removed.
// Nothing is decided on that state until it was recovered. Containers continue to write, and home volumes are started
// and stopped. In the end nothing is lost, and every volume has one home.
func TestStoreGoesBack(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Consul: 1, Engines: 1, Profiles: profiles, Lease: lease})
	a, b, last := c.Hosts[0], c.Hosts[1], c.Hosts[2]
	wr := c.StartWriter(t, a, "writes@gold")
	write := func(h *cluster.Host, name, text string) {
		t.Helper()
		mounted(t, h, name, func(at string) {
			if err := os.WriteFile(h.File(filepath.Join(at, "file")), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	control := c.Controls[0]
	for _, spec := range []string{"moved@gold", "gone@brief", "trashed@gold", "snapped@gold"} {
		a.Must(t, "volume", "create", spec)
	}
	write(a, "moved@gold", "before")
	saved := c.Consul.Snapshot()

	control.Must(t, "volume", "move", "moved", b.Name)
	write(b, "moved@gold", "since")
	b.Must(t, "volume", "create", "made@gold")
	write(b, "made@gold", "since")
	a.Must(t, "volume", "rm", "gone", "--yes")
	a.Must(t, "volume", "rm", "trashed")
	a.Must(t, "snapshot", "create", "snapped", "--name", "late")
	host.Await(t, "what is removed is gone", func() error {
		if out := control.Must(t, "operation", "ls"); strings.Contains(out, "running") || strings.Contains(out, "pending") {
			return errors.New(out)
		}
		return nil
	})
	before := b.Inspect(t, "moved")
	c.Consul.Restore(saved)

	for _, h := range c.Hosts {
		host.Await(t, h.Name+" sees it", func() error {
			r := h.Exec(t, "volume", "create", "made@gold")
			if r.Exit == 0 || !strings.Contains(r.Err, "changes suspended") || !strings.Contains(r.Err, "drover store recover") {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	wentBack := finding{"error", "store", "", "drover store recover"}
	awaitFinding(t, a, wentBack, true)
	for _, args := range [][]string{{"volume", "rm", "snapped", "--yes"}, {"volume", "move", "snapped", b.Name}, {"snapshot", "create", "snapped"}} {
		if r := control.Exec(t, args...); r.Exit == 0 || !strings.Contains(r.Err, "changes suspended") {
			t.Errorf("drover %v: %+v", args, r)
		}
	}
	// Home volumes are there as before, and no other node has anything of them.
	alone := func() {
		t.Helper()
		wr.AwaitProgress(t)
		mounted(t, b, "moved@gold", func(at string) {
			if got, err := os.ReadFile(b.File(filepath.Join(at, "file"))); err != nil || string(got) != "since" {
				t.Errorf("moved has %q, %v", got, err)
			}
		})
		mounted(t, b, "made@gold", func(string) {})
		if got, err := b.Plug(t).Get("made@gold"); err != nil || got.Volume == nil {
			t.Errorf("changes since the snapshot are missing: %v", err)
		}
	}
	elsewhere := func() {
		t.Helper()
		if _, err := a.Plug(t).Mount("moved@gold", host.NewID()); err == nil {
			t.Error("a volume that was moved is mounted at its former home")
		}
	}
	alone()
	elsewhere()
	last.Kill9(t)
	b.Kill9(t)
	b.Up(t)
	for _, r := range c.Controls {
		r.Kill9(t)
		r.Up(t)
	}
	alone()
	elsewhere()

	// A silent node is named. What other nodes know is recovered. The silent node must report before it relies on the
	// store again.
	host.Await(t, "host-c is silent", func() error {
		var r api.Recovery
		// It lists the differences, and fails because it has not changed anything.
		got := control.Exec(t, "store", "recover", "-o", "json")
		if err := json.Unmarshal([]byte(got.Out), &r); err != nil || got.Exit != 2 {
			return fmt.Errorf("%+v: %w", got, err)
		}
		if len(r.SilentNodes) != 1 || r.SilentNodes[0] != last.Name || r.Done {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if r := control.Exec(t, "store", "recover"); r.Exit != 2 || !strings.Contains(r.Out, last.Name) || !strings.Contains(r.Out, "missing") || !strings.Contains(r.Err, "--yes") {
		t.Errorf("without a terminal: %+v", r)
	}
	// A removed volume may have been moved to that node, unless a person confirms that the node is dead. A node that
	// is reachable cannot be confirmed as dead.
	if r := control.Exec(t, "store", "recover", "--yes", "--fenced", b.Name); r.Exit == 0 || !strings.Contains(r.Err, b.Name) || !strings.Contains(r.Err, "is alive") {
		t.Errorf("without a node that is alive: %+v", r)
	}
	out := control.Must(t, "store", "recover", "--yes", "--fenced", last.Name)
	for _, want := range []string{"moved", "made", "gone", "forgotten", "trashed", "snapped", "NOT respond"} {
		if !strings.Contains(out, want) {
			t.Errorf("recover does not say %q: %s", want, out)
		}
	}
	host.Await(t, "all is decided again", func() error {
		r := a.Exec(t, "volume", "create", "after@gold")
		if r.Exit != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	last.Up(t)
	awaitFinding(t, a, wentBack, false)
	alone()
	if now := b.Inspect(t, "moved"); now.Node != b.Name || now.Epoch <= before.Epoch || now.ID != before.ID {
		t.Errorf("moved is at epoch %d on %s, was at %d", now.Epoch, now.Node, before.Epoch)
	}
	if out := control.Must(t, "volume", "ls", "-q"); strings.Contains(out, "gone") || strings.Contains(out, "trashed") {
		t.Errorf("removed volumes exist again: %s", out)
	}
	if out := control.Must(t, "trash", "ls"); !strings.Contains(out, "trashed") {
		t.Errorf("the trash lacks its former contents: %s", out)
	}
	if out := control.Must(t, "snapshot", "ls", "snapped"); !strings.Contains(out, "late") {
		t.Errorf("the snapshot is not on record: %s", out)
	}
	control.Must(t, "volume", "move", "moved", last.Name)
	mounted(t, last, "moved@gold", func(at string) {
		if got, err := os.ReadFile(last.File(filepath.Join(at, "file"))); err != nil || string(got) != "since" {
			t.Errorf("after another move it has %q, %v", got, err)
		}
	})
	wr.AwaitProgress(t)
	wr.Stop(t)
	c.Check(t, []witness.Copy{c.Head(t, wr.Host, wr.Volume)})
	for _, h := range c.Hosts {
		host.Await(t, h.Name+" is at ease", func() error { return h.FindError(t) })
	}
}
