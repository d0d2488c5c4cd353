package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const boundedProfiles = `default: bronze
profiles:
  bronze: {on_delete: purge}
  auto: {size: 512MiB, replicas: {count: 1, every: 2s}, failover: auto, fence: guard, max_loss: 1h, on_delete: purge}
`

// sessionTime is how long control considers a silent host alive, at least.
const sessionTime = 10 * time.Second

// holder is a cluster with a container on the first host that writes to a volume with failover auto, through a file
// that it opened once. The other hosts have no engine.
type holder struct {
	*cluster.Cluster

	a, b *cluster.Host
	id   uuid.UUID
	wr   *cluster.Writer
}

// TestI1Holder: if the holder is separated from control, or a part of it fails, its volume is fenced in time, or not
// at all while all nodes that could take over promise not to. If no node took over, the same container then continues
// through the same file. If one did, the container is ended. Two hosts never write at the same time, and what was
// written is where it is reported to be.
func TestI1Holder(t *testing.T) {
	t.Parallel()
	c := cluster.New(t, cluster.Options{Engines: 1, Profiles: boundedProfiles})
	h := &holder{Cluster: c, a: c.Hosts[0], b: c.Hosts[1]}
	host.Await(t, "a volume is made", func() error {
		if r := h.a.Exec(t, "volume", "create", "db@auto"); r.Exit != 0 {
			return errors.New(r.Err) // control has not heard of the guards yet
		}
		return nil
	})
	h.id = h.a.Inspect(t, "db").ID
	h.wr = c.StartWriter(t, h.a, "db@auto")
	host.Await(t, "a replica is there", func() error { return replicated(t, h.a, "db") })
	for _, s := range []struct {
		name string
		test func(*testing.T)
	}{
		{"cut off", h.cutOff},
		{"agent killed", h.agentKilled},
		{"quorum lost", h.quorumLost},
	} {
		if !t.Run(s.name, func(t *testing.T) {
			s.test(t)
			h.wr.AwaitProgress(t)
			for _, e := range h.wr.Entries(t) {
				if e.Err != "" {
					t.Errorf("a write failed: %+v", e)
				}
			}
		}) {
			return
		}
	}
	h.overtaken(t)
}

// entry returns the guard's entry for the volume on the holder.
func (h *holder) entry(t *testing.T) (e guard.Entry, there bool) {
	t.Helper()
	st, err := h.a.Guard.Status(t.Context())
	require.NoError(t, err)
	for _, e := range st.Datasets {
		if e.Dataset == h.id {
			return e, true
		}
	}
	return e, false
}

// fenced waits until the volume is fenced. It fails if that is later than allowed, measured from the last renewal
// before a moment.
func (h *holder) fenced(t *testing.T, since time.Duration) {
	t.Helper()
	var e guard.Entry
	host.Await(t, "the volume is fenced", func() error {
		if e, _ = h.entry(t); e.State != guard.StateFenced {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	t.Logf("fenced by %s %v after the last answer, %v after the deadline", e.Fence.By, e.Fence.At-since, e.Fence.Overrun)
	if e.Fence.At > since+sessionTime*9/10 {
		t.Errorf("that is too late: %+v", e.Fence)
	}
	if page := h.metrics(t); page != "" && (!strings.Contains(page, `drover_guard_fenced{volume="db"} 1`) || !strings.Contains(page, `drover_guard_deadline_seconds{volume="db"} -`)) {
		t.Errorf("the metrics do not say so:\n%s", page)
	}
	for _, w := range h.wr.Entries(t) {
		if w.Err == "" && w.End > int64(e.Fence.At) {
			t.Errorf("written after the fence at %d: %+v", e.Fence.At, w)
		}
	}
}

// awaitContinued waits until the guard has armed the volume again, and the writer has written. It checks that the volume stays
// mounted here, at epoch 1.
func (h *holder) awaitContinued(t *testing.T) {
	t.Helper()
	host.Await(t, "the volume is thawed", func() error {
		if e, _ := h.entry(t); e.State != guard.StateArmed {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	h.wr.AwaitProgress(t)
	if page := h.metrics(t); !strings.Contains(page, "drover_guard_up 1") || !strings.Contains(page, `drover_guard_fenced{volume="db"} 0`) {
		t.Errorf("the metrics do not say so:\n%s", page)
	}
	if v := h.a.Inspect(t, "db"); v.Epoch != 1 || v.Status == nil || len(v.Status.Mounts) != 1 {
		t.Errorf("it is at epoch %d, %+v", v.Epoch, v.Status)
	}
}

// metrics returns the guard's metrics on the holder's agent, or none while the agent is dead.
func (h *holder) metrics(t *testing.T) (page string) {
	t.Helper()
	var d net.Dialer
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", strings.TrimPrefix(h.a.API(), "unix://"))
	}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://drover/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "drover_guard") {
			page += line
		}
	}
	return page
}

func (h *holder) cutOff(t *testing.T) {
	since := clock.Boottime()
	h.Net.Isolate(h.a.On)
	h.fenced(t, since)
	fenced := finding{"error", "volume db", "is fenced", "drover guard ls"}
	awaitFinding(t, h.a, fenced, true)
	h.Net.Heal()
	h.awaitContinued(t)
	awaitFinding(t, h.a, fenced, false)
}

func (h *holder) agentKilled(t *testing.T) {
	since := clock.Boottime()
	h.a.Kill9(t)
	h.fenced(t, since)
	h.a.Up(t)
	h.awaitContinued(t)
	h.a.Kill9(t) // restarted in time, so it is not fenced at all
	h.a.Up(t)
	before, _ := h.entry(t)
	host.Await(t, "the volume is held on", func() error {
		if e, _ := h.entry(t); e.State != guard.StateArmed || e.Deadline <= before.Deadline {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
}

// quorumLost: nothing is decided for a long time, one minute in the long form. Nothing is frozen, because the host
// with the replica can be reached.
func (h *holder) quorumLost(t *testing.T) {
	lost := 2 * sessionTime
	if long.Enabled() {
		lost = 6 * sessionTime
	}
	before, _ := h.entry(t)
	for _, s := range h.Consul.Servers[:2] {
		s.Kill()
	}
	for since := clock.Boottime(); clock.Boottime() < since+lost; {
		h.wr.AwaitProgress(t)
		if e, _ := h.entry(t); e.State != guard.StateArmed {
			t.Fatalf("%v after the quorum was lost: %+v", clock.Boottime()-since, e)
		}
	}
	for _, s := range h.Consul.Servers[:2] {
		s.Start()
	}
	h.Consul.AwaitLeader()
	h.awaitContinued(t)
	if e, _ := h.entry(t); before.Fence == nil || e.Fence == nil || e.Fence.At != before.Fence.At {
		t.Errorf("it was fenced: %+v, and before %+v", e.Fence, before.Fence)
	}
}

// overtaken: another host takes over. The first host ends its container once it learns of that.
func (h *holder) overtaken(t *testing.T) {
	since := clock.Boottime()
	h.Net.Isolate(h.a.On)
	h.fenced(t, since)
	at := clock.Boottime()
	next := h.StartWriter(t, h.b, "db@auto")
	t.Logf("host-b writes %v after host-a was cut off (%v after it was asked to)", clock.Boottime()-since, clock.Boottime()-at)
	h.Net.Heal()
	host.Await(t, "what was overtaken is kept aside", func() error {
		for _, k := range h.b.Inspect(t, "db").CopyDetails {
			if k.Kind == dataset.CopySuperseded && k.Snapshot != uuid.Nil {
				return nil
			}
		}
		return errors.New("there is no such copy")
	})
	host.Await(t, "the guard has forgotten it", func() error {
		if e, there := h.entry(t); there {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	next.AwaitProgress(t)
	if points := mounts(t, h.a); len(points) > 0 {
		t.Errorf("host-a has mounted %v", points)
	}
	next.Stop(t)
	var ops []dataset.Operation
	h.Controls[0].JSON(t, &ops, "operation", "ls")
	var losses []witness.Loss
	for _, op := range ops {
		if op.Loss != nil && op.State == dataset.OpDone {
			after := int64(clock.Boottime()) - int64(time.Since(op.Loss.Taken))
			losses = append(losses, witness.Loss{Dataset: op.DatasetID.String(), Epoch: op.Epoch, After: after})
		}
	}
	if len(losses) != 1 {
		t.Errorf("announced losses: %+v", losses)
	}
	h.Check(t, []witness.Copy{h.Head(t, h.b, "db@auto")}, losses...)
}
