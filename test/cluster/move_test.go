package cluster_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// testA4: a container stops on one host and starts on the other, and its data follows automatically, with snapshots,
// and back again. Each home writes under a different epoch.
func testA4(t *testing.T, w *world) {
	const volume = "moving@gold"
	a, b := w.Hosts[0], w.Hosts[1]
	first := w.StartWriter(t, a, volume)
	a.Must(t, "snapshot", "create", "moving", "--name", "early")
	first.Stop(t)
	v := a.Inspect(t, volume)
	born := v.Epoch
	for i, h := range []*cluster.Host{b, a, w.Hosts[2]} {
		wr := w.StartWriter(t, h, volume)
		now := h.Inspect(t, volume)
		if now.ID != v.ID || now.Node != h.Name || now.Epoch <= v.Epoch {
			t.Errorf("move %d: %s of epoch %d at home on %s, want %s of more than %d on %s", i, now.ID, now.Epoch, now.Node, v.ID, v.Epoch, h.Name)
		}
		if out := h.Must(t, "snapshot", "ls", "moving"); !strings.Contains(out, "early") {
			t.Errorf("after move %d: %s", i, out)
		}
		wr.Stop(t)
		v = now
	}
	w.moved = append(w.moved, w.Head(t, w.Hosts[2], volume))
	// The same by hand. A move to the present home is no error.
	for range 2 {
		w.Controls[0].Must(t, "volume", "move", "moving", b.Name)
	}
	if now := b.Inspect(t, volume); now.Node != b.Name {
		t.Errorf("moved by hand: at home on %s", now.Node)
	}
	w.Controls[0].Must(t, "snapshot", "restore", "moving", "early")
	head := w.Head(t, b, volume)
	if len(head.Tokens) == 0 {
		t.Error("the snapshot that moved along is empty")
	}
	for token := range head.Tokens {
		if token.Epoch != born {
			t.Errorf("the snapshot that moved along has %q", token)
		}
	}
}

// testA5: a container that runs on one host does not start on another, and the error says which host has the volume.
// It starts once the first one is stopped while the other one waits.
func testA5(t *testing.T, w *world) {
	const volume = "busy@gold"
	a, b := w.Hosts[0], w.Hosts[1]
	wr := w.StartWriter(t, a, volume)
	id := a.Inspect(t, volume).Status.Mounts[0].ID
	start := []string{"run", "--rm", "--volume", volume + ":/data", "--volume-driver", "drover", cluster.Image, "true"}
	r := b.Engine.Docker(t, start...)
	if r.Exit == 0 || !strings.Contains(r.Stderr, a.Name) || !strings.Contains(r.Stderr, id[:12]) {
		t.Errorf("started on %s while it runs on %s: %v", b.Name, a.Name, r)
	}
	wr.AwaitProgress(t)

	waits := make(chan engine.Result, 1)
	go func() { waits <- b.Engine.Docker(t, start...) }()
	host.Await(t, b.Name+" wants it", func() error { return wanted(t, w.Cluster, "busy") })
	wr.Stop(t)
	if r := <-waits; r.Exit != 0 {
		t.Errorf("stopped on %s while %s waits: %v", a.Name, b.Name, r)
	}
	if v := b.Inspect(t, volume); v.Node != b.Name {
		t.Errorf("at home on %s", v.Node)
	}
	w.moved = append(w.moved, w.Head(t, b, volume))
}

// wanted fails until another node has asked for a volume's lease.
func wanted(t *testing.T, w *cluster.Cluster, name string) error {
	v, err := w.Controls[0].Client(t).Volume(t.Context(), name)
	if err != nil {
		return err
	}
	if v.Lease == nil || v.Lease.State == dataset.LeaseHeld {
		return errors.New("nobody has asked for it")
	}
	return nil
}
