package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestDeleteAndUndelete(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	db := a.create("db@gold")
	s := a.snapshot("db", "before")
	op := a.plan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	out := a.commit(op)
	d := *out.Dataset
	if d.State != dataset.StateTrashed || !d.Trash.At.Equal(someday) || !d.Trash.Until.Equal(someday.Add(72*time.Hour)) || d.Volume != "db" {
		t.Errorf("deleted: %+v", d)
	}
	if again := a.commit(op); again.Dataset.State != dataset.StateTrashed || again.Index != out.Index {
		t.Errorf("the same report again: %+v", again)
	}
	e.check()
	_, err := e.Volume(e.ctx, "db")
	refused(t, err, dataset.ErrNotFound, `no such volume: "db"`)
	list, err := e.Trash(e.ctx, api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].ID != db.ID || list.Items[0].Snapshots != 1 {
		t.Errorf("trash: %+v, %v", list, err)
	}

	other := a.create("db@silver") // the name is free at once
	if other.ID == db.ID {
		t.Error("the name gets the old dataset")
	}
	_, err = e.Submit(e.ctx, api.Request{Kind: dataset.OpUndelete, Volume: db.ID.String()[:8]})
	refused(t, err, dataset.ErrExists, "a volume db exists", "trash restore "+db.ID.String()[:8]+" NAME")
	_, err = e.Submit(e.ctx, api.Request{Kind: dataset.OpUndelete, Volume: "db", Name: "../db"})
	refused(t, err, dataset.ErrInvalid, `"../db"`)

	req := api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: "db", Name: "db-old"}
	back := e.submit(req)
	if back.Volume.Volume != "db-old" || back.Volume.State != dataset.StateReady || back.Volume.Trash != nil ||
		back.Volume.Spelling != "db-old" || back.Operation.State != dataset.OpDone {
		t.Errorf("back: %+v, %+v", back.Volume, back.Operation)
	}
	if again := e.submit(req); again.Operation.ID != req.ID || again.Volume.ID != db.ID {
		t.Errorf("the same request again: %+v", again)
	}
	if got, err := e.Snapshot(e.ctx, "db-old", "before"); err != nil || got.ID != s.ID {
		t.Errorf("its snapshot: %+v, %v", got, err)
	}
	e.check()
}

func TestUndeleteKeepsItsName(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	req := create("db@gold")
	req.Engine = true
	a.do(req)
	a.delete("db")
	v := e.submit(api.Request{Kind: dataset.OpUndelete, Volume: "db"}).Volume
	if v.Volume != "db" || v.Spelling != "db@gold" || v.SpelledBy != a.id {
		t.Errorf("back as %q, %q by %s", v.Volume, v.Spelling, v.SpelledBy)
	}
	a.delete("db")
	if v := e.submit(api.Request{Kind: dataset.OpUndelete, Volume: "db", Name: "db2"}).Volume; v.SpelledBy != uuid.Nil {
		t.Error("no engine has used the new name")
	}
	e.check()
}

func TestDeleteModes(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("kept@kept")
	if d := a.delete("kept"); d.State != dataset.StateTrashed || !d.Trash.Until.IsZero() {
		t.Errorf("kept: %+v", d.Trash)
	}
	a.create("gone@fleeting")
	d := a.delete("gone")
	if d.State != dataset.StatePurging || d.Trash != nil {
		t.Errorf("purged: %+v", d)
	}
	for range 2 { // the agent reports twice
		a.purge(d)
	}
	if st := e.check(); len(st.datasets) != 1 || len(st.operations) != 0 {
		t.Errorf("left: %+v", st)
	}
}

// Who waits for a delete is told what becomes of the data, whoever forced it.
func TestDeleteOnRecordSaysWhatBecomesOfTheData(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	anonymous := strings.Repeat("0af1", 16)
	for _, tc := range []struct {
		spec, name string
		mode       dataset.DeleteMode
		state      dataset.State
	}{
		{"db@gold", "db", dataset.DeleteTrash, dataset.StateTrashed},
		{"log@kept", "log", dataset.DeleteKeep, dataset.StateTrashed},
		{"tmp@fleeting", "tmp", dataset.DeletePurge, dataset.StatePurging},
		{anonymous, anonymous, dataset.DeletePurge, dataset.StatePurging},
	} {
		for _, force := range []bool{false, true} {
			a.create(tc.spec)
			out := e.submit(api.Request{Kind: dataset.OpDelete, Volume: tc.name, Force: force})
			a.work()
			op, err := e.Operation(e.ctx, out.Operation.ID.String(), 0)
			if err != nil || op.State != dataset.OpDone {
				t.Fatalf("%s: %+v, %v", tc.spec, op, err)
			}
			if d := op.Dataset; d == nil || d.Profile.OnDelete.Mode != tc.mode || d.State != tc.state {
				t.Errorf("%s, force %v: %+v", tc.spec, force, d)
			}
			e.check()
		}
	}
}

func TestProtection(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db", "protect=true")
	a.planned(api.Request{Kind: dataset.OpDelete, Volume: "db"}, dataset.ErrProtected, "volume unprotect db")
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: no()})
	if out := e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: no()}); out.Operation != nil || out.Volume == nil {
		t.Errorf("again: %+v", out)
	}
	op := a.plan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: yes()})
	_, err := a.Commit(e.ctx, a.id, a.report(op)) // planned while it was not
	refused(t, err, dataset.ErrProtected, "db")
	if d := *a.do(api.Request{Kind: dataset.OpDelete, Volume: "db", Force: true}).Dataset; d.State != dataset.StateTrashed || d.Protected {
		t.Errorf("forced: %+v", d)
	}
	e.check()
}

func TestPurge(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpPurge, Volume: "db"})
	refused(t, err, dataset.ErrNotFound, "db is not in the trash", "volume rm db")
	_, err = e.Submit(e.ctx, api.Request{Kind: dataset.OpPurge, Volume: e.volume("db").ID.String()})
	refused(t, err, dataset.ErrNotFound)
	d := a.delete("db")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: "db"}
	for range 2 {
		if out := e.submit(req); out.Operation.ID != req.ID || out.Operation.State != dataset.OpPending {
			t.Errorf("asked: %+v", out.Operation)
		}
		e.check()
	}
	_, err = e.Submit(e.ctx, api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
	refused(t, err, dataset.ErrNotFound)
	a.work()
	a.work()
	if st := e.check(); len(st.datasets) != 0 || st.operations[req.ID].State != dataset.OpDone {
		t.Errorf("left: %+v", st)
	}
	if out := e.submit(req); out.Operation.State != dataset.OpDone || out.Volume != nil {
		t.Errorf("asked again when it is gone: %+v", out)
	}
}

// An agent's report that it destroyed what nobody condemned takes nothing off the
// records, neither the dataset nor its snapshots.
func TestPurgeOfWhatIsNotCondemned(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	d := a.create("db")
	s := a.snapshot("db", "")
	for _, state := range []dataset.State{dataset.StateReady, dataset.StateTrashed} {
		if state == dataset.StateTrashed {
			a.delete("db")
		}
		op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: a.id, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
		_, err := a.Commit(e.ctx, a.id, a.report(op))
		refused(t, err, dataset.ErrConflict, string(state))
		st := e.check()
		if _, there := st.snapshots[s.ID]; !there || st.datasets[d.ID].State != state {
			t.Errorf("left of what is %s: %+v", state, st)
		}
	}
}

// The home's agent destroys what is condemned by itself as well as for the
// operation on record: whichever is first, both end well.
func TestPurgeTwoWays(t *testing.T) {
	for _, first := range []string{"the agent's own", "the one on record"} {
		t.Run(first, func(t *testing.T) {
			e := newEnv(t)
			a := e.agent("alpha")
			a.create("db")
			a.snapshot("db", "s1")
			d := a.delete("db")
			op := *e.submit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
			if first == "the agent's own" {
				a.purge(d)
				op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNotFound, "no such volume: %q", d.ID))
				a.commit(op)
			} else {
				a.commit(op)
				a.purge(d)
			}
			got, err := e.Operation(e.ctx, op.ID.String(), 0)
			if err != nil || got.State != dataset.OpDone || got.Problem != nil {
				t.Errorf("%+v, %v", got, err)
			}
			if st := e.check(); len(st.datasets)+len(st.snapshots) != 0 {
				t.Errorf("left: %+v", st)
			}
		})
	}
}

// A purge that failed can be asked for again, and a failure is one as long as
// the dataset is there.
func TestPurgeAgainAfterFailure(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	d := a.delete("db")
	op := *e.submit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline, "pool fast is offline"))
	a.commit(op)
	if got, _ := e.Operation(e.ctx, op.ID.String(), 0); got.State != dataset.OpFailed {
		t.Errorf("%+v", got)
	}
	if again := e.submit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}); again.Operation.State != dataset.OpPending {
		t.Errorf("%+v", again.Operation)
	}
	a.work()
	if st := e.check(); len(st.datasets) != 0 {
		t.Errorf("left: %+v", st.datasets)
	}
}

// More snapshots than fit in a transaction, and a crash at each step.
// What had one name is told apart by when it was deleted, the latest first.
func TestSeveralOfOneNameInTheTrash(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	var want []string
	for range record.MatchesShown + 2 {
		a.create("db")
		e.clock.Advance(time.Hour)
		want = append(want, "dataset "+a.delete("db").ID.String()+" (db) deleted at "+e.clock.Now().Format("2006-01-02 15:04:05")+" UTC")
	}
	slices.Reverse(want)
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUndelete, Volume: "db"})
	refused(t, err, dataset.ErrAmbiguous, `"db" matches several: `+strings.Join(want[:record.MatchesShown], ", ")+", … (say more of the UUID)")
}

func TestPurgeWithManySnapshots(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	for i := range 230 {
		a.snapshot("db", fmt.Sprintf("s%d", i))
	}
	d := a.delete("db")
	op := *e.submit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
	for i := range 4 { // the store goes away, and at one end of a transaction or the other
		e.spy.fail(9+i, i%2 == 0)
		_, err := a.Commit(e.ctx, a.id, a.report(op))
		refused(t, err, dataset.ErrUnavailable)
		e.spy.fail(0, false)
		e.check()
	}
	a.commit(op)
	if st := e.check(); len(st.datasets)+len(st.snapshots) != 0 {
		t.Errorf("left: %d datasets, %d snapshots", len(st.datasets), len(st.snapshots))
	}
}

// Where a name and a prefix both match something that is to be destroyed, it
// must be said which.
func TestTrashByNameOrPrefix(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	x := a.forge("abcd", "11110000-0000-4000-8000-000000000001")
	y := a.forge("other", "abcd0000-0000-4000-8000-000000000002")
	a.delete("abcd")
	a.delete("other")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpPurge, Volume: "abcd"})
	refused(t, err, dataset.ErrAmbiguous, x.ID.String(), y.ID.String())
	z := a.forge("fade", "fade0000-0000-4000-8000-000000000003")
	a.delete("fade")
	if out := e.submit(api.Request{Kind: dataset.OpPurge, Volume: "fade"}); out.Operation.DatasetID != z.ID { // by both, and one
		t.Errorf("%+v", out.Operation)
	}
	a.create("same")
	a.delete("same")
	a.create("same")
	a.delete("same")
	_, err = e.Submit(e.ctx, api.Request{Kind: dataset.OpUndelete, Volume: "same"})
	refused(t, err, dataset.ErrAmbiguous, "(same)", "say more of the UUID")
	if out := e.submit(api.Request{Kind: dataset.OpUndelete, Volume: "ABCD0000"}); out.Volume.ID != y.ID {
		t.Errorf("by prefix: %+v", out.Volume)
	}
	if out := e.submit(api.Request{Kind: dataset.OpUndelete, Volume: "abcd"}); out.Volume.ID != x.ID {
		t.Errorf("by name, now that only one is in the trash: %+v", out.Volume)
	}
	e.check()
}
