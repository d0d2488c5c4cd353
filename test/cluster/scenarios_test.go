package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
	"github.com/droverhq/drover/test/volumes"
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

// testA9: a placement picks a node that fits, whichever node requests it, and the error says for each node why it does
// not fit.
func testA9(t *testing.T, w *world) {
	a, b := w.Hosts[0], w.Hosts[1]
	host.Await(t, "every host has told its facts", func() error {
		var nodes []api.Node
		w.Controls[0].JSON(t, &nodes, "node", "ls", "--placement", `cpus > 0 and pool.free > "1MiB"`)
		if len(nodes) != len(w.Hosts) {
			return fmt.Errorf("%d of them", len(nodes))
		}
		return nil
	})
	a.Docker(t, "volume", "create", "-d", "drover", "placed@there")
	if v := a.Inspect(t, "placed"); v.Node != b.Name {
		t.Errorf("the volume is on %s, and its placement says %s", v.Node, b.Name)
	}
	r := a.Engine.Docker(t, "volume", "create", "-d", "drover", "nope@nowhere")
	if r.Exit == 0 {
		t.Error("a volume went where it may not be")
	}
	for _, h := range w.Hosts {
		if want := "node " + h.Name + ": pool default: node is \"" + h.Name + "\", which does not match ^db"; !strings.Contains(r.Stderr, want) {
			t.Errorf("%q does not say %q", r.Stderr, want)
		}
	}
	w.Controls[0].Must(t, "volume", "rm", "placed", "--yes")
}

// datasets lists the datasets in a host's pool: live, being made, or being deleted.
func (w *world) datasets(h *cluster.Host) (ids []string, err error) {
	for _, folder := range []string{"datasets", "incoming", "deleting"} {
		entries, err := os.ReadDir(h.File(filepath.Join(h.Dir, "disk", "pool", folder)))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, e := range entries {
			if _, err := uuid.Parse(e.Name()); err == nil {
				ids = append(ids, e.Name())
			}
		}
	}
	return ids, nil
}

// once runs a command in a container that has a volume at /data.
func once(t *testing.T, h *cluster.Host, volume, command string) string {
	t.Helper()
	return h.Docker(t, "run", "--rm", "--volume", volume+":/data", "--volume-driver", "drover", cluster.Image, "sh", "-c", command)
}

// testVolumes: on a host with an engine, volumes work as on a single host and are requested from control. Every other
// host sees them, and may not change them.
func testVolumes(t *testing.T, w *world) {
	h, other := w.Hosts[0], w.Hosts[2]
	volumes.Run(t, volumes.World{
		Engine: h.Engine, Host: h.Host, Name: h.Name, Admin: w.Controls[1].Host,
		Servers: []*host.Host{w.Controls[1].Host, w.Hosts[0].Host, w.Hosts[1].Host, other.Host},
	})
	const name = "seen"
	h.Docker(t, "volume", "create", "--driver", "drover", name+"@gold")
	if v := other.Inspect(t, name); v.Node != h.Name || v.Profile.Name != "gold" || v.Epoch == 0 {
		t.Errorf("%s tells %+v of %s's volume", other.Name, v, h.Name)
	}
	listed(t, w, name)
	// Only the home makes snapshots of a volume. Other nodes may only read it.
	if r := other.Exec(t, "snapshot", "create", name); r.Exit != 1 || !strings.Contains(r.Err, "may not request this snapshot of volume "+name) {
		t.Errorf("%s makes snapshots of %s's volume: %s", other.Name, h.Name, r.Err)
	}
	h.Docker(t, "volume", "rm", name+"@gold")
}

// listed fails unless every host's command line shows the volume, and each engine can inspect it.
func listed(t *testing.T, w *world, name string) {
	t.Helper()
	for _, h := range w.Hosts {
		if all := h.Volumes(t); !slices.Contains(all, name) {
			t.Errorf("%s lists %v, without %s", h.Name, all, name)
		}
		a, err := h.Plug(t).Get(name)
		if err != nil || a.Volume == nil {
			t.Errorf("the plugin of %s has no %s: %v", h.Name, name, err)
		}
	}
}

// failoverTime is the longest time between the loss of a host and the mount of its volumes with failover auto on
// another host.
const failoverTime = 45 * time.Second

// testA6: a host is lost with its engine and agent. Its containers are cut off from everything and continue to write
// until its guard stops them. Volumes with automatic failover are started by the other engine. Others are refused
// with the command that continues them. When the host returns, its data is kept as superseded.
func testA6(t *testing.T, w *world) {
	const auto, manual = "fallen@auto", "waits"
	a, b := w.Hosts[0], w.Hosts[1]
	once(t, b, "waits@gold", "echo kept > /data/file")
	if out := w.Controls[0].Must(t, "volume", "set-profile", "waits", "safe"); !strings.Contains(out, "volume waits has profile safe@") {
		t.Errorf("set-profile: %s", out)
	}
	first := w.StartWriter(t, b, auto)
	for _, v := range []string{auto, manual} {
		host.Await(t, v+" has replicas", func() error { return replicated(t, a, v) })
	}

	since := clock.Boottime()
	w.Net.Isolate(b.On)
	b.Engine.Kill9(t)
	b.Kill9(t)
	next := w.StartWriter(t, a, auto)
	took := clock.Boottime() - since
	t.Logf("%s writes %v after %s was lost", a.Name, took.Round(time.Millisecond), b.Name)
	if took > failoverTime {
		t.Errorf("that is more than %v", failoverTime)
	}
	r := a.Engine.Docker(t, "run", "--rm", "--volume", manual+":/data", "--volume-driver", "drover", cluster.Image, "true")
	if r.Exit == 0 || !strings.Contains(r.Stderr, "volume waits is on node host-b, which is unreachable since") || !strings.Contains(r.Stderr, "drover volume move waits ") || !strings.Contains(r.Stderr, " --force --fenced host-b, without the data written since ") {
		t.Errorf("%+v", r)
	}
	lost(t, w, "fallen")

	w.Net.Heal()
	b.Up(t)
	b.Engine.Up(t)
	host.Await(t, "what was overtaken is kept aside", func() error {
		for _, k := range a.Inspect(t, auto).CopyDetails {
			if k.Kind == dataset.CopySuperseded && k.NodeName == b.Name && k.Snapshot != uuid.Nil {
				return nil
			}
		}
		return errors.New("there is no such copy")
	})
	next.AwaitProgress(t)
	if got := once(t, a, manual, "cat /data/file"); got != "kept" {
		t.Errorf("the volume that waited for its host has %q", got)
	}
	aside := lookedAt(t, w.Controls[0], b, "fallen", first.Entries(t))
	first.Stop(t)
	next.Stop(t)
	w.Controls[0].Must(t, "copy", "discard", "fallen", b.Name, "--yes")
	head := w.Head(t, a, auto)
	more := 0
	for token := range aside.Tokens {
		if !head.Tokens[token] {
			more++
		}
	}
	if more == 0 {
		t.Error("the superseded head has nothing that the volume lacks")
	}
	w.moved = append(w.moved, head)
}

// lookedAt mounts the superseded head of a volume that a host kept, as a person does, and returns its contents. They
// must have every write that was acknowledged there, including those that the volume lacks now. Looking changes nothing
// and leaves nothing behind.
func lookedAt(t *testing.T, control *cluster.Control, h *cluster.Host, volume string, wrote []witness.Entry) (c witness.Copy) {
	t.Helper()
	look := []string{"copy", "mount", volume, h.Name}
	var shown, off api.CopyDetail
	control.JSON(t, &shown, look...)
	c, err := witness.ReadFile(shown.Dataset.String(), volume+" kept aside on "+h.Name, h.File(filepath.Join(shown.Path, cluster.Tokens)))
	require.NoError(t, err)
	for _, e := range wrote {
		if e.Err == "" && !c.Tokens[e.Token] {
			t.Errorf("%+v is not in the superseded head at %s", e, shown.Path)
		}
	}
	t.Logf("%d tokens are kept aside of %d writes", len(c.Tokens), len(wrote))
	if r := control.Exec(t, "copy", "discard", volume, h.Name, "--yes"); r.Exit == 0 || !strings.Contains(r.Err, "--off") {
		t.Errorf("discarded while somebody looks: %+v", r)
	}
	control.JSON(t, &off, append(look, "--off")...)
	if _, err := os.Stat(h.File(shown.Path)); !errors.Is(err, os.ErrNotExist) || off.Path != "" {
		t.Errorf("%s is left: %v, %+v", shown.Path, err, off)
	}
	return c
}

// replicated fails until every copy that the profile of a volume requires is complete.
func replicated(t *testing.T, h *cluster.Host, volume string) error {
	v := h.Inspect(t, volume)
	n := 0
	for _, k := range v.CopyDetails {
		if k.Kind == dataset.CopyReplica && k.Promotable() {
			n++
		}
	}
	if n < v.Profile.Replicas.Count {
		return fmt.Errorf("%d of %d", n, v.Profile.Replicas.Count)
	}
	return nil
}

// lost records the losses that a failover announced.
func lost(t *testing.T, w *world, volume string) {
	t.Helper()
	var ops []dataset.Operation
	w.Controls[0].JSON(t, &ops, "operation", "ls")
	n := len(w.losses)
	for _, op := range ops {
		if op.Loss != nil && op.State == dataset.OpDone && op.Volume == volume {
			after := int64(clock.Boottime()) - int64(time.Since(op.Loss.Taken))
			w.losses = append(w.losses, witness.Loss{Dataset: op.DatasetID.String(), Epoch: op.Epoch, After: after})
		}
	}
	if len(w.losses) != n+1 {
		t.Errorf("announced losses of volume %s: %+v", volume, ops)
	}
}
