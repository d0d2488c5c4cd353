package view_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// forgeSnapshot takes a snapshot with a chosen UUID.
func forgeSnapshot(a *controltest.Agent, volume, name, id string) dataset.Snapshot {
	a.Helper()
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: volume, Name: name})
	op.Snapshot.ID = uuid.MustParse(id)
	a.MustCommit(op)
	return *op.Snapshot
}

// However much is in the trash, a dataset in it can be restored or purged by its name and by its UUID.
func TestManyInTheTrash(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	var gone []dataset.Dataset
	for i := range 140 { // more than one transaction can check
		name := fmt.Sprintf("vol%d", i)
		a.MustCreate(name)
		gone = append(gone, a.MustDelete(name))
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: "vol7"})
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: gone[8].ID.String()})
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: "vol9"})
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: gone[10].ID.String()})
	e.CheckInvariants()
}

func TestVolumeByNameOrPrefix(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	one := a.CreateVolumeWithID("db", "abcd0000-0000-4000-8000-000000000001")
	two := a.CreateVolumeWithID("db2", "abcd0000-0000-4000-8000-000000000002")
	beef := a.CreateVolumeWithID("beef", "12340000-0000-4000-8000-000000000003") // a name that looks like a UUID prefix
	other := a.CreateVolumeWithID("other", "beef0000-0000-4000-8000-000000000004")
	forgeSnapshot(a, "db", "nightly", "abcd0000-0000-4000-8000-000000000005")
	for ref, want := range map[string]uuid.UUID{
		"db": one.ID, "beef": beef.ID, "beef0": other.ID, "BEEF0000": other.ID, "1234": beef.ID,
		one.ID.String(): one.ID, strings.ToUpper(two.ID.String()): two.ID, "12340000-": beef.ID,
	} {
		if v, err := e.Volume(e.Ctx, ref); err != nil || v.ID != want {
			t.Errorf("%s: %s, %v", ref, v.ID, err)
		}
	}
	_, err := e.Volume(e.Ctx, "abcd")
	controltest.Refused(t, err, dataset.ErrAmbiguous, one.ID.String(), "(db)", two.ID.String(), "(db2)")
	for _, ref := range []string{"", "x", "123", "bee", "nothing@gold", "db@", "abcd0000-0000-4000-8000-000000000005", "nightly", "../db", strings.Repeat("a", 1<<20), "\x00", "12340000-0000-4000-8000-0000000000031"} {
		_, err := e.Volume(e.Ctx, ref)
		controltest.Refused(t, err, dataset.ErrNotFound, "no such volume")
	}
	a.MustDelete("db")
	if v, err := e.Volume(e.Ctx, "abcd"); err != nil || v.ID != two.ID { // the other one is in the trash
		t.Errorf("%s, %v", v.ID, err)
	}
}

// Engines list a volume by the name with which it was requested, often with its profile.
func TestVolumeByNameAndProfile(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@silver")
	c := a.MustCreate("copy@snapshot-" + d.ID.String()[:8])
	for ref, want := range map[string]uuid.UUID{"db@silver": d.ID, "copy@silver": c.ID, c.RequestedAs: c.ID} {
		if v, err := e.Volume(e.Ctx, ref); err != nil || v.ID != want {
			t.Errorf("%s: %s, %v", ref, v.ID, err)
		}
	}
	for ref, says := range map[string]string{
		"db@gold":                "volume db has profile silver, not gold (use db without @)",
		"db@snapshot-abcd":       "volume db has profile silver, not snapshot-abcd (use db without @)",
		"copy@snapshot-ffffffff": "volume copy has profile silver, not snapshot-ffffffff",
	} {
		_, err := e.Volume(e.Ctx, ref)
		controltest.Refused(t, err, dataset.ErrInvalid, says)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db@silver", Profile: "bronze"})
	if v := e.MustVolume("db@bronze"); v.ID != d.ID {
		t.Errorf("after set-profile: %+v", v)
	}
	_, err := e.Submit(e.Ctx, api.Request{Kind: dataset.OpDelete, Volume: "db@silver"})
	controltest.Refused(t, err, dataset.ErrInvalid, "volume db has profile bronze, not silver")
}

func TestSnapshotByNameOrPrefix(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.CreateVolumeWithID("db", "abcd0000-0000-4000-8000-000000000001")
	a.MustCreate("db2")
	one := forgeSnapshot(a, "db", "nightly", "abcd0000-0000-4000-8000-000000000002")
	two := forgeSnapshot(a, "db2", "abcd", "abcd0000-0000-4000-8000-000000000003")
	three := forgeSnapshot(a, "db2", "", "fade0000-0000-4000-8000-000000000004")
	for _, c := range []struct {
		volume, snap string
		want         uuid.UUID
	}{
		{"db", "nightly", one.ID}, {"db", "abcd", one.ID}, {"db2", "abcd", two.ID}, {"db2", "abcd0000", two.ID},
		{"", "fade", three.ID}, {"", "FADE0000", three.ID}, {"", "db@nightly", one.ID}, {"", "db2@fade", three.ID}, {"", one.ID.String(), one.ID}, {"abcd0000-0000-4000-8000-000000000001", "nightly", one.ID},
	} {
		if s, err := e.Snapshot(e.Ctx, c.volume, c.snap); err != nil || s.ID != c.want {
			t.Errorf("%q %q: %s, %v", c.volume, c.snap, s.ID, err)
		}
	}
	_, err := e.Snapshot(e.Ctx, "", "abcd")
	controltest.Refused(t, err, dataset.ErrAmbiguous, one.ID.String(), two.ID.String())
	for _, c := range [][2]string{{"", "nightly"}, {"db", "weekly"}, {"db", "fade"}, {"nothing", "nightly"}, {"", ""}, {"db", ""}, {"", "abcd0000-0000-4000-8000-000000000001"}} {
		_, err := e.Snapshot(e.Ctx, c[0], c[1])
		controltest.Refused(t, err, dataset.ErrNotFound)
	}
	for _, c := range []struct{ snap, says string }{
		{"nightly", `no such snapshot: "nightly" (its name is known only in its volume: use --volume db)`},
		{"db@weekly", `no such snapshot: "weekly"`}, {"nothing@nightly", `no such snapshot: "nothing@nightly"`},
		{"weekly", `no such snapshot: "weekly" (drover snapshot ls lists the snapshots)`},
	} {
		_, err := e.Snapshot(e.Ctx, "", c.snap)
		controltest.Refused(t, err, dataset.ErrNotFound, c.says)
	}
	d := a.MustDelete("db")
	_, err = e.Snapshot(e.Ctx, "", "nightly")
	controltest.Refused(t, err, dataset.ErrNotFound, "snapshot ls")
	if s, err := e.Snapshot(e.Ctx, d.ID.String(), "nightly"); err != nil || s.ID != one.ID {
		t.Errorf("in the trash: %v, %v", s.ID, err)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	for _, ref := range []string{"", d.ID.String()} {
		_, err = e.Snapshot(e.Ctx, ref, one.ID.String())
		controltest.Refused(t, err, dataset.ErrNotFound)
	}
}

// However many other things a prefix matches, the requested one is found: "no such volume" must be true (I7).
func TestPrefixAmongMany(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("crowd")
	for i := range 150 {
		forgeSnapshot(a, "crowd", "", fmt.Sprintf("abcd%04x-0000-4000-8000-000000000000", i))
	}
	last := a.CreateVolumeWithID("last", "abcdffff-0000-4000-8000-000000000000")
	if v, err := e.Volume(e.Ctx, "abcd"); err != nil || v.ID != last.ID {
		t.Errorf("%v, %v", v.ID, err)
	}
	_, err := e.Snapshot(e.Ctx, "", "abcd")
	controltest.Refused(t, err, dataset.ErrAmbiguous, "abcd0000", "abcd0009", "…")
	a.MustRefusePlan(controltest.Create("test@snapshot-abcd"), dataset.ErrAmbiguous, "use more")
	if op := a.MustPlan(controltest.Create("test@snapshot-abcdffff")); op.Source.Dataset != last.ID {
		t.Errorf("%+v", op.Source)
	}
	s := forgeSnapshot(a, "last", "", "abcdfffe-0000-4000-8000-000000000000")
	if got, err := e.Snapshot(e.Ctx, "last", "abcd"); err != nil || got.ID != s.ID {
		t.Errorf("%v, %v", got.ID, err)
	}
}

// A volume whose name is the UUID of a dataset is not taken for that dataset.
func TestNamedAsAUUID(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	db := a.MustCreate("db")
	impostor := a.MustCreate(db.ID.String())
	if v := e.MustVolume(db.ID.String()); v.ID != db.ID {
		t.Errorf("%s is dataset %s", db.ID, v.ID)
	}
	op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: db.ID.String()})
	if op.DatasetID != db.ID {
		t.Errorf("snapshot of %s", op.DatasetID)
	}
	if v := e.MustVolume(impostor.ID.String()); v.ID != impostor.ID {
		t.Errorf("%+v", v)
	}
	if out := e.MustSubmit(controltest.Create(db.ID.String())); out.Volume.ID != impostor.ID {
		t.Errorf("requested again, it is %s", out.Volume.ID)
	}
}
