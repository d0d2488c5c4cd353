package recovery_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/recovery"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// word ends the session of a node and plans a recovery in which a person confirms that the node does not write any
// more.
func word(m *controltest.RestoredStore, fenced string, heard ...string) (api.Recovery, error) {
	m.Control.Helper()
	m.EndSession(m.Agents[fenced])
	return m.RecoverWith(api.Recover{FencedNodes: []string{fenced}}, heard...)
}

// A volume was moved to a node that is lost after that. A node that had the volume before, or has a copy, knows the
// epoch of the new home. The node that gave the volume up is not made its home again; the volume continues from what
// that node has only if a person confirms it.
func TestRecoverOfWhatALostNodeHas(t *testing.T) {
	for name, keeps := range map[string]string{"the home that was left": "alpha", "a replica": "gamma"} {
		t.Run(name, func(t *testing.T) {
			m := controltest.NewRestoredStore(t, "alpha", "beta", "gamma")
			a, b := m.Agents["alpha"], m.Agents["beta"]
			d := a.MustCreate("db@gold")
			m.Saved = m.Save()
			now := m.MustMove("db", a, b, "beta")
			back(m)
			if keeps != "alpha" {
				h := m.Holdings["alpha"]
				k := h.Copies[0]
				h.Copies, k.Node, k.Pool, k.Kind = nil, m.Agents[keeps].ID, m.Agents[keeps].LocalPools[0].ID, dataset.CopyReplica
				m.Holdings["alpha"], m.Holdings[keeps] = h, api.Holdings{Incarnation: m.Agents[keeps].Incarnation, ExaminedPools: m.Holdings[keeps].ExaminedPools, Copies: []api.AssignedCopy{k}}
			}
			r, err := word(m, "beta", "alpha", "gamma")
			if err != nil || actions(r)["db"] != "moved" {
				t.Fatalf("%+v, %v", r, err)
			}
			if r, err = m.RecoverWith(api.Recover{Digest: r.Digest, FencedNodes: []string{"beta"}}); err != nil || !r.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			m.CheckInvariants()
			v, to := m.MustVolume("db"), m.Agents[keeps]
			if v.ID != d.ID || v.Home != b.ID || v.Epoch <= now.Epoch || !slices.Equal(v.Copies, []uuid.UUID{to.ID}) {
				t.Fatalf("%+v", v.Dataset)
			}
			op := *m.MustSubmit(controltest.ForcedMove("db", keeps, "beta")).Operation
			if got := *to.MustCommit(op).Dataset; got.Home != to.ID || got.Epoch <= v.Epoch {
				t.Errorf("%+v", got)
			}
			m.CheckInvariants()
		})
	}
}

// A dataset that its home does not have is forgotten only if every node has answered or was confirmed as lost,
// because the dataset may have been moved to a node that is silent. Until then it stays on record. It also stays
// while a node has a copy.
func TestRecoverOfWhatNobodyHas(t *testing.T) {
	for name, c := range map[string]struct {
		heard  []string
		fenced []string
		copied bool // beta has a copy that was not refreshed for long
		want   string
	}{
		"all were heard":   {[]string{"alpha", "beta", "gamma"}, nil, false, "forgotten"},
		"one is silent":    {[]string{"alpha", "beta"}, nil, false, "missing"},
		"one is lost":      {[]string{"alpha", "beta"}, []string{"gamma"}, false, "forgotten"},
		"there is a copy":  {[]string{"alpha", "beta", "gamma"}, nil, true, "missing"},
		"its home is away": {[]string{"beta", "gamma"}, nil, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := controltest.NewRestoredStore(t, "alpha", "beta", "gamma")
			a, b := m.Agents["alpha"], m.Agents["beta"]
			d := a.MustCreate("db")
			m.Saved = m.Save()
			back(m)
			h := m.Holdings["alpha"]
			h.Datasets = nil
			m.Holdings["alpha"] = h
			if c.copied {
				h := m.Holdings["beta"]
				h.Copies = []api.AssignedCopy{{Copy: dataset.Copy{Dataset: d.ID, Node: b.ID, Pool: b.LocalPools[0].ID, Kind: dataset.CopyLeft, Epoch: 1, Snapshot: uuid.New()}, Record: &d}}
				m.Holdings["beta"] = h
			}
			for name, n := range m.Agents {
				if !slices.Contains(c.heard, name) {
					m.EndSession(n)
				}
			}
			word := api.Recover{FencedNodes: c.fenced}
			r, err := m.RecoverWith(word, c.heard...)
			if err != nil || actions(r)["db"] != c.want {
				t.Fatalf("%+v, %v", r, err)
			}
			word.Digest = r.Digest
			if r, err = m.RecoverWith(word); err != nil || !r.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			st := m.CheckInvariants()
			if now, there := st.Datasets[d.ID]; there == (c.want == "forgotten") || there && (now.Home != a.ID || now.Epoch != d.Epoch || c.copied != slices.Contains(now.Copies, b.ID)) {
				t.Errorf("on record: %t, %+v", there, now)
			}
		})
	}
}

// The target of a move has recorded it, but the target has not learned of that. The target is the home, by what the
// other nodes and the store know.
func TestRecoverOfWhoHasNotHeard(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	a, b := m.Agents["alpha"], m.Agents["beta"]
	a.MustCreate("db@gold")
	m.MustMove("db", a, b, "beta")
	m.NoteHoldings()
	behind := m.Holdings["alpha"].Copies
	m.MustMove("db", b, a, "alpha")
	m.Saved = m.Save()
	a.MustCreate("since")
	back(m)
	h := m.Holdings["alpha"]
	h.Datasets, h.Copies = slices.DeleteFunc(h.Datasets, func(f api.FoundDataset) bool { return f.Dataset.Volume == "db" }), behind
	m.Holdings["alpha"] = h
	r := m.MustRecover("alpha", "beta")
	if want := map[string]string{"since": "restored"}; !maps.Equal(actions(r), want) {
		t.Errorf("%+v", r)
	}
	if v := m.MustVolume("db"); v.Home != a.ID || v.Epoch != 3 || !slices.Equal(v.Copies, []uuid.UUID{b.ID}) {
		t.Errorf("%+v", v.Dataset)
	}
}

// A node that is reachable cannot be confirmed as dead, neither at the check nor if it became reachable again since.
func TestRecoverWithoutWhoIsAlive(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	a, b := m.Agents["alpha"], m.Agents["beta"]
	a.MustCreate("db")
	m.Saved = m.Save()
	m.MustMove("db", a, b, "beta")
	back(m)
	_, err := m.RecoverWith(api.Recover{FencedNodes: []string{"beta"}}, "alpha", "beta")
	controltest.Refused(t, err, dataset.ErrConflict, "node beta", "alive", "--fenced beta")

	m.OK(word(m, "beta", "alpha"))
	c, err := m.Service.Recovery.Compare(t.Context(), []string{"beta"})
	if err != nil || len(c.All) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	b.MustRegister("beta")
	before := m.Save()
	controltest.Refused(t, c.Correct(t.Context()), dataset.ErrConflict, "node beta", "alive")
	_, err = c.Update(t.Context(), c.EndHalt)
	controltest.Refused(t, err, dataset.ErrConflict, "node beta", "alive")
	if !slices.EqualFunc(before, m.Save(), sameEntry) || !m.Halted() {
		t.Error("something was written")
	}
}

// A recovery that was suspended while another one finished changes nothing any more.
func TestRecoverOvertaken(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha")
	a := m.Agents["alpha"]
	d := a.MustCreate("db@gold")
	m.Saved = m.Save()
	late := a.MustSnapshot("db", "late")
	a.MustCreate("made")
	back(m)
	m.OK(m.RecoverWith(api.Recover{}, "alpha"))
	c, err := m.Service.Recovery.Compare(t.Context(), nil)
	if err != nil || len(c.All) != 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	m.Control.Service = m.Services[1]
	m.MustRecover("alpha")
	op := *m.MustSubmit(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}).Operation
	before := m.Save()
	for name, step := range map[string]func() error{
		"all": func() error { return c.Correct(t.Context()) },
		"snapshots that are missing": func() error {
			return c.CorrectSnapshots(t.Context(), recovery.Difference{Evidence: &recovery.Evidence{ID: d.ID}, Decision: recovery.Decision{Record: d}, Missing: []dataset.Snapshot{late}})
		},
		"snapshots that no longer exist": func() error {
			return c.CorrectSnapshots(t.Context(), recovery.Difference{Evidence: &recovery.Evidence{ID: d.ID}, Extra: []dataset.Snapshot{late}})
		},
		"what was under way": func() error { return c.EndOperations(t.Context()) },
		"the end": func() error {
			_, err := c.Update(t.Context(), c.EndHalt)
			return err
		},
	} {
		if err := step(); dataset.KindOf(err) != dataset.ErrConflict || !strings.Contains(err.Error(), "another recovery has begun") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := m.MustOperation(op.ID); now.State.Final() || !slices.EqualFunc(before, m.Save(), sameEntry) {
		t.Errorf("something was written; the operation is %+v", now)
	}
}

func sameEntry(x, y store.Entry) bool { return x.Key == y.Key && x.Index == y.Index }

// In a store that was restored from an older backup, a move whose home has yielded is not undone: its target may have
// completed it, at the epoch that the home would get. Only the recovery undoes it, because the recovery knows.
func TestRecoverOfAMoveThatWasOpen(t *testing.T) {
	for name, arrived := range map[string]bool{"it got there": true, "it did not": false} {
		t.Run(name, func(t *testing.T) {
			m := controltest.NewRestoredStore(t, "alpha", "beta")
			a, b := m.Agents["alpha"], m.Agents["beta"]
			a.MustCreate("db@gold")
			op := *m.MustSubmit(controltest.Move("db", "beta")).Operation
			b.MustRecall(op)
			a.OK(a.TryYield(op, controltest.Relinquished(op)))
			m.Saved = m.Save()
			want, epoch := a.ID, uint64(2)
			if arrived {
				done := op
				done.Manifest = controltest.Relinquished(op)
				b.MustCommit(done)
				want, epoch = b.ID, 3
			}
			back(m)
			failed := op
			failed.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrStale, "it is here already"))
			_, err := m.CancelOperation(t.Context(), op.ID.String())
			for _, err := range []error{err, b.TryCommit(failed)} {
				controltest.Refused(t, err, dataset.ErrConflict, "drover store recover")
			}
			m.MustRecover("alpha", "beta")
			m.CheckInvariants()
			if d := m.MustVolume("db").Dataset; d.Home != want || d.Epoch != epoch || d.Move != uuid.Nil {
				t.Errorf("%+v", d)
			}
		})
	}
}
