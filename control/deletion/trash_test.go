package deletion_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestDeleteAndUndelete(t *testing.T) {
	e, a := controltest.OneNode(t)
	db := a.MustCreate("db@gold")
	s := a.MustSnapshot("db", "before")
	op := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	out := a.MustCommit(op)
	d := *out.Dataset
	if d.State != dataset.StateTrashed || !d.Trash.At.Equal(controltest.Start) || !d.Trash.Expires.Equal(controltest.Start.Add(72*time.Hour)) || d.Volume != "db" {
		t.Errorf("deleted: %+v", d)
	}
	if again := a.MustCommit(op); again.Dataset.State != dataset.StateTrashed || again.Index != out.Index {
		t.Errorf("the same report again: %+v", again)
	}
	e.CheckInvariants()
	_, err := e.Volume(e.Ctx, "db")
	controltest.Refused(t, err, dataset.ErrNotFound, `no such volume: "db"`)
	list, err := e.Trash(e.Ctx, api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].ID != db.ID || list.Items[0].Snapshots != 1 {
		t.Errorf("trash: %+v, %v", list, err)
	}

	other := a.MustCreate("db@silver") // the name is free at once
	if other.ID == db.ID {
		t.Error("the name gets the old dataset")
	}
	e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: db.ID.String()[:8]}, dataset.ErrExists, "a volume db exists", "trash restore "+db.ID.String()[:8]+" NAME")
	e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: "db", Name: "../db"}, dataset.ErrInvalid, `"../db"`)

	req := api.Request{ID: uuid.New(), Kind: dataset.OpUndelete, Volume: "db", Name: "db-old"}
	back := e.MustSubmit(req)
	if back.Volume.Volume != "db-old" || back.Volume.State != dataset.StateReady || back.Volume.Trash != nil ||
		back.Volume.RequestedAs != "db-old" || back.Operation.State != dataset.OpDone {
		t.Errorf("back: %+v, %+v", back.Volume, back.Operation)
	}
	if again := e.MustSubmit(req); again.Operation.ID != req.ID || again.Volume.ID != db.ID {
		t.Errorf("the same request again: %+v", again)
	}
	if got, err := e.Snapshot(e.Ctx, "db-old", "before"); err != nil || got.ID != s.ID {
		t.Errorf("its snapshot: %+v, %v", got, err)
	}
	e.CheckInvariants()
}

func TestUndeleteKeepsItsName(t *testing.T) {
	e, a := controltest.OneNode(t)
	req := controltest.Create("db@gold")
	req.Engine = true
	a.MustDo(req)
	a.MustDelete("db")
	v := e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "db"}).Volume
	if v.Volume != "db" || v.RequestedAs != "db@gold" || v.RequestedBy != a.ID {
		t.Errorf("back as %q, %q by %s", v.Volume, v.RequestedAs, v.RequestedBy)
	}
	a.MustDelete("db")
	if v := e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "db", Name: "db2"}).Volume; v.RequestedBy != uuid.Nil {
		t.Error("no engine has used the new name")
	}
	e.CheckInvariants()
}

// TestDeleteOfNameThatBecameAnAlias: an engine's removal of a name does not delete a volume that was renamed since.
func TestDeleteOfNameThatBecameAnAlias(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("old@gold")
	e.MustSubmit(controltest.Rename("old", "new"))
	e.MustSubmit(controltest.Rename("new", "newer"))
	for _, name := range []string{"old", "new"} {
		req := api.Request{Kind: dataset.OpDelete, Volume: d.ID.String(), Name: name}
		a.MustRefusePlan(req, dataset.ErrConflict, "delete of volume "+name, "it was renamed to newer meanwhile")
	}
	a.MustCommit(a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: d.ID.String(), Name: "newer"}))
}

// TestDeleteByAliasIsRefused: a user cannot delete a volume by an alias, also with force, without its home, or in a dry
// run. The error has both ways on. The volume is deleted by its name or its UUID.
func TestDeleteByAliasIsRefused(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("old@gold")
	e.MustSubmit(controltest.Rename("old", "new"))
	for name, req := range map[string]api.Request{
		"by alias":              {Volume: "old"},
		"by alias and profile":  {Volume: "old@gold"},
		"with force":            {Volume: "old", Force: true},
		"without the home":      {Volume: "old", Force: true, Fenced: "alpha"},
		"in a dry run":          {Volume: "old", DryRun: true},
		"with the current name": {Volume: "old", Name: "new"},
	} {
		req.Kind = dataset.OpDelete
		_, err := e.Submit(e.Ctx, req)
		t.Log(name)
		controltest.Refused(t, err, dataset.ErrInvalid, "delete of volume old: it is an alias of volume new",
			"drover volume rm new --dry-run", "drover volume rename --drop-alias old new")
	}
	for _, ref := range []string{"new", "new@gold", d.ID.String(), d.ID.String()[:8]} {
		a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: ref})
	}
	e.CheckInvariants()
}

func TestDeleteModes(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("kept@kept")
	if d := a.MustDelete("kept"); d.State != dataset.StateTrashed || !d.Trash.Expires.IsZero() {
		t.Errorf("kept: %+v", d.Trash)
	}
	a.MustCreate("gone@fleeting")
	d := a.MustDelete("gone")
	if d.State != dataset.StatePurging || d.Trash == nil || !d.Trash.Expires.IsZero() {
		t.Errorf("purged: %+v", d)
	}
	for range 2 { // the agent reports twice
		a.MustPurge(d)
	}
	if st := e.CheckInvariants(); len(st.Datasets) != 1 || len(st.Operations) != 0 {
		t.Errorf("left: %+v", st)
	}
}

// The caller that waits for a delete is told what happens to the data, whichever caller forced the delete.
func TestDeleteOnRecordSaysWhatBecomesOfTheData(t *testing.T) {
	e, a := controltest.OneNode(t)
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
			a.MustCreate(tc.spec)
			out := e.MustSubmit(api.Request{Kind: dataset.OpDelete, Volume: tc.name, Force: force})
			a.DoWork()
			op, err := e.Operation(e.Ctx, out.Operation.ID.String(), 0)
			if err != nil || op.State != dataset.OpDone {
				t.Fatalf("%s: %+v, %v", tc.spec, op, err)
			}
			if d := op.DatasetRecord; d == nil || d.Profile.OnDelete.Mode != tc.mode || d.State != tc.state {
				t.Errorf("%s, force %v: %+v", tc.spec, force, d)
			}
			e.CheckInvariants()
		}
	}
}

func TestProtection(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db", "protect=true")
	a.MustRefusePlan(api.Request{Kind: dataset.OpDelete, Volume: "db"}, dataset.ErrProtected, "volume protect --off db")
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.No()})
	if out := e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.No()}); out.Operation != nil || out.Volume == nil {
		t.Errorf("again: %+v", out)
	}
	op := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()})
	_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op)) // planned while the volume was unused
	controltest.Refused(t, err, dataset.ErrProtected, "db")
	if d := *a.MustDo(api.Request{Kind: dataset.OpDelete, Volume: "db", Force: true}).Dataset; d.State != dataset.StateTrashed || d.Protected {
		t.Errorf("forced: %+v", d)
	}
	e.CheckInvariants()
}

// A dataset that is purged is pending deletion until its home reports that the data is destroyed. The trash lists it with
// the reason, nothing restores it, and only then an event says that it is destroyed.
func TestPendingDeletion(t *testing.T) {
	e, a := controltest.OneNode(t)
	details := func(d dataset.Dataset) (all []string) {
		t.Helper()
		e.OK(e.Events(e.Ctx, 0, false, func(ev api.Event) error {
			if ev.Dataset == d.ID && ev.Type != "volume.create" {
				all = append(all, string(ev.Type)+": "+ev.Detail)
			}
			return nil
		}))
		return all
	}
	for name, spec := range map[string]string{"db": "db@gold", "tmp": "tmp@fleeting"} {
		a.MustCreate(spec)
		d := a.MustDelete(name)
		began := "volume.delete: pending deletion"
		if spec == "db@gold" {
			began = "volume.purge: pending deletion"
			e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
		}
		a.ReportPool(dataset.PoolStatus{ID: d.Pool, Reason: "its disk is gone"})
		list, err := e.Trash(e.Ctx, api.Page{})
		if err != nil || len(list.Items) != 1 || list.Items[0].State != dataset.StatePurging || !strings.Contains(list.Items[0].Pending, "its disk is gone") {
			t.Fatalf("%s: %+v, %v", name, list.Items, err)
		}
		e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}, dataset.ErrNotFound)
		if got := details(d); got[len(got)-1] != began {
			t.Errorf("%s: events %q", name, got)
		}
		e.Restart()
		e.CheckInvariants()
		a.MustPurge(list.Items[0].Dataset)
		if got := details(d); got[len(got)-1] != "volume.purge: destroyed" {
			t.Errorf("%s: events %q", name, got)
		}
		if list, err := e.Trash(e.Ctx, api.Page{}); err != nil || len(list.Items) != 0 {
			t.Errorf("%s: %+v, %v", name, list.Items, err)
		}
		e.CheckInvariants()
	}
}

func TestPurge(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	_, err := e.Submit(e.Ctx, api.Request{Kind: dataset.OpPurge, Volume: "db"})
	controltest.Refused(t, err, dataset.ErrNotFound, "db is not in the trash", "volume inspect db")
	e.MustRefuse(api.Request{Kind: dataset.OpPurge, Volume: e.MustVolume("db").ID.String()}, dataset.ErrNotFound)
	d := a.MustDelete("db")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: "db"}
	for range 2 {
		if out := e.MustSubmit(req); out.Operation.ID != req.ID || out.Operation.State != dataset.OpPending {
			t.Errorf("asked: %+v", out.Operation)
		}
		e.CheckInvariants()
	}
	e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}, dataset.ErrNotFound)
	a.DoWork()
	a.DoWork()
	if st := e.CheckInvariants(); len(st.Datasets) != 0 || st.Operations[req.ID].State != dataset.OpDone {
		t.Errorf("left: %+v", st)
	}
	if out := e.MustSubmit(req); out.Operation.State != dataset.OpDone || out.Volume != nil {
		t.Errorf("purged again after it was destroyed: %+v", out)
	}
}

// TestPurgeByNameOfTrashedDataset: an earlier dataset of the name that waits for its deletion makes the name neither
// ambiguous nor wrong. Without another one, the name still finds it, because a purge can be repeated.
func TestPurgeByNameOfTrashedDataset(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	first := a.MustDelete("db")
	purge := func() uuid.UUID {
		t.Helper()
		return e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: "db"}).Operation.DatasetID
	}
	for range 2 {
		if got := purge(); got != first.ID {
			t.Errorf("the only db: purged %s, want %s", got, first.ID)
		}
	}
	a.MustCreate("db")
	second := a.MustDelete("db")
	if got := purge(); got != second.ID {
		t.Errorf("two of the name: purged %s, want %s, which is in the trash", got, second.ID)
	}
}

// If an agent reports that it destroyed a dataset that was not condemned, neither the dataset nor its snapshots are
// removed from the records.
func TestPurgeOfWhatIsNotCondemned(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db")
	s := a.MustSnapshot("db", "")
	for _, state := range []dataset.State{dataset.StateReady, dataset.StateTrashed} {
		if state == dataset.StateTrashed {
			a.MustDelete("db")
		}
		op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpPurge, Node: a.ID, Volume: "db", DatasetID: d.ID, Epoch: d.Epoch}
		_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrConflict, string(state))
		st := e.CheckInvariants()
		if _, there := st.Snapshots[s.ID]; !there || st.Datasets[d.ID].State != state {
			t.Errorf("left of the %s dataset: %+v", state, st)
		}
	}
}

// The home's agent destroys what is condemned on its own as well as for the operation on record. Whichever comes
// first, both succeed.
func TestPurgeTwoWays(t *testing.T) {
	for _, first := range []string{"the agent's own", "the one on record"} {
		t.Run(first, func(t *testing.T) {
			e, a := controltest.OneNode(t)
			a.MustCreate("db")
			a.MustSnapshot("db", "s1")
			d := a.MustDelete("db")
			op := *e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
			if first == "the agent's own" {
				a.MustPurge(d)
				op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNotFound, "no such volume: %q", d.ID))
				a.MustCommit(op)
			} else {
				a.MustCommit(op)
				a.MustPurge(d)
			}
			got, err := e.Operation(e.Ctx, op.ID.String(), 0)
			if err != nil || got.State != dataset.OpDone || got.Problem != nil {
				t.Errorf("%+v, %v", got, err)
			}
			if st := e.CheckInvariants(); len(st.Datasets)+len(st.Snapshots) != 0 {
				t.Errorf("left: %+v", st)
			}
		})
	}
}

// A purge that failed can be requested again. Its operation stays failed while the dataset exists.
func TestPurgeAgainAfterFailure(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	d := a.MustDelete("db")
	op := *e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline, "pool fast is offline"))
	a.MustCommit(op)
	if got, _ := e.Operation(e.Ctx, op.ID.String(), 0); got.State != dataset.OpFailed {
		t.Errorf("%+v", got)
	}
	if again := e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}); again.Operation.State != dataset.OpPending {
		t.Errorf("%+v", again.Operation)
	}
	a.DoWork()
	if st := e.CheckInvariants(); len(st.Datasets) != 0 {
		t.Errorf("left: %+v", st.Datasets)
	}
}

// Datasets that had the same name are distinguished by the time of their deletion, the latest first.
func TestSeveralOfOneNameInTheTrash(t *testing.T) {
	e, a := controltest.OneNode(t)
	var want []string
	for range record.MatchesShown + 2 {
		a.MustCreate("db")
		e.Clock.Advance(time.Hour)
		want = append(want, "dataset "+a.MustDelete("db").ID.String()+" (db) deleted at "+e.Clock.Now().Format("2006-01-02 15:04:05")+" UTC")
	}
	slices.Reverse(want)
	e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: "db"}, dataset.ErrAmbiguous, `"db" matches several: `+strings.Join(want[:record.MatchesShown], ", ")+", … (use more digits of the UUID)")
}

// A dataset with more snapshots than fit in one transaction is purged, with a failure of the store at each step.
func TestPurgeWithManySnapshots(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	for i := range 230 {
		a.MustSnapshot("db", fmt.Sprintf("s%d", i))
	}
	d := a.MustDelete("db")
	op := *e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}).Operation
	for i := range 4 { // the store is unavailable, before or after a transaction
		e.Spy.FailFrom(9+i, i%2 == 0)
		_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrUnavailable)
		e.Spy.FailFrom(0, false)
		e.CheckInvariants()
	}
	a.MustCommit(op)
	if st := e.CheckInvariants(); len(st.Datasets)+len(st.Snapshots) != 0 {
		t.Errorf("left: %d datasets, %d snapshots", len(st.Datasets), len(st.Snapshots))
	}
}

// If both a name and a prefix match something that is to be destroyed, the caller must say which one is meant.
func TestTrashByNameOrPrefix(t *testing.T) {
	e, a := controltest.OneNode(t)
	x := a.CreateVolumeWithID("abcd", "11110000-0000-4000-8000-000000000001")
	y := a.CreateVolumeWithID("other", "abcd0000-0000-4000-8000-000000000002")
	a.MustDelete("abcd")
	a.MustDelete("other")
	_, err := e.Submit(e.Ctx, api.Request{Kind: dataset.OpPurge, Volume: "abcd"})
	controltest.Refused(t, err, dataset.ErrAmbiguous, x.ID.String(), y.ID.String())
	z := a.CreateVolumeWithID("fade", "fade0000-0000-4000-8000-000000000003")
	a.MustDelete("fade")
	if out := e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: "fade"}); out.Operation.DatasetID != z.ID { // by both, and by one
		t.Errorf("%+v", out.Operation)
	}
	a.MustCreate("same")
	a.MustDelete("same")
	a.MustCreate("same")
	a.MustDelete("same")
	e.MustRefuse(api.Request{Kind: dataset.OpUndelete, Volume: "same"}, dataset.ErrAmbiguous, "(same)", "use more digits of the UUID")
	if out := e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "ABCD0000"}); out.Volume.ID != y.ID {
		t.Errorf("by prefix: %+v", out.Volume)
	}
	if out := e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "abcd"}); out.Volume.ID != x.ID {
		t.Errorf("by name, now that only one is in the trash: %+v", out.Volume)
	}
	e.CheckInvariants()
}

// If the home of a volume is unreachable, the volume is deleted only if a person confirms it. It then goes to the
// trash, even if its profile has no trash, because nobody has checked the data.
func TestDeleteWithoutTheHome(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	e.Spy = controltest.NewSpyStore(x.Store)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d, own := a.MustCreate("db@fleeting"), a.MustCreate("own", "protect=true")
	a.MustCreate("late@fleeting")
	del := func(volume, fenced string, force bool) api.Request {
		return api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: volume, Force: force, Fenced: fenced}
	}
	denied := func(req api.Request, kind *dataset.Kind, parts ...string) {
		t.Helper()
		e.MustRefuse(req, kind, parts...)
	}
	denied(del("db", "alpha", true), dataset.ErrConflict, "alpha", "alive", "omit --fenced")
	waits := *e.MustSubmit(del("db", "", false)).Operation // alpha does not hear of it any more
	others := []uuid.UUID{e.MustSubmit(del("late", "", false)).Operation.ID, e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation.ID}

	x.EndSession(a)
	x.Clock.Advance(time.Second)
	e.OK(e.RecordUnreachable(e.Ctx))
	denied(del("own", "", true), dataset.ErrOffline, "node alpha, which is unreachable since 2026-11-18T12:00:01Z", "drover volume rm own --force --fenced alpha")
	denied(del("db", "alpha", false), dataset.ErrInvalid, "requires --force")
	denied(del("db", "beta", true), dataset.ErrInvalid, "alpha, not beta")
	denied(del("db", "nobody", true), dataset.ErrInvalid, "nobody")
	_, err := e.Submit(controltest.As(controltest.NodeIdentity("beta", b.ID)), del("db", "alpha", true))
	controltest.Refused(t, err, dataset.ErrForbidden, "may not delete volume db without its home")
	b.MustRefusePlan(del("db", "alpha", true), dataset.ErrInvalid, "submit it")
	if p, err := a.Plan(e.Ctx, a.ID, del("late", "", false)); err != nil || p.Operation == nil { // to itself it is reachable
		t.Errorf("planned by the home: %+v, %v", p, err)
	}
	e.CheckInvariants()

	req := del("db", "alpha", true)
	for range 2 { // the second call is a retry
		out := e.MustSubmit(req)
		if v := out.Volume; out.Operation.State != dataset.OpDone || v == nil || v.State != dataset.StateTrashed || !v.Trash.Expires.IsZero() || v.Home != a.ID || v.Epoch != d.Epoch {
			t.Fatalf("%+v, %+v", out.Operation, out.Volume)
		}
	}
	if v := e.MustSubmit(del("own", "alpha", true)).Volume; v.State != dataset.StateTrashed || v.Protected || v.Trash.Expires.Sub(v.Trash.At) != e.TrashTime() {
		t.Errorf("%+v", v)
	}
	if op := e.MustOperation(waits.ID); op.State != dataset.OpCancelled {
		t.Errorf("the delete that waits for the home is %s", op.State)
	}
	for _, id := range others {
		if op := e.MustOperation(id); op.State != dataset.OpPending {
			t.Errorf("%s of volume %s, which waits for the home as well, is %s", op.Kind, op.Volume, op.State)
		}
	}
	if other := b.MustCreate("db"); other.ID == d.ID || other.Home != b.ID {
		t.Errorf("the name is not free: %+v", other)
	}
	e.CheckInvariants()

	// A person restores the volume before the home is reachable again. The home's return does not delete it a second
	// time.
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: "back"})
	a.Incarnation = uuid.New()
	a.MustRegister("alpha")
	s := a.MustSync(0)
	if len(s.Operations) != len(others) || len(s.Datasets) != 3 {
		t.Errorf("after its return, the home gets %+v, %+v", s.Operations, s.Datasets)
	}
	for _, found := range s.Datasets {
		if want := map[uuid.UUID]dataset.State{own.ID: dataset.StateTrashed}[found.ID]; want != "" && found.State != want || found.State == dataset.StatePurging {
			t.Errorf("%s is %s", found.Volume, found.State)
		}
	}
	if err := a.TryCommit(waits); dataset.KindOf(err) != dataset.ErrCancelled {
		t.Errorf("the delete that waited for the home: %v", err)
	}
	if v := e.MustVolume("back"); v.ID != d.ID || v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}

// On a single host there is no other home that a person could confirm as stopped.
func TestDeleteWithoutAnother(t *testing.T) {
	e := controltest.New(t)
	e.NewAgent("alpha").MustCreate("db")
	e.MustRefuse(api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "alpha"}, dataset.ErrUnsupported, "delete of volume db: there is no other node", "omit --fenced")
	if v := e.MustVolume("db"); v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}
