package recovery_test

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// back restores the store to its saved state, and has the service notice it.
func back(m *controltest.RestoredStore) {
	m.Control.Helper()
	m.NoteHoldings()
	m.RestoreStore(m.Saved)
	require.NoError(m.Control, m.Services[0].Ledger.HaltRestored(m.Control.Ctx, controltest.SeenIndex))
}

func actions(r api.Recovery) map[string]string {
	out := map[string]string{}
	for _, d := range r.Differences {
		out[cmp.Or(d.Volume, d.Dataset.String())] += string(d.Action)
	}
	return out
}

// Every change since the snapshot is made again: creates, moves, changes to and from the trash, and snapshots that
// were taken or removed. What was destroyed is removed from the record, and what did not change is not touched.
func TestRecover(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta", "gamma")
	a, b := m.Agents["alpha"], m.Agents["beta"]
	same, moved := a.MustCreate("same"), a.MustCreate("moved@gold")
	a.MustCreate("trashed")
	untrashed, gone := a.MustCreate("untrashed"), a.MustCreate("gone@fleeting")
	a.MustCreate("reused@fleeting")
	snapped := a.MustCreate("snapped@gold")
	spare := a.MustSnapshot("snapped", "spare")
	a.MustDelete("untrashed")
	running := *m.MustSubmit(api.Request{Kind: dataset.OpResize, Volume: "same", Size: "1GiB"}).Operation
	m.Saved = m.Save()

	made := b.MustCreate("made")
	m.MustMove("moved", a, b, "beta")
	again := m.MustMove("moved", b, a, "alpha")
	now := m.MustMove("moved", a, b, "beta")
	a.MustDelete("trashed")
	m.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: untrashed.ID.String()})
	a.MustPurge(a.MustDelete("gone"))
	a.MustPurge(a.MustDelete("reused"))
	reused := b.MustCreate("reused")
	late := a.MustSnapshot("snapped", "late")
	op := *m.MustSubmit(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: spare.ID.String()}).Operation
	a.MustCommit(op)
	back(m)

	r := m.MustRecover("alpha", "beta", "gamma")
	want := map[string]string{
		"made": "restored", "moved": "moved", "trashed": "trashed", "untrashed": "changed", "gone": "forgotten",
		"reused": "forgottenrestored", "snapped": "changed",
	}
	if got := actions(r); len(got) != len(want) || len(r.SilentNodes) != 0 || len(r.ReportedNodes) != 3 {
		t.Errorf("%+v", r)
	}
	for name, action := range want {
		if got := actions(r)[name]; got != action {
			t.Errorf("%s: %s, want %s", name, got, action)
		}
	}
	st := m.CheckInvariants()
	if d := st.Datasets[moved.ID]; d.Home != b.ID || d.Epoch <= now.Epoch || now.Epoch <= again.Epoch || !slices.Equal(d.Copies, []uuid.UUID{a.ID}) {
		t.Errorf("the moved dataset is %+v", d)
	}
	for name, id := range map[string]uuid.UUID{"made": made.ID, "untrashed": untrashed.ID, "reused": reused.ID, "same": same.ID, "moved": moved.ID, "snapped": snapped.ID} {
		if v := m.MustVolume(name); v.ID != id {
			t.Errorf("%s is %s, not %s", name, v.ID, id)
		}
	}
	if _, there := st.Datasets[gone.ID]; there {
		t.Error("a destroyed dataset is on record")
	}
	if st.Datasets[same.ID].Epoch != same.Epoch {
		t.Error("an unchanged dataset was written")
	}
	if _, there := st.Snapshots[spare.ID]; there || st.Snapshots[late.ID].Name != "late" {
		t.Errorf("snapshots: %v", st.Snapshots)
	}
	if got := m.MustOperation(running.ID); got.State != dataset.OpFailed || !strings.Contains(got.Problem.Message, "restored from a backup") {
		t.Errorf("the operation in progress is %+v", got)
	}
	if m.Halted() {
		t.Error("it is still halted")
	}
	a.MustCreate("after") // and all work continues
	_, clock, err := m.Services[1].Ledger.ReadLanes(t.Context(), nil)
	if err != nil || clock <= controltest.SeenIndex || m.Halted() {
		t.Errorf("clock %d, %v, halted %t", clock, err, m.Halted())
	}
	// A second recovery changes nothing.
	if r, err := m.Recover(t.Context(), api.Recover{}); err != nil || r.Halted != "" || len(r.Differences) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, name := range []string{"alpha", "gamma"} {
		if s := m.Agents[name].MustSync(0); s.Recovery == nil || !s.Recovery.Done || !s.Recovery.ReportIncluded {
			t.Errorf("%s gets %+v", name, s.Recovery)
		}
	}
}

// TestRecoverCountsSnapshotsAgain: if a recovery only removes records of snapshots, the dataset is written too.
// Otherwise services would show the number of snapshots that they remember for the index of the dataset.
func TestRecoverCountsSnapshotsAgain(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha")
	a := m.Agents["alpha"]
	a.MustCreate("db@gold")
	a.MustSnapshot("db", "lost")
	m.Saved = m.Save()
	back(m)
	for i := range m.Holdings["alpha"].Datasets {
		m.Holdings["alpha"].Datasets[i].Snapshots = nil
	}
	if v := m.MustVolume("db"); v.Snapshots != 1 {
		t.Fatalf("got %d snapshots before the recovery, want 1", v.Snapshots)
	}
	if got := actions(m.MustRecover("alpha"))["db"]; got != string(api.RecordSnapshots) {
		t.Errorf("got action %q, want %q", got, api.RecordSnapshots)
	}
	if v := m.MustVolume("db"); v.Snapshots != 0 {
		t.Errorf("got %d snapshots after the recovery, want 0", v.Snapshots)
	}
	m.CheckInvariants()
}

// TestRecoverOfRenames: volumes that were renamed since the backup get their names and aliases again. An alias that
// was dropped since then stays free.
func TestRecoverOfRenames(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	a := m.Agents["alpha"]
	first, second, third := a.MustCreate("first"), a.MustCreate("second"), a.MustCreate("third")
	left, right := a.MustCreate("left"), a.MustCreate("right")
	m.MustSubmit(controltest.Rename("third", "dropped"))
	m.Saved = m.Save()
	m.MustSubmit(controltest.Rename("first", "new"))
	m.MustSubmit(controltest.DropAlias("new", "first"))
	m.MustSubmit(controltest.Rename("second", "first")) // a name that the backup has for another volume
	m.MustSubmit(controltest.Rename("dropped", "third"))
	m.MustSubmit(controltest.DropAlias("third", "dropped"))
	m.MustSubmit(controltest.Rename("left", "other")) // exchanges the names of left and right
	m.MustSubmit(controltest.DropAlias("other", "left"))
	m.MustSubmit(controltest.Rename("right", "left"))
	m.MustSubmit(controltest.DropAlias("left", "right"))
	m.MustSubmit(controltest.Rename("other", "right"))
	m.MustSubmit(controltest.DropAlias("right", "other"))
	back(m)
	m.MustRecover("alpha", "beta")
	for id, names := range map[uuid.UUID][]string{first.ID: {"new"}, second.ID: {"first", "second"}, third.ID: {"third"}, left.ID: {"right"}, right.ID: {"left"}} {
		if v := m.MustVolume(id.String()); !slices.Equal(v.Names(), names) {
			t.Errorf("dataset %s has the names %v, want %v", id, v.Names(), names)
		}
	}
	m.CheckInvariants()
	b := m.Agents["beta"]
	b.MustCreate("dropped")
}

// A volume that was purged while its pool was offline stays condemned: an older backup does not bring it back.
func TestRecoverKeepsPurge(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	a := m.Agents["alpha"]
	d := a.MustCreate("secret@fleeting")
	a.MustSnapshot("secret", "one")
	m.Saved = m.Save()
	a.MustDelete("secret") // without a trash, and alpha does not report that its data is destroyed
	back(m)
	r := m.MustRecover("alpha", "beta")
	if got := actions(r)["secret"]; got != "purging" || len(r.Differences) != 1 {
		t.Errorf("%+v", r)
	}
	st := m.CheckInvariants()
	if got := st.Datasets[d.ID]; got.State != dataset.StatePurging || got.Home != a.ID || got.Epoch <= d.Epoch {
		t.Errorf("after the recovery: %+v", got)
	}
	a.MustCreate("secret") // its name is free
}

// A recovery that is interrupted after any number of transactions is requested again, and has the same result.
func TestRecoverCutShort(t *testing.T) {
	for n := 0; ; n++ {
		m := controltest.NewRestoredStore(t, "alpha", "beta")
		a, b := m.Agents["alpha"], m.Agents["beta"]
		d := a.MustCreate("moved")
		a.MustCreate("gone@fleeting")
		m.Saved = m.Save()
		a.MustPurge(a.MustDelete("gone"))
		made := b.MustCreate("gone")
		b.MustSnapshot("gone", "one")
		m.MustMove("moved", a, b, "beta")
		back(m)
		r, err := m.RecoverWith(api.Recover{}, "alpha", "beta")
		require.NoError(t, err)
		m.Ledger.Store = &stops{Store: m.Store, left: n}
		_, err = m.RecoverWith(api.Recover{Digest: r.Digest}, "alpha", "beta")
		m.Ledger.Store = m.Store
		if err != nil {
			if !m.Halted() {
				t.Fatalf("stopped after %d: the halt is over", n)
			}
			m.MustRecover("alpha", "beta")
		}
		m.CheckInvariants()
		if v := m.MustVolume("moved"); v.ID != d.ID || v.Home != b.ID {
			t.Errorf("stopped after %d: %+v", n, v)
		}
		if v := m.MustVolume("gone"); v.ID != made.ID || v.Snapshots != 1 {
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

// stops makes every transaction fail after the given number of them.
type stops struct {
	store.Store
	left int
}

func (s *stops) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	if s.left--; s.left < 0 {
		return 0, store.ErrClosed
	}
	return s.Store.Txn(ctx, checks, writes)
}

// A recovery that needs a person's confirmation is refused with the names of what needs it, and nothing is written.
// It needs one if two nodes claim one epoch, or if an epoch was yielded to a node that is not heard of. With the
// confirmation, one of the nodes becomes the home, at an epoch above all others.
func TestRecoverDisputed(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(m *controltest.RestoredStore, d dataset.Dataset)
		heard   []string
		fenced  string
		home    string
		copies  int
		epoch   uint64
	}{
		"two claims": {func(m *controltest.RestoredStore, d dataset.Dataset) {
			h := m.Holdings["beta"]
			d.Home, d.Pool = m.Agents["beta"].ID, m.Agents["beta"].LocalPools[0].ID
			h.Datasets = append(h.Datasets, api.FoundDataset{Pool: d.Pool, Dataset: d, Index: controltest.SeenIndex})
			m.Holdings["beta"] = h
		}, []string{"beta", "alpha"}, "beta", "alpha", 1, 2},
		"given up to who is silent": {func(m *controltest.RestoredStore, d dataset.Dataset) {
			h := m.Holdings["alpha"]
			h.Relinquished = []api.RelinquishedEpoch{{Dataset: d.ID, Epoch: d.Epoch, ToNode: m.Agents["beta"].ID}}
			m.Holdings["alpha"] = h
		}, []string{"alpha"}, "beta", "alpha", 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			m := controltest.NewRestoredStore(t, "alpha", "beta")
			d := m.Agents["alpha"].MustCreate("db")
			m.Saved = m.Save()
			back(m)
			c.prepare(m, d)
			r, err := m.RecoverWith(api.Recover{}, c.heard...)
			if err != nil || actions(r)["db"] != "disputed" {
				t.Fatalf("%+v, %v", r, err)
			}
			before := m.Save()
			_, err = m.Recover(t.Context(), api.Recover{DryRun: true})
			controltest.Refused(t, err, dataset.ErrConflict, "volume db", d.ID.String(), "--fenced")
			_, err = m.RecoverWith(api.Recover{Digest: r.Digest}, c.heard...)
			controltest.Refused(t, err, dataset.ErrConflict, "volume db", d.ID.String(), "--fenced")
			if after := m.Save(); len(after) != len(before) || !m.Halted() {
				t.Error("something was written")
			}
			m.EndSession(m.Agents[c.fenced]) // once it has reported, if it has
			word := api.Recover{FencedNodes: []string{c.fenced}}
			if r, err = m.RecoverWith(word, c.heard...); err == nil {
				word.Digest = r.Digest
				r, err = m.RecoverWith(word, c.heard...)
			}
			if err != nil || !r.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			m.CheckInvariants()
			if v := m.MustVolume("db"); v.Home != m.Agents[c.home].ID || len(v.Copies) != c.copies || v.Epoch < c.epoch {
				t.Errorf("%+v", v.Dataset)
			}
		})
	}
}

// A node whose epoch was superseded, but that says it is the home at that epoch, keeps its data as a superseded copy.
// A silent node loses nothing that other nodes know of it, and is named. Since it has not reported, it must not take
// the store for complete.
func TestRecoverOfWhoIsBehind(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta", "gamma")
	a, b := m.Agents["alpha"], m.Agents["beta"]
	d, away := a.MustCreate("db"), a.MustCreate("away")
	m.Saved = m.Save()
	m.NoteHoldings()
	behind := m.Holdings["alpha"].Datasets
	m.MustMove("away", a, m.Agents["gamma"], "gamma")
	m.MustMove("db", a, b, "beta")
	back(m)
	h := m.Holdings["alpha"]
	for _, f := range behind {
		if f.Dataset.ID == d.ID {
			h.Datasets, h.Copies = append(h.Datasets, f), slices.DeleteFunc(h.Copies, func(k api.AssignedCopy) bool { return k.Dataset == d.ID })
		}
	}
	m.Holdings["alpha"] = h
	r := m.MustRecover("alpha", "beta")
	if !slices.Equal(r.SilentNodes, []string{"gamma"}) {
		t.Errorf("silent: %v", r.SilentNodes)
	}
	m.CheckInvariants()
	v := m.MustVolume("db")
	if v.Home != b.ID || len(v.CopyDetails) != 1 || v.CopyDetails[0].Node != a.ID || v.CopyDetails[0].Kind != dataset.CopySuperseded {
		t.Errorf("%+v", v)
	}
	if v := m.MustVolume("away"); v.ID != away.ID || v.Home != m.Agents["gamma"].ID {
		t.Errorf("the dataset that was moved to the silent node is %+v", v.Dataset)
	}
	if s := m.Agents["gamma"].MustSync(0); s.Recovery == nil || s.Recovery.ReportIncluded {
		t.Errorf("gamma gets %+v", s.Recovery)
	}
}

// A dry run writes nothing, asks nobody, and leaves the reports for the person who is about to confirm them.
func TestRecoverDryRun(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	m.Saved = m.Save()
	m.Agents["alpha"].MustCreate("db")
	back(m)
	unchanged := func(when string, dry api.Recover, want *dataset.Kind, texts ...string) (r api.Recovery) {
		t.Helper()
		before := m.Dump()
		was, _ := m.Service.Recovery.Collecting()
		dry.DryRun = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // a dry run that asks agents waits for them
		defer cancel()
		r, err := m.Recover(ctx, dry)
		if want != nil {
			controltest.Refused(t, err, want, texts...)
		} else if err != nil || r.Done {
			t.Errorf("%s: %+v, %v", when, r, err)
		}
		if now, _ := m.Service.Recovery.Collecting(); now != was || !maps.Equal(m.Dump(), before) || !m.Halted() {
			t.Errorf("%s: the dry run changed something", when)
		}
		return r
	}
	unchanged("before the agents were asked", api.Recover{}, dataset.ErrConflict, "a dry run asks no agents")
	r, err := m.RecoverWith(api.Recover{}, "alpha", "beta")
	require.NoError(t, err)
	got := unchanged("after they were asked", api.Recover{}, nil)
	if got.Digest != r.Digest || actions(got)["db"] != "restored" {
		t.Errorf("%+v, want %+v", got, r)
	}
	unchanged("confirmed", api.Recover{Digest: r.Digest}, nil)
	unchanged("of other differences", api.Recover{Digest: "0123"}, dataset.ErrConflict, "start again")
	if r, err = m.Recover(t.Context(), api.Recover{Digest: r.Digest}); err != nil || !r.Done {
		t.Errorf("%+v, %v", r, err)
	}
}

// A recovery makes only the changes that were shown, for the person who requested them, and only while they are still
// valid.
func TestRecoverOnlyWhatWasSeen(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha")
	if r, err := m.Recover(t.Context(), api.Recover{Digest: "0123"}); err != nil || r.Done {
		t.Errorf("a store that nodes trust: %+v, %v", r, err)
	}
	m.Saved = m.Save()
	m.Agents["alpha"].MustCreate("db")
	back(m)
	_, err := m.Recover(t.Context(), api.Recover{Digest: "0123"})
	controltest.Refused(t, err, dataset.ErrConflict, "start again")
	r, err := m.RecoverWith(api.Recover{}, "alpha")
	require.NoError(t, err)
	_, err = m.Services[1].Recovery.Recover(t.Context(), api.Recover{Digest: r.Digest}) // to which nobody reported anything
	controltest.Refused(t, err, dataset.ErrConflict, "start again")
	_, err = m.Recover(t.Context(), api.Recover{Digest: "0123"})
	controltest.Refused(t, err, dataset.ErrConflict, "start again")
	h := m.Holdings["alpha"]
	h.Recovery, _ = m.Service.Recovery.Collecting()
	h.Datasets = nil
	m.OK(m.ReportHoldings(t.Context(), m.Agents["alpha"].ID, h))
	_, err = m.Recover(t.Context(), api.Recover{Digest: r.Digest})
	controltest.Refused(t, err, dataset.ErrConflict, "start again")
	_, err = controltest.New(t).Recover(t.Context(), api.Recover{})
	controltest.Refused(t, err, dataset.ErrUnsupported, "drover store recover --from-pools")
}

// A distrust that one node reports to one replica is obeyed by every replica. Nothing is created, deleted or
// destroyed, planned or not, until all nodes that reported distrust trust the store again.
func TestAllReplicasHalt(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	e := &controltest.Control{TB: t, Service: a, Ctx: t.Context()}
	n, other := e.NewAgent("n1"), e.NewAgent("n2")
	d := n.MustCreate("db")
	move := *e.MustSubmit(controltest.Move("db", "n2")).Operation
	planned, deleted := n.MustPlan(controltest.Create("late")), n.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	n.ReportDistrust("it is older than what this node has seen")
	other.ReportDistrust("it lacks something")
	for _, s := range x.Services {
		e.Service = s
		for _, op := range []dataset.Operation{planned, deleted} {
			_, err := s.Commit(t.Context(), n.ID, n.ReportOf(op))
			controltest.Refused(t, err, dataset.ErrConflict, "changes suspended", "older than what", "lacks something", n.ID.String()[:8], "drover store recover")
		}
		_, err := s.Submit(t.Context(), api.Request{Kind: dataset.OpCreate, Volume: "more"})
		controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
		_, err = s.Recall(t.Context(), other.ID, other.ReportOf(move)) // its home would not let anybody mount it any more
		controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
		if why, err := s.Halted(t.Context()); err != nil || !strings.Contains(why, "lacks something") {
			t.Errorf("%q, %v", why, err)
		}
		if v, err := s.Volume(t.Context(), "db"); err != nil || v.ID != d.ID {
			t.Errorf("existing volumes are not shown: %v", err)
		}
	}
	// The store records that a node distrusts it, so a service that starts later knows it.
	later, _ := control.Assemble(b.Deps)
	t.Cleanup(later.Close)
	if _, err := later.Submit(t.Context(), api.Request{Kind: dataset.OpDelete, Volume: "db"}); dataset.KindOf(err) != dataset.ErrConflict {
		t.Error(err)
	}
	e.Service = later
	believe := func(n *controltest.Agent) {
		t.Helper()
		n.OK(later.Members.Heartbeat(t.Context(), n.ID, api.Heartbeat{Incarnation: n.Incarnation}))
	}
	believe(n)
	if _, err := later.Commit(t.Context(), n.ID, n.ReportOf(planned)); dataset.KindOf(err) != dataset.ErrConflict {
		t.Errorf("only one of two nodes trusts it: %v", err)
	}
	believe(other)
	for _, s := range []*control.Service{later, b} {
		n.OK(s.Commit(t.Context(), n.ID, n.ReportOf(planned)))
	}
	if why, err := later.Halted(t.Context()); err != nil || why != "" {
		t.Errorf("%q, %v", why, err)
	}
	if list, err := x.Store.List(t.Context(), record.HaltedKey, "", 0); err != nil || len(list) != 0 {
		t.Errorf("%d, %v", len(list), err)
	}
}

// Each way to notice that a store was restored from an older backup is tested alone: by the service that made a
// missing change, and by another one that had learned of the change. Nobody tells them.
func TestServicesSeeTheStoreGoBack(t *testing.T) {
	for name, sees := range map[string]func(x *controltest.Replicas, n *controltest.Agent) error{
		"its own change is missing": func(x *controltest.Replicas, n *controltest.Agent) error {
			_, err := x.Services[0].Submit(x.Context(), controltest.Create("late"))
			return err
		},
		"it had heard of it": func(x *controltest.Replicas, n *controltest.Agent) error {
			var h record.LanePositions
			if err := x.Services[1].Ledger.ReadNotices(x.Context(), &h); err != nil {
				return err
			}
			_, err := x.Services[1].Submit(x.Context(), controltest.Create("late"))
			return err
		},
		"an agent asks for all": func(x *controltest.Replicas, n *controltest.Agent) error {
			if _, err := x.Services[1].Sync(x.Context(), n.ID, 0, 0); err != nil {
				return err
			}
			_, err := x.Services[1].Submit(x.Context(), controltest.Create("late"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := controltest.NewReplicas(t, 2)
			n := x.On(x.Services[0]).NewAgent("n1")
			n.MustCreate("before")
			saved := x.Save()
			n.MustCreate("since")
			var h record.LanePositions
			require.NoError(t, x.Services[1].Ledger.ReadNotices(t.Context(), &h))
			x.RestoreStore(saved)
			controltest.Refused(t, sees(x, n), dataset.ErrConflict, "changes "+
				"suspended", "restored from a backup", "drover store recover")
			if !x.Halted() {
				t.Error("no other service is told")
			}
			// It is on record. A service that was started since, and saw no restore itself, obeys it.
			later, _ := control.Assemble(x.Services[0].Deps)
			t.Cleanup(later.Close)
			_, err := later.Submit(t.Context(), controltest.Create("later"))
			controltest.Refused(t, err, dataset.ErrConflict, "changes suspended")
			if got, err := later.Sync(t.Context(), n.ID, 0, 0); err != nil || !strings.Contains(got.Halted, "restored from a backup") {
				t.Errorf("an agent that noticed nothing is not told: %+v, %v", got, err)
			}
			// That nodes trust the store does not end it, since it may be that none of their own records is missing.
			n.Service = later
			n.ReportDistrust("it is older")
			n.ReportDistrust("")
			if !x.Halted() {
				t.Error("a node's report ended what a service has noticed")
			}
		})
	}
}
