package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

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
	if err != nil {
		t.Fatal(err)
	}
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
