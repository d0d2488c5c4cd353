package control

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestCloneOfSnapshot(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	db := a.create("db@gold", "label.a=1", "protect=true")
	s := a.snapshot("db", "nightly")
	e.submit(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "40GiB"})
	a.work()
	for _, prefix := range []string{s.ID.String(), s.ID.String()[:8], strings.ToUpper(s.ID.String()[:9])} {
		op := a.plan(create("test@snapshot-" + prefix))
		d := op.Dataset
		if op.Kind != dataset.OpCreate || *op.Source != (dataset.Source{Dataset: db.ID, Snapshot: s.ID}) ||
			*d.Origin != (dataset.Origin{Dataset: db.ID, Snapshot: s.ID}) {
			t.Errorf("%s: source %+v, origin %+v", prefix, op.Source, d.Origin)
		}
		if d.Home != a.id || d.Pool != db.Pool || d.Size != 20*dataset.GiB || d.Profile.Name != "gold" || d.Protected || d.Labels != nil {
			t.Errorf("%s: %+v", prefix, d)
		}
	}
}

func TestCloneOfDataset(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	db := a.create("db@silver")
	for _, req := range []api.Request{
		create("test@snapshot-" + db.ID.String()[:8]), create("test", "from=db"), create("test", "from="+strings.ToUpper(db.ID.String()[:8])),
		{Kind: dataset.OpClone, Volume: "test", Options: map[string]string{"from": "db"}},
	} {
		op := a.plan(req)
		if *op.Source != (dataset.Source{Dataset: db.ID}) || !op.Dataset.Origin.Implicit || op.Dataset.Origin.Snapshot == uuid.Nil || op.Kind != req.Kind {
			t.Errorf("%v: source %+v, origin %+v", req.Options, op.Source, op.Dataset.Origin)
		}
	}
}

func TestCloneWithOptions(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	a.create("any@silver")
	a.create("plain@bronze", "pool=plain")
	d := a.plan(create("test@silver", "from=db", "size=40GiB", "label.x=y", "readonly=true", "protect=true")).Dataset
	if d.Profile.Name != "silver" || d.Size != 40*dataset.GiB || d.Profile.Size != d.Size || d.Profile.Filesystem.Type != "xfs" ||
		d.Labels["x"] != "y" || !d.ReadOnly || !d.Protected {
		t.Errorf("%+v", d)
	}
	if d := a.plan(create("test@silver", "from=db")).Dataset; d.Size != 20*dataset.GiB || d.Profile.Size != d.Size {
		t.Errorf("a profile that promises less made it smaller: %+v", d)
	}
	if d := a.plan(create("test", "from=db", "fs=xfs", "size=20GiB")).Dataset; d.Size != 20*dataset.GiB {
		t.Errorf("%+v", d)
	}
	for _, c := range []struct {
		req   api.Request
		kind  *dataset.Kind
		parts []string
	}{
		{create("test", "from=db", "owner=5:6"), dataset.ErrInvalid, []string{"a clone has the owner and mode of what it copies"}},
		{create("test@snapshot-abcd", "mode=0700"), dataset.ErrInvalid, []string{"a clone has the owner and mode of what it copies"}},
		{api.Request{Kind: dataset.OpImport, Volume: "test", Path: "/srv", Options: map[string]string{"owner": "5:6"}}, dataset.ErrInvalid, []string{"an import has the owner and mode"}},
		{create("test", "from=db", "fs=ext4"), dataset.ErrInvalid, []string{"source's filesystem", "xfs", "ext4"}},
		{create("test", "from=any", "fs=xfs"), dataset.ErrInvalid, []string{"that its pool chose"}},
		{create("test@gold", "from=any"), dataset.ErrInvalid, []string{"profile gold wants filesystem xfs", `"test"`}},
		{create("test", "from=db", "size=1GiB"), dataset.ErrInvalid, []string{"1GiB is smaller than its source's 20GiB"}},
		{create("test", "from=db", "pool=plain"), dataset.ErrUnsupported, []string{"it is not pool plain"}},
		{create("test", "from=plain", "size=1GiB"), dataset.ErrUnsupported, []string{"cannot enforce a size"}},
		{create("test@silver", "from=plain"), dataset.ErrUnsupported, []string{"cannot enforce a size"}},
		{create("test", "from=db", "profile=glod"), dataset.ErrInvalid, []string{"unknown profile"}},
	} {
		a.planned(c.req, c.kind, c.parts...)
	}
}

// Asked again for the same name and source: the volume that exists. Another
// source is refused, and a source that is gone is still known by its prefix.
func TestCloneThatExists(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	db, other := a.create("db@silver"), a.create("other@silver")
	s, s2 := a.snapshot("db", ""), a.snapshot("db", "")
	ofSnap, ofData, byName := "c1@snapshot-"+s.ID.String()[:8], "c2@snapshot-"+db.ID.String()[:8], create("c3", "from=other")
	a.create(ofSnap)
	a.create(ofData)
	a.do(byName)
	a.snapshot("c1", "")
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "c2", Protect: yes()})

	done := func(reqs ...api.Request) {
		t.Helper()
		for _, req := range reqs {
			if p, err := e.Plan(e.ctx, a.id, req); err != nil || p.Done == nil {
				t.Errorf("%s %v: %+v, %v", req.Volume, req.Options, p, err)
			}
		}
	}
	same := []api.Request{
		create(ofSnap), create("c1", "from="+s.ID.String()), create("c1@SNAPSHOT-" + strings.ToUpper(s.ID.String())),
		create("c1"), create(ofData), create("c2", "from="+db.ID.String()[:13]),
	}
	done(same...)
	done(create("c2", "from=db"), byName)
	for _, req := range []api.Request{
		create("c1@snapshot-" + s2.ID.String()), create("c1@snapshot-" + db.ID.String()), create("c1", "from=db"),
		create("c2@snapshot-" + other.ID.String()), create("c2@snapshot-" + s.ID.String()), create("c3", "from=db"),
		create("db@snapshot-" + other.ID.String()), create("c1@snapshot-00000000"),
	} {
		a.planned(req, dataset.ErrExists, "exists")
	}

	// The sources go to the trash, and then for good.
	a.do(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()})
	a.delete("db")
	a.delete("other")
	done(same...)
	done(byName)
	for _, d := range []dataset.Dataset{db, other} {
		e.submit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	}
	a.work()
	done(same...)
	a.planned(byName, dataset.ErrExists, "is a clone of dataset "+other.ID.String(), "other")
	// Another volume of that name is another source.
	a.create("other")
	a.planned(byName, dataset.ErrExists)
	e.check()
}

// An ambiguous prefix that was of one thing once is still that for the clone.
func TestCloneThatExistsByPrefixOfMore(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.forge("db", "abcd0000-0000-4000-8000-000000000001")
	a.create("test@snapshot-abcd")
	a.forge("db2", "abcd0000-0000-4000-8000-000000000002")
	if p, err := e.Plan(e.ctx, a.id, create("test@snapshot-abcd")); err != nil || p.Done == nil {
		t.Errorf("%+v, %v", p, err)
	}
	a.planned(create("test2@snapshot-abcd"), dataset.ErrAmbiguous, "dataset abcd0000-0000-4000-8000-000000000001 (db)", "(db2)", "say more")
	a.create("test3@snapshot-abcd0000-0000-4000-8000-000000000002")
	a.planned(create("test3@snapshot-abcd0000-0000-4000-8000-000000000001"), dataset.ErrExists)
}

func TestCloneFromTrash(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@silver")
	s := a.snapshot("db", "")
	d := a.delete("db")
	a.create("c1@snapshot-" + d.ID.String()[:8])
	a.create("c2@snapshot-" + s.ID.String()[:8])
	a.planned(create("c3", "from=db"), dataset.ErrNotFound)
	e.submit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	a.planned(create("c3@snapshot-"+d.ID.String()[:8]), dataset.ErrNotFound)
	a.planned(create("c3@snapshot-"+s.ID.String()[:8]), dataset.ErrNotFound)
	a.work()
	e.check()
}

// forge makes a volume whose dataset has a chosen UUID.
func (a *agent) forge(spec, id string) dataset.Dataset {
	a.Helper()
	op := a.plan(create(spec))
	op.DatasetID = uuid.MustParse(id)
	op.Dataset.ID = op.DatasetID
	return *a.commit(op).Dataset
}

// forgeSnapshot takes a snapshot with a chosen UUID.
func (a *agent) forgeSnapshot(volume, name, id string) dataset.Snapshot {
	a.Helper()
	op := a.plan(api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name})
	op.Snapshot.ID = uuid.MustParse(id)
	a.commit(op)
	return *op.Snapshot
}
