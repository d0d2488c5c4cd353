package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
)

// promotion is a promotion that is interrupted when one of the parts, who, reaches a step. The faults:
//
//	killed  that part is killed with kill -9, and started again
//	cut     the part is cut off from control for the length of a session; control is cut off from the target
//	back    the lost home is reachable again
type promotion struct{ who, step, fault string }

// undone reports whether the home is reachable again before another one is on record. The volume then continues
// there.
func (c promotion) undone() bool {
	return c.fault == "back" && slices.Contains([]string{"move.sworn", "move.fenced", "move.promoted", "commit.begin"}, c.step)
}

// The steps of an automatic promotion and of one that a person confirms, by the part that reaches each step. The
// first ones of each are those of the short form.
var (
	autoCuts = []promotion{
		{"target", "move.promoted", "back"}, {"control", "commit.recorded", "killed"},
		{"guard", "guard.fencing", "killed"}, {"guard", "guard.fenced", "killed"},
		{"target", "move.sworn", "killed"}, {"target", "move.sworn", "cut"}, {"target", "move.sworn", "back"},
		{"target", "move.fenced", "killed"}, {"target", "move.fenced", "cut"}, {"target", "move.fenced", "back"},
		{"target", "move.promoted", "killed"}, {"target", "move.promoted", "cut"},
		{"control", "commit.begin", "killed"}, {"control", "commit.begin", "cut"}, {"control", "commit.begin", "back"},
		{"control", "commit.recorded", "cut"}, {"control", "commit.recorded", "back"},
		{"target", "move.recorded", "killed"}, {"target", "move.recorded", "cut"}, {"target", "move.recorded", "back"},
		{"target", "move.committed", "killed"}, {"target", "move.committed", "cut"}, {"target", "move.committed", "back"},
		{"home", "fence.superseded", "killed"}, {"home", "fence.superseded", "cut"},
		{"home", "leave.begin", "killed"}, {"home", "leave.superseded", "cut"},
	}
	wordCuts = []promotion{
		{"target", "move.promoted", "killed"},
		{"target", "move.promoted", "cut"}, {"target", "move.promoted", "back"},
		{"control", "commit.begin", "killed"}, {"control", "commit.begin", "back"}, {"control", "commit.recorded", "killed"},
		{"target", "move.recorded", "killed"}, {"target", "move.recorded", "back"}, {"target", "move.committed", "cut"},
		{"home", "leave.begin", "killed"}, {"home", "leave.begin", "cut"}, {"home", "leave.superseded", "killed"}, {"home", "leave.superseded", "cut"},
	}
)

// promoted is a volume that continues without its home, again and again, and what is known of it.
type promoted struct {
	*cuts

	name    string
	id      uuid.UUID
	auto    bool // automatic; otherwise confirmed by a person
	client  *client.Client
	entries []witness.Entry
	losses  []witness.Loss
	asides  []witness.Copy

	known        map[uuid.UUID]bool // promotions before the present one
	home, target *cluster.Host      // of the present one
	wr           *cluster.Writer    // on the home, where the failover is automatic
	hold         string             // exists while the part at the step waits
}

// promotions: the host of a volume is cut off from everything while a container writes there, and another host
// continues without it. At each step of the target, of the home's guard that fences the volume, of control's commit
// and of the returning home, something else fails. The promotion ends one way or the other. Two hosts never write at
// the same time, everything written until the announced loss is there, and the superseded head is listed and has the
// rest.
func (c *cuts) promotions(t *testing.T) {
	for _, v := range []struct {
		volume string
		all    []promotion
		short  int
	}{{"auto", autoCuts, 2}, {"safe", wordCuts, 1}} {
		p := &promoted{cuts: c, name: v.volume, auto: v.volume == "auto", known: map[uuid.UUID]bool{}, client: c.Controls[0].Client(t)}
		host.Await(t, "a volume is made", func() error { // after control has heard of the guards
			return c.Hosts[0].Plug(t).Create(v.volume+"@"+v.volume, nil)
		})
		p.id = c.Hosts[0].Inspect(t, v.volume).ID
		all := v.all
		if !long.Enabled() {
			all = all[:v.short]
		}
		for _, cut := range all {
			if !t.Run(fmt.Sprintf("%s, %s %s at %s", v.volume, cut.who, cut.fault, cut.step), func(t *testing.T) { p.cutAt(t, cut) }) {
				return
			}
		}
		p.client.Close()
		c.Controls[0].Must(t, "volume", "rm", v.volume, "--yes")
	}
}

// cutAt has the volume continue without its home, once.
func (p *promoted) cutAt(t *testing.T, cut promotion) {
	p.hold = filepath.Join(t.TempDir(), "hold")
	p.home, p.target = p.Hosts[0], p.Hosts[1]
	if p.record(t).Node != p.home.Name {
		p.home, p.target = p.target, p.home
	}
	p.start(t, cut, "DROVER_STEP="+cut.step, "DROVER_STEP_DO=hold:"+p.hold)
	host.Await(t, "a replica is there", func() error { return replicated(t, p.target, p.name) })
	p.wr = nil
	var before []witness.Entry
	if p.auto {
		p.wr = p.StartWriter(t, p.home, p.name)
	} else {
		before = p.writes(t, p.home) // and stops, because nobody confirms a home whose containers still write
	}
	host.Await(t, "control hears the home", func() error { // it knows itself how old its copies are
		if v := p.record(t); v.Status == nil {
			return errors.New("it does not")
		}
		return nil
	})
	p.Net.Isolate(p.home.On)
	if cut.who == "guard" {
		p.awaitStep(t, cut)
		p.causeFault(t, cut)
	}
	var ended atomic.Bool
	var users sync.WaitGroup
	defer func() { ended.Store(true); users.Wait() }()
	if p.auto {
		users.Go(func() { p.takesOver(t, &ended) })
	} else {
		p.confirmFenced(t)
	}
	if cut.who == "home" {
		p.awaitEnd(t)
		p.Net.Heal()
	}
	if cut.who != "guard" {
		p.awaitStep(t, cut)
		p.causeFault(t, cut)
	}
	p.awaitEnd(t)
	if cut.fault != "back" {
		users.Wait()
	}
	p.Net.Heal()
	ended.Store(true)
	users.Wait()
	p.check(t, cut, before)
}

// start starts the part that a step belongs to, with additional environment variables.
func (p *promoted) start(t *testing.T, cut promotion, env ...string) {
	t.Helper()
	switch cut.who {
	case "guard":
		p.home.Guard.Kill9(t)
		p.home.Guard.Up(t, env...)
	case "control":
		p.Controls[0].Kill9(t)
		p.Controls[0].Up(t, env...)
	case "home":
		p.home.Kill9(t)
		p.home.Up(t, env...)
	default:
		p.target.Kill9(t)
		p.target.Up(t, env...)
	}
}

// awaitStep waits until the part of a step has reached the step.
func (p *promoted) awaitStep(t *testing.T, cut promotion) {
	t.Helper()
	host.Await(t, cut.who+" comes to "+cut.step, func() error { _, err := os.Stat(p.hold); return err })
}

// causeFault causes the fault and ends it. The lost home stays lost, unless its return is the fault.
func (p *promoted) causeFault(t *testing.T, cut promotion) {
	t.Helper()
	goes := func() {
		if err := os.Remove(p.hold); err != nil {
			t.Fatal(err)
		}
	}
	switch cut.fault {
	case "killed":
		p.start(t, cut)
		goes()
	case "cut":
		who := p.target
		if cut.who == "home" {
			who = p.home
		}
		p.Net.Partition(who.On, p.Controls[0].On)
		goes()
		time.Sleep(time.Second) // as long as a session; nothing else shows the effect of a cut
		p.Net.HealOneWay(who.On, p.Controls[0].On)
		p.Net.HealOneWay(p.Controls[0].On, who.On)
	case "back":
		p.Net.Heal()
		host.Await(t, "the home is heard again", func() error {
			list, err := p.client.NodeList(t.Context(), "")
			for _, n := range list {
				if n.Name == p.home.Name && n.Live {
					return nil
				}
			}
			return errors.Join(err, errors.New("it is not"))
		})
		if cut.undone() && p.wr != nil {
			p.wr.AwaitProgress(t) // it is thawed
		}
		goes()
	}
}

// takesOver starts containers on the target until one writes or the test stops waiting.
func (p *promoted) takesOver(t *testing.T, ended *atomic.Bool) {
	for !ended.Load() {
		entries, err := wrote(t, p.target, p.name, p.id)
		if err == nil {
			p.note(entries)
			return
		}
	}
}

// confirmFenced confirms that the home does not write any more.
func (p *promoted) confirmFenced(t *testing.T) {
	t.Helper()
	req := api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: p.name, Node: p.target.Name, Force: true, Fenced: p.home.Name}
	host.Await(t, "the promotion is taken in", func() error { // once its home is unreachable
		_, err := p.client.Submit(t.Context(), req)
		return err
	})
}

// awaitEnd waits until the promotion has ended.
func (p *promoted) awaitEnd(t *testing.T) {
	t.Helper()
	host.Await(t, "the promotion ends", func() error {
		all, err := p.newPromotions(t)
		for _, op := range all {
			if !op.State.Final() {
				err = errors.Join(err, fmt.Errorf("it is %s at %q", op.State, op.Progress.Step))
			}
		}
		if len(all) == 0 {
			err = errors.Join(err, errors.New("none was begun"))
		}
		return err
	})
}

// newPromotions lists the promotions on record that were not known before.
func (p *promoted) newPromotions(t *testing.T) (all []dataset.Operation, err error) {
	list, err := p.client.Operations(t.Context(), api.Page{})
	for _, op := range list.Items {
		if op.Loss != nil && op.DatasetID == p.id && !p.known[op.ID] {
			all = append(all, op)
		}
	}
	return all, err
}

func (p *promoted) record(t *testing.T) (v api.Volume) {
	t.Helper()
	host.Await(t, "control answers", func() (err error) {
		v, err = p.client.Volume(t.Context(), p.name)
		return err
	})
	return v
}

func (p *promoted) note(entries []witness.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries = append(p.entries, entries...)
}

// writes has a container write a few lines on a host. It may take until the host's agent has learned where the volume
// is.
func (p *promoted) writes(t *testing.T, h *cluster.Host) (entries []witness.Entry) {
	t.Helper()
	host.Await(t, "a container writes on "+h.Name, func() (err error) {
		entries, err = wrote(t, h, p.name, p.id)
		return err
	})
	p.note(entries)
	return entries
}

// check compares the final contents with what was written.
func (p *promoted) check(t *testing.T, cut promotion, before []witness.Entry) {
	t.Helper()
	all, err := p.newPromotions(t)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, op := range all {
		p.known[op.ID] = true
		if op.State == dataset.OpDone {
			after := int64(clock.Boottime()) - int64(time.Since(op.Loss.Taken))
			p.losses = append(p.losses, witness.Loss{Dataset: op.DatasetID.String(), Epoch: op.Epoch, After: after})
			done++
		} else if !cut.undone() {
			t.Errorf("it is %s: %+v", op.State, op.Problem)
		}
	}
	at, want := p.target, 1
	if cut.undone() {
		at, want = p.home, 0
	}
	if v := p.record(t); v.Node != at.Name || done != want {
		t.Errorf("%d promotions are done, and it is on %s, at epoch %d", done, v.Node, v.Epoch)
		if at = p.home; v.Node == p.target.Name {
			at = p.target
		}
	}
	if at == p.home && p.wr != nil {
		p.wr.AwaitProgress(t)
	}
	if at == p.target {
		host.Await(t, "what was overtaken is listed", func() error { return p.listed(t) })
	}
	p.writes(t, at)
	if p.wr != nil {
		p.wr.Stop(t)
		before = p.wr.Entries(t)
		p.note(before)
	}
	copies := []witness.Copy{p.Head(t, at, p.name)}
	bad := witness.Check(p.entries, copies, p.losses)
	if at == p.target {
		p.asides = append(p.asides, lookedAt(t, p.Controls[0], p.home, p.name, before))
		p.Controls[0].Must(t, "copy", "discard", p.name, p.home.Name, "--yes")
	}
	bad = append(bad, witness.Check(p.entries, append(copies, p.asides...), nil)...)
	if len(bad) > 0 {
		t.Errorf("%d entries:\n%s", len(p.entries), strings.Join(bad, "\n"))
	}
	t.Logf("it continues on %s; %d entries", at.Name, len(p.entries))
}

// listed fails until the data of the home is kept as a listed snapshot.
func (p *promoted) listed(t *testing.T) error {
	t.Helper()
	var list []api.CopyDetail
	p.Controls[0].JSON(t, &list, "copy", "ls")
	for _, k := range list {
		if k.Dataset == p.id && k.NodeName == p.home.Name && k.Kind == dataset.CopySuperseded && k.Snapshot != uuid.Nil {
			return nil
		}
	}
	return fmt.Errorf("%+v", list)
}
