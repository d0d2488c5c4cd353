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

// promotion is one that is cut short: at a step of whom, and how. What is who's fault:
//
//	killed  kill -9 there, and it is started again
//	cut     for as long as a session it hears no control, and is not heard; of control: the target
//	back    the home that was lost is back
type promotion struct{ who, step, fault string }

// undone reports whether the home is back before another is on record: then it goes on there.
func (c promotion) undone() bool {
	return c.fault == "back" && slices.Contains([]string{"move.sworn", "move.fenced", "move.promoted", "commit.begin"}, c.step)
}

// The steps of a promotion by itself and of one by a person's word, as who comes to them. The
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

// promoted is a volume that goes on without its home, again and again, and what is known of it.
type promoted struct {
	*cuts

	name    string
	id      uuid.UUID
	auto    bool // by itself; otherwise by a person's word
	client  *client.Client
	entries []witness.Entry
	losses  []witness.Loss
	asides  []witness.Copy

	known        map[uuid.UUID]bool // promotions before the one under way
	home, target *cluster.Host      // of that
	wr           *cluster.Writer    // on the home, where it goes on by itself
	hold         string             // is there while who comes to the step waits
}

// promotions: a host that has a volume is cut off from everything while somebody writes there,
// and another goes on without it; at each step of that target, of the home's guard that fences
// it, of control's commit and of the home that is back, something else goes wrong. It ends, one
// way or the other: never do two hosts write at once, what was written until the loss that was
// announced is there, and what was overtaken is listed, and has all the rest.
func (c *cuts) promotions(t *testing.T) {
	for _, v := range []struct {
		volume string
		all    []promotion
		short  int
	}{{"auto", autoCuts, 2}, {"safe", wordCuts, 1}} {
		p := &promoted{cuts: c, name: v.volume, auto: v.volume == "auto", known: map[uuid.UUID]bool{}, client: c.Controls[0].Client(t)}
		host.Await(t, "a volume is made", func() error { // once control has heard of the guards
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

// cutAt has the volume go on without its home, once.
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
		before = p.writes(t, p.home) // and stops: of a home whose containers write on nobody gives his word
	}
	host.Await(t, "control hears the home", func() error { // how old its copies are it says itself
		if v := p.record(t); v.Status == nil {
			return errors.New("it does not")
		}
		return nil
	})
	p.Net.Isolate(p.home.On)
	if cut.who == "guard" {
		p.comes(t, cut)
		p.again(t, cut)
	}
	var ended atomic.Bool
	var users sync.WaitGroup
	defer func() { ended.Store(true); users.Wait() }()
	if p.auto {
		users.Go(func() { p.takesOver(t, &ended) })
	} else {
		p.word(t)
	}
	if cut.who == "home" {
		p.over(t)
		p.Net.Heal()
	}
	if cut.who != "guard" {
		p.comes(t, cut)
		p.again(t, cut)
	}
	p.over(t)
	if cut.fault != "back" {
		users.Wait()
	}
	p.Net.Heal()
	ended.Store(true)
	users.Wait()
	p.check(t, cut, before)
}

// start starts who a step is of with more in its environment.
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
		p.home.KillAgent(t)
		p.home.StartAgent(t, env...)
	default:
		p.target.KillAgent(t)
		p.target.StartAgent(t, env...)
	}
}

// comes waits until who a step is of has come to it.
func (p *promoted) comes(t *testing.T, cut promotion) {
	t.Helper()
	host.Await(t, cut.who+" comes to "+cut.step, func() error { _, err := os.Stat(p.hold); return err })
}

// again has the fault happen, and be over. The home that was lost stays so, but for where that
// is the fault.
func (p *promoted) again(t *testing.T, cut promotion) {
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
		time.Sleep(time.Second) // as long as a session: what a cut does shows in nothing else
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

// takesOver starts containers on the target until one writes, or nobody waits for that.
func (p *promoted) takesOver(t *testing.T, ended *atomic.Bool) {
	for !ended.Load() {
		entries, err := wrote(t, p.target, p.name, p.id)
		if err == nil {
			p.note(entries)
			return
		}
	}
}

// word gives it: the home writes no more.
func (p *promoted) word(t *testing.T) {
	t.Helper()
	req := api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: p.name, Node: p.target.Name, Force: true, Fenced: p.home.Name}
	host.Await(t, "the promotion is taken in", func() error { // once its home is away
		_, err := p.client.Submit(t.Context(), req)
		return err
	})
}

// over waits until what goes on without the home has ended.
func (p *promoted) over(t *testing.T) {
	t.Helper()
	host.Await(t, "the promotion ends", func() error {
		all, err := p.without(t)
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

// without are the promotions that are on record and were not known before.
func (p *promoted) without(t *testing.T) (all []dataset.Operation, err error) {
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

// writes has a container write a few lines on a host, which may take until its agent has heard
// where the volume is.
func (p *promoted) writes(t *testing.T, h *cluster.Host) (entries []witness.Entry) {
	t.Helper()
	host.Await(t, "a container writes on "+h.Name, func() (err error) {
		entries, err = wrote(t, h, p.name, p.id)
		return err
	})
	p.note(entries)
	return entries
}

// check holds what there is when all is over against what was written.
func (p *promoted) check(t *testing.T, cut promotion, before []witness.Entry) {
	t.Helper()
	all, err := p.without(t)
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
		p.Controls[0].Must(t, "volume", "superseded", "discard", p.name, p.home.Name, "--yes")
	}
	bad = append(bad, witness.Check(p.entries, append(copies, p.asides...), nil)...)
	if len(bad) > 0 {
		t.Errorf("%d entries:\n%s", len(p.entries), strings.Join(bad, "\n"))
	}
	t.Logf("it goes on on %s; %d entries", at.Name, len(p.entries))
}

// listed fails until what the home had is kept as a snapshot that is listed.
func (p *promoted) listed(t *testing.T) error {
	t.Helper()
	var list []api.CopyDetail
	p.Controls[0].JSON(t, &list, "volume", "superseded", "ls")
	for _, k := range list {
		if k.Dataset == p.id && k.NodeName == p.home.Name && k.Kind == dataset.CopySuperseded && k.Snapshot != uuid.Nil {
			return nil
		}
	}
	return fmt.Errorf("%+v", list)
}
