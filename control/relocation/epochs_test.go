package relocation_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// host stands for an agent that acts on what it learned last, which may be long outdated. It writes without asking
// while it believes that it is the home.
type host struct {
	*controltest.Agent
	name    string
	home    bool
	epoch   uint64
	gaveUp  uint64 // the last epoch that it relinquished, on its disk
	recall  uuid.UUID
	using   bool
	fenced  bool // a person has stopped it, until it learns of the present state
	reports []told
	heard   uuid.UUID // its process whose registration control accepted last
}

// told is a report by one process of the agent.
type told struct {
	by   uuid.UUID
	send func() error
}

// writes reports whether something on the host writes, or can begin to.
func (h *host) writes() bool { return h.home && h.epoch > h.gaveUp && !h.fenced }

// hear applies the present state of control, as a sync does.
func (h *host) hear() {
	s := h.MustSync(0)
	h.home, h.recall = false, uuid.Nil
	for _, d := range s.Datasets {
		h.home, h.epoch = true, d.Epoch
		if d.Lease != nil && d.Lease.State == dataset.LeaseRecalled {
			h.recall = d.Move
		}
		if d.Lease != nil && d.Lease.State == dataset.LeaseMoving { // whether it yielded or was superseded
			h.gaveUp, h.using = max(h.gaveUp, d.Epoch), false
		}
	}
	h.fenced = false
}

// epochs is a cluster of hosts with one volume that is moved between them.
type epochs struct {
	*controltest.Control
	hosts []*host
	ds    uuid.UUID
	last  uint64 // the epoch on record
}

// At most one epoch is open for writing at a time (I1). Moves are requested, recalled, yielded, cancelled, failed,
// committed and forced in any order. Hosts learn of changes late and restart, and their reports arrive late and more
// than once. Another decision is committed between the reads and the transaction of one.
func TestEpochsDoNotOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &epochs{Control: controltest.New(t)}
		for _, name := range []string{"alpha", "beta", "gamma"} {
			c.hosts = append(c.hosts, &host{Agent: c.NewAgent(name), name: name})
		}
		c.ds = c.hosts[0].MustCreate("db@gold").ID
		c.MustMove("db", c.hosts[0].Agent, c.hosts[1].Agent, "beta") // so that a copy exists to continue from
		for _, h := range c.hosts {
			h.hear()
			h.heard = h.Incarnation
		}
		actions := []func(*rapid.T){c.restartHost, c.ask, c.hears, c.hears, c.recallNow, c.yield, c.yield, c.commitMove, c.commitMove, c.fail, c.cancelMove, c.change, c.use, c.force, c.again, c.again}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			action := rapid.IntRange(0, len(actions)-1).Draw(t, "action")
			if rapid.IntRange(0, 2).Draw(t, "interrupted") == 0 {
				between := rapid.IntRange(0, len(actions)-1).Draw(t, "between")
				if action == 0 && between == 0 {
					between = 1 // a restart is not interrupted by another one
				}
				c.Spy.Before(func() { actions[between](t) })
			}
			actions[action](t)
			c.Spy.Before(nil)
			c.holds(t)
		}
	})
}

// holds checks the invariant.
func (c *epochs) holds(t *rapid.T) {
	d := c.CheckInvariants().Datasets[c.ds]
	if d.Epoch < c.last {
		t.Fatalf("epoch %d after %d", d.Epoch, c.last)
	}
	c.last = d.Epoch
	var writer *host
	for _, h := range c.hosts {
		switch {
		case !h.writes():
		case writer != nil:
			t.Fatalf("%s at epoch %d and %s at epoch %d", writer.name, writer.epoch, h.name, h.epoch)
		case h.epoch > d.Epoch || h.epoch == d.Epoch && h.ID != d.Home:
			t.Fatalf("%s writes at epoch %d, on record is %d", h.name, h.epoch, d.Epoch)
		default:
			writer = h
		}
	}
}

func (c *epochs) host(t *rapid.T) *host { return c.hosts[rapid.IntRange(0, 2).Draw(t, "host")] }

// move returns the move on record.
func (c *epochs) move() (op dataset.Operation, target *host, there bool) {
	d := c.MustVolume("db")
	if d.Move == uuid.Nil {
		return op, nil, false
	}
	op = c.MustOperation(d.Move)
	for _, h := range c.hosts {
		if h.ID == op.Node {
			return op, h, true
		}
	}
	return op, nil, false
}

// send sends the report, and may do so again at any time.
func (c *epochs) send(t *rapid.T, h *host, report func() error) error {
	r := told{h.Incarnation, report}
	h.reports = append(h.reports, r)
	return r.sent(t, h)
}

func (r told) sent(t *rapid.T, h *host) error {
	err := r.send()
	if err == nil && r.by != h.heard {
		t.Fatalf("%s: a report of a replaced process is accepted", h.name)
	}
	return err
}

func (c *epochs) ask(t *rapid.T) {
	_, err := c.Submit(c.Ctx, controltest.Move("db", c.host(t).name))
	if k := dataset.KindOf(err); k != nil && k != dataset.ErrConflict {
		t.Fatal(err)
	}
}

func (c *epochs) hears(t *rapid.T) { c.host(t).hear() }

func (c *epochs) recallNow(t *rapid.T) {
	op, h, there := c.move()
	if !there {
		return
	}
	r := h.ReportOf(op)
	_ = c.send(t, h, func() error { _, err := h.Recall(h.Ctx, h.ID, r); return err })
}

// yield is done by a home that learned of a recall: it relinquishes the epoch first.
func (c *epochs) yield(t *rapid.T) {
	h := c.host(t)
	if h.recall == uuid.Nil || !h.home {
		return
	}
	y := api.Yield{Incarnation: h.Incarnation, Operation: h.recall, Dataset: c.ds, Epoch: h.epoch}
	if h.using {
		y.InUseBy = []string{"c1"}
	} else {
		h.gaveUp = max(h.gaveUp, h.epoch)
		y.Manifest = controltest.Relinquished(dataset.Operation{ID: h.recall})
	}
	_ = c.send(t, h, func() error { return h.Yield(h.Ctx, h.ID, y) })
}

func (c *epochs) commitMove(t *rapid.T) {
	op, h, there := c.move()
	if !there || op.Manifest == nil && op.Loss == nil {
		return
	}
	r := h.ReportOf(op)
	if err := c.send(t, h, func() error { _, err := h.Commit(h.Ctx, h.ID, r); return err }); err == nil {
		h.hear() // as in the answer
	}
}

func (c *epochs) fail(t *rapid.T) {
	op, h, there := c.move()
	if !there {
		return
	}
	op.Problem = &dataset.Problem{Code: "in_use", Message: "in use"}
	r := h.ReportOf(op)
	_ = c.send(t, h, func() error { _, err := h.Commit(h.Ctx, h.ID, r); return err })
}

func (c *epochs) cancelMove(*rapid.T) {
	if op, _, there := c.move(); there {
		_, _ = c.CancelOperation(c.Ctx, op.ID.String())
	}
}

func (c *epochs) use(t *rapid.T) {
	h := c.host(t)
	h.using = !h.using && h.writes() && h.recall == uuid.Nil
}

// change takes a snapshot at a home. If it is reported late, it is recorded only if the host is still the home at the
// same epoch.
func (c *epochs) change(t *rapid.T) {
	h := c.host(t)
	p, err := h.Plan(h.Ctx, h.ID, api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db"})
	if err != nil || p.Operation == nil || p.Operation.Node != h.ID {
		return
	}
	op, incarnation, done := *p.Operation, h.Incarnation, false
	h.reports = append(h.reports, told{incarnation, func() error {
		d := c.MustVolume("db")
		_, err := h.Commit(h.Ctx, h.ID, api.Report{Incarnation: incarnation, Operation: op})
		if err == nil && !done && (d.Home != h.ID || d.Epoch != op.Epoch) {
			t.Fatalf("a change by %s at epoch %d is on record, and that is at epoch %d", h.name, op.Epoch, d.Epoch)
		}
		done = done || err == nil
		return err
	}})
}

// force is a forced move by a person who has stopped the home, and confirms it.
func (c *epochs) force(t *rapid.T) {
	d := c.MustVolume("db")
	target := c.host(t)
	for _, h := range c.hosts {
		if h.ID != d.Home || h == target {
			continue
		}
		out, err := c.Submit(c.Ctx, controltest.ForcedMove("db", target.name, h.name))
		switch k := dataset.KindOf(err); {
		case k == nil, k == dataset.ErrNotFound, k == dataset.ErrConflict: // another one has a later copy
		case k == dataset.ErrInvalid && c.MustVolume("db").Home != h.ID: // it was moved meanwhile
		default:
			t.Fatal(err)
		}
		if err == nil && out.Operation != nil {
			h.fenced, h.using = true, false
		}
	}
}

// again delivers a report that was delayed by the network.
func (c *epochs) again(t *rapid.T) {
	h := c.host(t)
	if len(h.reports) > 0 {
		_ = h.reports[rapid.IntRange(0, len(h.reports)-1).Draw(t, "report")].sent(t, h)
	}
}

// restartHost loses what was in memory. The relinquished epochs are on disk.
func (c *epochs) restartHost(t *rapid.T) {
	h := c.host(t)
	h.Incarnation = uuid.New()
	h.MustRegister(h.name)
	h.heard = h.Incarnation
	h.recall, h.using = uuid.Nil, false
	if !h.fenced && rapid.Bool().Draw(t, "hears") {
		h.hear()
	}
}

// A move is decided again when its target is cordoned, or loses its pools, before the move is on record.
func TestMoveBesideAChangeOfItsTarget(t *testing.T) {
	for refusal, changes := range map[string]func(e *controltest.Control, b *controltest.Agent) error{
		"is cordoned": func(e *controltest.Control, b *controltest.Agent) error {
			_, err := e.Cordon(e.Ctx, b.ID, api.Cordoned{Cordoned: true})
			return err
		},
		"there is no pool": func(e *controltest.Control, b *controltest.Agent) error {
			_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
				for _, p := range b.LocalPools {
					t.Delete(record.PoolKey(p.ID))
				}
				return nil
			})
			return err
		},
	} {
		t.Run(refusal, func(t *testing.T) {
			e, a, b := controltest.TwoNodes(t)
			a.MustCreate("db@silver")
			e.Spy.Before(func() {
				e.OK(changes(e, b))
			})
			if err := a.TrySubmit(controltest.Move("db", "beta")); err == nil || !strings.Contains(err.Error(), refusal) {
				t.Errorf("got %v, want %q", err, refusal)
			}
			if v := e.MustVolume("db"); v.Move != uuid.Nil {
				t.Errorf("it must move: %+v", v)
			}
		})
	}
}
