package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// muster are some nodes of a cluster whose store goes back, with what each holds when it
// does.
type muster struct {
	*shared
	*env
	nodes map[string]*agent
	holds map[string]api.Holdings
	saved []store.Entry
}

func newMuster(t *testing.T, names ...string) *muster {
	x := newShared(t, 2)
	m := &muster{shared: x, env: x.env(x.list[0]), nodes: map[string]*agent{}, holds: map[string]api.Holdings{}}
	m.spy = newSpy(x.st)
	for _, name := range names {
		m.nodes[name] = m.agent(name)
	}
	return m
}

// seen is an index above all that the store has when it was put back.
const seenIndex = 1 << 40

// note keeps what every node holds now.
func (m *muster) note() {
	m.env.Helper()
	for name, n := range m.nodes {
		h := api.Holdings{Incarnation: n.incarnation}
		for _, p := range n.pools {
			h.Pools = append(h.Pools, p.ID)
		}
		h.Found = m.env.spyFound(n)
		h.Copies = n.sync(0).Copies
		m.holds[name] = h
	}
}

// spyFound is what lies in a node's pools of datasets that are its own.
func (e *env) spyFound(n *agent) []api.Found {
	all := n.found()
	all = slices.DeleteFunc(all, func(f api.Found) bool { return f.Dataset.Home != n.id })
	for i := range all {
		all[i].Index = seenIndex
	}
	return all
}

// back puts the store back to what it was saved as, and has it seen.
func (m *muster) back() {
	m.env.Helper()
	m.note()
	m.putBack(m.saved)
	if err := m.list[0].Ledger.HaltRestored(m.env.ctx, seenIndex); err != nil {
		m.env.Fatalf("%v", err)
	}
}

// recover asks for a recovery, with the nodes of these names telling what they hold.
func (m *muster) recover(r api.Recover, heard ...string) (api.Recovery, error) {
	m.env.Helper()
	done := make(chan struct{})
	before, _ := m.Service.Recovery.Gathered()
	if r.Confirm == "" {
		for name, n := range m.nodes {
			if !slices.Contains(heard, name) {
				m.dies(n)
			}
		}
		go func() {
			defer close(done)
			of := before
			for of == before {
				of, _ = m.Service.Recovery.Gathered()
			}
			for _, name := range heard {
				h := m.holds[name]
				h.Recovery = of
				if err := m.Hold(m.env.ctx, m.nodes[name].id, h); err != nil {
					m.env.Errorf("%v", err)
				}
			}
		}()
	} else {
		close(done)
	}
	out, err := m.Recover(m.env.ctx, r)
	<-done
	return out, err
}

// mend looks and confirms.
func (m *muster) mend(heard ...string) api.Recovery {
	m.env.Helper()
	r, err := m.recover(api.Recover{}, heard...)
	if err == nil {
		r, err = m.recover(api.Recover{Confirm: r.Digest}, heard...)
	}
	if err != nil || !r.Done {
		m.env.Fatalf("%+v, %v", r, err)
	}
	return r
}

func actions(r api.Recovery) map[string]string {
	out := map[string]string{}
	for _, d := range r.Different {
		out[cmp.Or(d.Volume, d.Dataset.String())] += d.Action
	}
	return out
}

// Whatever happened since the snapshot is so again: what was made, moved, put in the trash
// or taken out of it, snapshots taken and removed; what was destroyed is off the record;
// and what did not change is not touched.
func TestRecover(t *testing.T) {
	m := newMuster(t, "alpha", "beta", "gamma")
	a, b := m.nodes["alpha"], m.nodes["beta"]
	same, moved := a.create("same"), a.create("moved@gold")
	a.create("trashed")
	untrashed, gone := a.create("untrashed"), a.create("gone@fleeting")
	a.create("reused@fleeting")
	snapped := a.create("snapped@gold")
	spare := a.snapshot("snapped", "spare")
	a.delete("untrashed")
	running := *m.submit(api.Request{Kind: dataset.OpResize, Volume: "same", Size: "1GiB"}).Operation
	m.saved = m.save()

	made := b.create("made")
	m.moved("moved", a, b, "beta")
	again := m.moved("moved", b, a, "alpha")
	now := m.moved("moved", a, b, "beta")
	a.delete("trashed")
	m.submit(api.Request{Kind: dataset.OpUndelete, Volume: untrashed.ID.String()})
	a.purge(a.delete("gone"))
	a.purge(a.delete("reused"))
	reused := b.create("reused")
	late := a.snapshot("snapped", "late")
	op := *m.submit(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: spare.ID.String()}).Operation
	a.commit(op)
	m.back()

	r := m.mend("alpha", "beta", "gamma")
	want := map[string]string{
		"made": "restored", "moved": "moved", "trashed": "trashed", "untrashed": "changed", "gone": "forgotten",
		"reused": "forgottenrestored", "snapped": "changed",
	}
	if got := actions(r); len(got) != len(want) || len(r.Silent) != 0 || len(r.Heard) != 3 {
		t.Errorf("%+v", r)
	}
	for name, action := range want {
		if got := actions(r)[name]; got != action {
			t.Errorf("%s: %s, want %s", name, got, action)
		}
	}
	st := m.check()
	if d := st.datasets[moved.ID]; d.Home != b.id || d.Epoch <= now.Epoch || now.Epoch <= again.Epoch || !slices.Equal(d.Copies, []uuid.UUID{a.id}) {
		t.Errorf("what moved is %+v", d)
	}
	for name, id := range map[string]uuid.UUID{"made": made.ID, "untrashed": untrashed.ID, "reused": reused.ID, "same": same.ID, "moved": moved.ID, "snapped": snapped.ID} {
		if v := m.volume(name); v.ID != id {
			t.Errorf("%s is %s, not %s", name, v.ID, id)
		}
	}
	if _, there := st.datasets[gone.ID]; there {
		t.Error("what was destroyed is on record")
	}
	if st.datasets[same.ID].Epoch != same.Epoch {
		t.Error("what is the same was touched")
	}
	if _, there := st.snapshots[spare.ID]; there || st.snapshots[late.ID].Name != "late" {
		t.Errorf("snapshots: %v", st.snapshots)
	}
	if got := m.operationNow(running.ID); got.State != dataset.OpFailed || !strings.Contains(got.Problem.Message, "went back") {
		t.Errorf("what was under way is %+v", got)
	}
	if m.halted() {
		t.Error("it is halted still")
	}
	a.create("after") // and all goes on
	_, clock, err := m.list[1].Ledger.ReadLanes(t.Context(), nil)
	if err != nil || clock <= seenIndex || m.halted() {
		t.Errorf("clock %d, %v, halted %t", clock, err, m.halted())
	}
	// Again: nothing.
	if r, err := m.Recover(t.Context(), api.Recover{}); err != nil || r.Halted != "" || len(r.Different) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, name := range []string{"alpha", "gamma"} {
		if s := m.nodes[name].sync(0); s.Recovery == nil || !s.Recovery.Done || !s.Recovery.Heard {
			t.Errorf("%s hears of %+v", name, s.Recovery)
		}
	}
}

// Cut short after any number of transactions, it is asked for again, and comes to the same.
func TestRecoverCutShort(t *testing.T) {
	for n := 0; ; n++ {
		m := newMuster(t, "alpha", "beta")
		a, b := m.nodes["alpha"], m.nodes["beta"]
		d := a.create("moved")
		a.create("gone@fleeting")
		m.saved = m.save()
		a.purge(a.delete("gone"))
		made := b.create("gone")
		b.snapshot("gone", "one")
		m.moved("moved", a, b, "beta")
		m.back()
		r, err := m.recover(api.Recover{}, "alpha", "beta")
		if err != nil {
			t.Fatal(err)
		}
		m.useStore(&stops{Store: m.st, left: n})
		_, err = m.recover(api.Recover{Confirm: r.Digest}, "alpha", "beta")
		m.useStore(m.st)
		if err != nil {
			if !m.halted() {
				t.Fatalf("stopped after %d: the halt is over", n)
			}
			m.mend("alpha", "beta")
		}
		m.check()
		if v := m.volume("moved"); v.ID != d.ID || v.Home != b.id {
			t.Errorf("stopped after %d: %+v", n, v)
		}
		if v := m.volume("gone"); v.ID != made.ID || v.Snapshots != 1 {
			t.Errorf("stopped after %d: %+v", n, v)
		}
		if err == nil {
			if n < 4 {
				t.Errorf("it took %d transactions", n)
			}
			return
		}
	}
}

// stops fails every transaction after so many.
type stops struct {
	store.Store
	left int
}

func (s *stops) Txn(ctx context.Context, checks []store.Check, writes []store.Write) (uint64, error) {
	if s.left--; s.left < 0 {
		return 0, store.ErrClosed
	}
	return s.Store.Txn(ctx, checks, writes)
}

// What takes a person's word is refused by name, and nothing at all is written: two nodes
// that claim one epoch; an epoch given up to a node that is not heard of. With the word,
// one of them has it, at an epoch above all.
func TestRecoverDisputed(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(m *muster, d dataset.Dataset)
		heard   []string
		fenced  string
		home    string
		copies  int
		epoch   uint64
	}{
		"two claims": {func(m *muster, d dataset.Dataset) {
			h := m.holds["beta"]
			d.Home, d.Pool = m.nodes["beta"].id, m.nodes["beta"].pools[0].ID
			h.Found = append(h.Found, api.Found{Pool: d.Pool, Dataset: d, Index: seenIndex})
			m.holds["beta"] = h
		}, []string{"beta", "alpha"}, "beta", "alpha", 1, 2},
		"given up to who is silent": {func(m *muster, d dataset.Dataset) {
			h := m.holds["alpha"]
			h.Given = []api.Given{{Dataset: d.ID, Epoch: d.Epoch, To: m.nodes["beta"].id}}
			m.holds["alpha"] = h
		}, []string{"alpha"}, "beta", "alpha", 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMuster(t, "alpha", "beta")
			d := m.nodes["alpha"].create("db")
			m.saved = m.save()
			m.back()
			c.prepare(m, d)
			r, err := m.recover(api.Recover{}, c.heard...)
			if err != nil || actions(r)["db"] != "disputed" {
				t.Fatalf("%+v, %v", r, err)
			}
			before := m.save()
			_, err = m.recover(api.Recover{Confirm: r.Digest}, c.heard...)
			refused(t, err, dataset.ErrConflict, "volume db", d.ID.String(), "--fenced")
			if after := m.save(); len(after) != len(before) || !m.halted() {
				t.Error("something was written")
			}
			m.dies(m.nodes[c.fenced]) // once it has told, if it did
			word := api.Recover{Fenced: []string{c.fenced}}
			if r, err = m.recover(word, c.heard...); err == nil {
				word.Confirm = r.Digest
				r, err = m.recover(word, c.heard...)
			}
			if err != nil || !r.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			m.check()
			if v := m.volume("db"); v.Home != m.nodes[c.home].id || len(v.Copies) != c.copies || v.Epoch < c.epoch {
				t.Errorf("%+v", v.Dataset)
			}
		})
	}
}

// A node that was overtaken, and says that it is the home of an epoch that is over, keeps
// what it has as a superseded copy. A node that is silent loses nothing of what others
// know of it, and is named; it did not tell, so it is not to take the store for whole.
func TestRecoverOfWhoIsBehind(t *testing.T) {
	m := newMuster(t, "alpha", "beta", "gamma")
	a, b := m.nodes["alpha"], m.nodes["beta"]
	d, away := a.create("db"), a.create("away")
	m.saved = m.save()
	m.note()
	behind := m.holds["alpha"].Found
	m.moved("away", a, m.nodes["gamma"], "gamma")
	m.moved("db", a, b, "beta")
	m.back()
	h := m.holds["alpha"]
	for _, f := range behind {
		if f.Dataset.ID == d.ID {
			h.Found, h.Copies = append(h.Found, f), slices.DeleteFunc(h.Copies, func(k api.Kept) bool { return k.Dataset == d.ID })
		}
	}
	m.holds["alpha"] = h
	r := m.mend("alpha", "beta")
	if !slices.Equal(r.Silent, []string{"gamma"}) {
		t.Errorf("silent: %v", r.Silent)
	}
	m.check()
	v := m.volume("db")
	if v.Home != b.id || len(v.Kept) != 1 || v.Kept[0].Node != a.id || v.Kept[0].Kind != dataset.CopySuperseded {
		t.Errorf("%+v", v)
	}
	if v := m.volume("away"); v.ID != away.ID || v.Home != m.nodes["gamma"].id {
		t.Errorf("what went to the silent node is %+v", v.Dataset)
	}
	if s := m.nodes["gamma"].sync(0); s.Recovery == nil || s.Recovery.Heard {
		t.Errorf("gamma hears of %+v", s.Recovery)
	}
}

// Only what was seen is done, by who asked, and only as long as it is so.
func TestRecoverOnlyWhatWasSeen(t *testing.T) {
	m := newMuster(t, "alpha")
	if r, err := m.Recover(t.Context(), api.Recover{Confirm: "0123"}); err != nil || r.Done {
		t.Errorf("a store that is believed: %+v, %v", r, err)
	}
	m.saved = m.save()
	m.nodes["alpha"].create("db")
	m.back()
	_, err := m.Recover(t.Context(), api.Recover{Confirm: "0123"})
	refused(t, err, dataset.ErrConflict, "look again")
	r, err := m.recover(api.Recover{}, "alpha")
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.list[1].Recovery.Recover(t.Context(), api.Recover{Confirm: r.Digest}) // which nobody told anything
	refused(t, err, dataset.ErrConflict, "look again")
	_, err = m.Recover(t.Context(), api.Recover{Confirm: "0123"})
	refused(t, err, dataset.ErrConflict, "look again")
	h := m.holds["alpha"]
	h.Recovery, _ = m.Service.Recovery.Gathered()
	h.Found = nil
	if err := m.Hold(t.Context(), m.nodes["alpha"].id, h); err != nil {
		t.Fatal(err)
	}
	_, err = m.Recover(t.Context(), api.Recover{Confirm: r.Digest})
	refused(t, err, dataset.ErrConflict, "look again")
	_, err = newEnv(t).Recover(t.Context(), api.Recover{})
	refused(t, err, dataset.ErrUnsupported, "drover store rebuild")
}
