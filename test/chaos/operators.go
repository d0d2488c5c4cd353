package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/history"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

// operator is an operator at the control hosts who changes volumes.
type operator struct {
	k      *Campaign
	random *rand.Rand
}

func (o *operator) run(ctx context.Context, t testing.TB) {
	for ctx.Err() == nil {
		v := o.k.volumes[o.random.IntN(len(o.k.volumes))]
		o.k.judge.releaseSuperseded(ctx, t, v)
		r := api.Request{
			ID:     uuid.New(),
			Kind:   dataset.OpMove,
			Volume: v.name,
			Node:   o.k.Hosts[o.random.IntN(len(o.k.Hosts))].Name,
		}
		what, at, pause := o.random.IntN(4), o.random.IntN(len(o.k.Controls)),
			draw(o.random, 200*time.Millisecond, 2*time.Second)
		if what > 1 {
			r = api.Request{ID: r.ID, Kind: dataset.OpSnapshot, Volume: v.name}
		}
		if what == 2 && v.profile == rolled {
			r.Kind, r.Snapshot = dataset.OpRestore, o.snapshot(ctx, t, v)
		}
		began := time.Now()
		op, err := o.k.ask(ctx, t, o.k.Controls[at], r)
		checkTime(t, string(r.Kind)+" of "+v.name, began)
		if err == nil && op.State == dataset.OpDone {
			o.k.report.count(string(r.Kind) + "s done")
		} else {
			o.k.report.count(string(r.Kind) + "s not done")
		}
		wait(ctx, pause)
	}
}

// snapshot returns the ID of one snapshot of a volume, or "" if none is known.
func (o *operator) snapshot(ctx context.Context, t testing.TB, v *volume) string {
	c := o.k.Controls[0].Client(t)
	defer c.Close()
	list, err := c.Snapshots(ctx, v.name, api.Page{})
	if err != nil || len(list.Items) == 0 {
		return "none"
	}
	return list.Items[0].ID.String()
}

// patience is how long an operator waits for the end of an operation.
const patience = 60 * time.Second

// ask submits a request and waits for the end of its operation. It repeats the same request while control does
// not answer.
func (s *scene) ask(ctx context.Context, t testing.TB, control *cluster.Control,
	r api.Request) (op dataset.Operation, err error) {
	c := control.Client(t)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out api.Outcome
	for {
		if out, err = c.Submit(ctx, r); !isUncertain(err) {
			break
		}
		if wait(ctx, 200*time.Millisecond); ctx.Err() != nil {
			return op, fmt.Errorf("control has not answered: %w", err)
		}
	}
	if err != nil || out.Operation == nil {
		return dataset.Operation{State: dataset.OpDone}, err
	}
	for op = *out.Operation; !op.State.Final(); {
		now, err := c.Operation(ctx, op.ID.String(), 2*time.Second)
		if err == nil {
			op = now
		} else if !isUncertain(err) {
			return op, err
		}
		if ctx.Err() != nil {
			return op, fmt.Errorf("control has not answered: %w", ctx.Err())
		}
		if err != nil {
			wait(ctx, 200*time.Millisecond)
		}
	}
	return op, nil
}

// isUncertain reports whether it is unknown, after an error, what happened.
func isUncertain(err error) bool {
	kind := dataset.KindOf(err)
	return err != nil && (kind == nil || kind == dataset.ErrUnavailable)
}

// loseHost switches a host off with everything that runs on it. An operator notices this and lets the volumes of the
// host continue from copies where there are any. Then the host is switched on again.
func (i *injector) loseHost(t testing.TB, f Fault, h *cluster.Host) {
	i.restorer.noneLost.RLock()
	defer i.restorer.noneLost.RUnlock()
	defer i.parts.reserve(h.Host.Dir)()
	i.mu.Lock()
	i.lost[h] = true
	i.mu.Unlock()
	h.Kill9(t)
	defer i.engines[h].part()()
	i.engines[h].kill(t)
	for _, v := range i.volumes {
		i.stopWriters(t, v, h)
	}
	began := time.Now()
	for n, v := range i.volumes {
		if v.profile == safe {
			i.promoteCopy(t, v, h, i.Controls[(f.Number+n)%len(i.Controls)], began.Add(f.Duration+10*time.Second))
		}
	}
	time.Sleep(time.Until(began.Add(f.Duration)))
	h.Up(t)
	i.engines[h].start(t)
	for _, v := range i.volumes {
		i.allowAgain(t, v, h)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lost[h] = false
}

// stopWriters kills the writers of a volume on a host. A writer that the guard has frozen writes no more, and
// ends as soon as it is thawed.
func (i *injector) stopWriters(t testing.TB, v *volume, h *cluster.Host) {
	v.mu.Lock()
	var here []*writer
	for w := range v.writers {
		if w.on == h {
			here = append(here, w)
		}
	}
	v.mu.Unlock()
	for _, w := range here {
		err := w.proc.Signal(unix.SIGKILL)
		if err == nil && v.profile != auto {
			err = w.proc.Ended(time.Minute)
		}
		assert.NoError(t, err)
	}
}

// promoteCopy lets a volume whose home is lost continue from a copy. An operator confirms that the home no longer
// writes.
func (i *injector) promoteCopy(t testing.TB, v *volume, lost *cluster.Host, control *cluster.Control, until time.Time) {
	c := control.Client(t)
	defer c.Close()
	r := api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: v.name, Force: true, Fenced: lost.Name}
	for ; time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
		now, err := c.Volume(t.Context(), v.name)
		if err != nil {
			continue
		}
		if now.Node != lost.Name {
			return
		}
		if r.Node = target(now, lost); r.Node == "" {
			continue // a heartbeat reports the state of a replica
		}
		v.mu.Lock()
		v.barred[lost] = true
		v.mu.Unlock()
		i.leases.Begin(history.Request{Key: v.id.String(), Kind: history.Fence,
			Node: lost.Name})(history.Answer{Done: true})
		out, err := c.Submit(t.Context(), r)
		if err != nil || out.Operation == nil {
			if !isUncertain(err) {
				r.ID = uuid.New()
			}
			continue
		}
		i.report.count("forced moves begun")
		if l := out.Operation.Loss; l != nil {
			v.mu.Lock()
			v.losses = append(v.losses, witness.Loss{
				Dataset: v.id.String(),
				Epoch:   out.Operation.Epoch,
				After:   i.boottime(l.Taken),
			})
			v.mu.Unlock()
		}
		return
	}
}

// target returns the name of a node with a copy from which the volume can continue.
func target(v api.Volume, lost *cluster.Host) string {
	for _, c := range v.CopyDetails {
		if c.NodeName != lost.Name && c.Kind != dataset.CopySuperseded && c.Promotable() {
			return c.NodeName
		}
	}
	return ""
}

// allowAgain waits until a host that was lost knows the present state of a volume, and then allows containers with it
// there again.
func (i *injector) allowAgain(t testing.TB, v *volume, h *cluster.Host) {
	v.mu.Lock()
	barred := v.barred[h]
	v.mu.Unlock()
	if !barred {
		return
	}
	plug, c := h.Plug(t), i.Controls[0].Client(t)
	defer c.Close()
	host.Await(t, h.Name+" knows the present state of "+v.name, func() error {
		now, err := c.Volume(t.Context(), v.name)
		if err != nil {
			return err
		}
		if now.Move != uuid.Nil {
			return errors.New("a move is under way")
		}
		a, err := plug.Get(v.name)
		if err != nil {
			return err
		}
		epoch, _ := h.Epoch(v.id)
		if home := now.Node == h.Name; !home && a.Volume.Status["node"] == h.Name || home && epoch < now.Epoch {
			return fmt.Errorf("home is %s of epoch %d, and it says %v of epoch %d", now.Node, now.Epoch,
				a.Volume.Status["node"], epoch)
		}
		return nil
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.barred, h)
}
