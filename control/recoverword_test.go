package control

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// word looks, with the word that a node writes no more, which is dead by then.
func (m *muster) word(fenced string, heard ...string) (api.Recovery, error) {
	m.env.Helper()
	m.dies(m.nodes[fenced])
	return m.recover(api.Recover{Fenced: []string{fenced}}, heard...)
}

// A volume went to a node that is lost with it. Who left it, or has a copy, knows of its
// epoch there: it is not made home of what it has given up, and the volume goes on from
// that by a person's word.
func TestRecoverOfWhatALostNodeHas(t *testing.T) {
	for name, keeps := range map[string]string{"the home that was left": "alpha", "a replica": "gamma"} {
		t.Run(name, func(t *testing.T) {
			m := newMuster(t, "alpha", "beta", "gamma")
			a, b := m.nodes["alpha"], m.nodes["beta"]
			d := a.create("db@gold")
			m.saved = m.save()
			now := m.moved("db", a, b, "beta")
			m.back()
			if keeps != "alpha" {
				h := m.holds["alpha"]
				k := h.Copies[0]
				h.Copies, k.Node, k.Pool, k.Kind = nil, m.nodes[keeps].id, m.nodes[keeps].pools[0].ID, dataset.CopyReplica
				m.holds["alpha"], m.holds[keeps] = h, api.Holdings{Incarnation: m.nodes[keeps].incarnation, Pools: m.holds[keeps].Pools, Copies: []api.Kept{k}}
			}
			r, err := m.word("beta", "alpha", "gamma")
			if err != nil || actions(r)["db"] != "moved" {
				t.Fatalf("%+v, %v", r, err)
			}
			if r, err = m.recover(api.Recover{Confirm: r.Digest, Fenced: []string{"beta"}}); err != nil || !r.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			m.check()
			v, to := m.volume("db"), m.nodes[keeps]
			if v.ID != d.ID || v.Home != b.id || v.Epoch <= now.Epoch || !slices.Equal(v.Copies, []uuid.UUID{to.id}) {
				t.Fatalf("%+v", v.Dataset)
			}
			op := *m.submit(forced("db", keeps, "beta")).Operation
			if got := *to.commit(op).Dataset; got.Home != to.id || got.Epoch <= v.Epoch {
				t.Errorf("%+v", got)
			}
			m.check()
		})
	}
}

// What its home does not have is forgotten only when every node was asked for it, or is
// said to be lost: otherwise it may have gone to one that is silent. It stays on record
// then, as it does while somebody has a copy.
func TestRecoverOfWhatNobodyHas(t *testing.T) {
	for name, c := range map[string]struct {
		heard  []string
		fenced []string
		copied bool // beta has a copy, of which it has not heard for long
		want   string
	}{
		"all were heard":   {[]string{"alpha", "beta", "gamma"}, nil, false, "forgotten"},
		"one is silent":    {[]string{"alpha", "beta"}, nil, false, "missing"},
		"one is lost":      {[]string{"alpha", "beta"}, []string{"gamma"}, false, "forgotten"},
		"there is a copy":  {[]string{"alpha", "beta", "gamma"}, nil, true, "missing"},
		"its home is away": {[]string{"beta", "gamma"}, nil, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMuster(t, "alpha", "beta", "gamma")
			a, b := m.nodes["alpha"], m.nodes["beta"]
			d := a.create("db")
			m.saved = m.save()
			m.back()
			h := m.holds["alpha"]
			h.Found = nil
			m.holds["alpha"] = h
			if c.copied {
				h := m.holds["beta"]
				h.Copies = []api.Kept{{Copy: dataset.Copy{Dataset: d.ID, Node: b.id, Pool: b.pools[0].ID, Kind: dataset.CopyLeft, Epoch: 1, Snapshot: uuid.New()}, Record: &d}}
				m.holds["beta"] = h
			}
			for name, n := range m.nodes {
				if !slices.Contains(c.heard, name) {
					m.dies(n)
				}
			}
			word := api.Recover{Fenced: c.fenced}
			r, err := m.recover(word, c.heard...)
			if err != nil || actions(r)["db"] != c.want {
				t.Fatalf("%+v, %v", r, err)
			}
			word.Confirm = r.Digest
			if r, err = m.recover(word); err != nil || !r.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			st := m.check()
			if now, there := st.datasets[d.ID]; there == (c.want == "forgotten") || there && (now.Home != a.id || now.Epoch != d.Epoch || c.copied != slices.Contains(now.Copies, b.id)) {
				t.Errorf("on record: %t, %+v", there, now)
			}
		})
	}
}

// A move that its target has on record, and the target has not heard so: it is home, by
// what others and the store know.
func TestRecoverOfWhoHasNotHeard(t *testing.T) {
	m := newMuster(t, "alpha", "beta")
	a, b := m.nodes["alpha"], m.nodes["beta"]
	a.create("db@gold")
	m.moved("db", a, b, "beta")
	m.note()
	behind := m.holds["alpha"].Copies
	m.moved("db", b, a, "alpha")
	m.saved = m.save()
	a.create("since")
	m.back()
	h := m.holds["alpha"]
	h.Found, h.Copies = slices.DeleteFunc(h.Found, func(f api.Found) bool { return f.Dataset.Volume == "db" }), behind
	m.holds["alpha"] = h
	r := m.mend("alpha", "beta")
	if want := map[string]string{"since": "restored"}; !maps.Equal(actions(r), want) {
		t.Errorf("%+v", r)
	}
	if v := m.volume("db"); v.Home != a.id || v.Epoch != 3 || !slices.Equal(v.Copies, []uuid.UUID{b.id}) {
		t.Errorf("%+v", v.Dataset)
	}
}

// Nobody vouches for the death of a node that is alive: not when it is looked, and not when
// it came back since.
func TestRecoverWithoutWhoIsAlive(t *testing.T) {
	m := newMuster(t, "alpha", "beta")
	a, b := m.nodes["alpha"], m.nodes["beta"]
	a.create("db")
	m.saved = m.save()
	m.moved("db", a, b, "beta")
	m.back()
	_, err := m.recover(api.Recover{Fenced: []string{"beta"}}, "alpha", "beta")
	refused(t, err, dataset.ErrConflict, "node beta", "alive", "--fenced beta")

	if _, err := m.word("beta", "alpha"); err != nil {
		t.Fatal(err)
	}
	c, err := m.Service.Recovery.Compare(t.Context(), []string{"beta"})
	if err != nil || len(c.All) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	b.register("beta")
	before := m.save()
	refused(t, c.Mend(t.Context()), dataset.ErrConflict, "node beta", "alive")
	_, err = c.Update(t.Context(), c.Lift)
	refused(t, err, dataset.ErrConflict, "node beta", "alive")
	if !slices.EqualFunc(before, m.save(), sameEntry) || !m.halted() {
		t.Error("something was written")
	}
}

// A recovery that stood still while another one came to its end changes nothing any more.
func TestRecoverOvertaken(t *testing.T) {
	m := newMuster(t, "alpha")
	a := m.nodes["alpha"]
	d := a.create("db@gold")
	m.saved = m.save()
	late := a.snapshot("db", "late")
	a.create("made")
	m.back()
	if _, err := m.recover(api.Recover{}, "alpha"); err != nil {
		t.Fatal(err)
	}
	c, err := m.Service.Recovery.Compare(t.Context(), nil)
	if err != nil || len(c.All) != 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	m.env.Service = m.list[1]
	m.mend("alpha")
	op := *m.submit(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}).Operation
	before := m.save()
	for name, step := range map[string]func() error{
		"all": func() error { return c.Mend(t.Context()) },
		"snapshots that are missing": func() error {
			return c.MendSnapshots(t.Context(), recovery.Judged{Account: &recovery.Account{ID: d.ID}, Verdict: recovery.Verdict{Is: d}, Lacks: []dataset.Snapshot{late}})
		},
		"snapshots that are no more": func() error {
			return c.MendSnapshots(t.Context(), recovery.Judged{Account: &recovery.Account{ID: d.ID}, Spare: []dataset.Snapshot{late}})
		},
		"what was under way": func() error { return c.EndAll(t.Context()) },
		"the end": func() error {
			_, err := c.Update(t.Context(), c.Lift)
			return err
		},
	} {
		if err := step(); dataset.KindOf(err) != dataset.ErrConflict || !strings.Contains(err.Error(), "another one was begun") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := m.operationNow(op.ID); now.State.Final() || !slices.EqualFunc(before, m.save(), sameEntry) {
		t.Errorf("something was written; the operation is %+v", now)
	}
}

func sameEntry(x, y store.Entry) bool { return x.Key == y.Key && x.Index == y.Index }

// In a store that went back no move is taken back whose home had given up: its target may
// have got there, at the epoch that the home would be given. The recovery does so, which
// knows.
func TestRecoverOfAMoveThatWasOpen(t *testing.T) {
	for name, arrived := range map[string]bool{"it got there": true, "it did not": false} {
		t.Run(name, func(t *testing.T) {
			m := newMuster(t, "alpha", "beta")
			a, b := m.nodes["alpha"], m.nodes["beta"]
			a.create("db@gold")
			op := *m.submit(moveTo("db", "beta")).Operation
			b.recalls(op)
			if err := a.yields(op, gaveUp(op)); err != nil {
				t.Fatal(err)
			}
			m.saved = m.save()
			want, epoch := a.id, uint64(2)
			if arrived {
				done := op
				done.Manifest = gaveUp(op)
				b.commit(done)
				want, epoch = b.id, 3
			}
			m.back()
			failed := op
			failed.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrStale, "it is here already"))
			_, err := m.CancelOperation(t.Context(), op.ID.String())
			for _, err := range []error{err, b.commits(failed)} {
				refused(t, err, dataset.ErrConflict, "drover store recover")
			}
			m.mend("alpha", "beta")
			m.check()
			if d := m.volume("db").Dataset; d.Home != want || d.Epoch != epoch || d.Move != uuid.Nil {
				t.Errorf("%+v", d)
			}
		})
	}
}
