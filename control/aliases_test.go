package control_test

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// setAliases gives a volume aliases.
func setAliases(e *controltest.Control, volume string, aliases ...string) dataset.Dataset {
	e.Helper()
	var d dataset.Dataset
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) (err error) {
		if d, err = t.Volume(volume); err != nil {
			return err
		}
		d.Aliases = aliases
		for _, name := range aliases {
			if err := t.Put(record.NameKey(name), record.Claim{ID: d.ID}); err != nil {
				return err
			}
		}
		return t.PutDataset(d)
	})
	if err != nil {
		e.Fatalf("%v", err)
	}
	return d
}

// An alias finds its volume, no other volume can get its name, and lists have the volume once.
func TestAliasFindsItsVolume(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	d := setAliases(e, "db", "old")
	if v := e.MustVolume("old"); v.ID != d.ID || v.Volume != "db" {
		t.Errorf("the alias finds %s (%s), want db (%s)", v.Volume, v.ID, d.ID)
	}
	create := controltest.Create("old")
	_, err := a.Plan(a.Ctx, a.ID, create)
	controltest.Refused(t, err, dataset.ErrExists, "alias of volume db", "drover volume rename --drop-alias old db")
	create.Engine = true
	if p, err := a.Plan(a.Ctx, a.ID, create); err != nil || p.Unchanged == nil || p.Unchanged.ID != d.ID {
		t.Errorf("an engine creates the alias: got %+v, %v; want the volume unchanged", p, err)
	}
	list, err := e.Volumes(e.Ctx, api.Page{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Volume != "db" {
		t.Errorf("volumes %+v, %v; want only db", list.Items, err)
	}
	e.CheckInvariants()
}

// A delete ends the aliases, so that their names are free, and a restore from the trash does not bring them back.
func TestDeleteEndsAliases(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	setAliases(e, "db", "old")
	if d := a.MustDelete("db"); d.Aliases != nil {
		t.Errorf("in the trash: aliases %v", d.Aliases)
	}
	e.CheckInvariants()
	other := a.MustCreate("old")
	if _, err := e.Submit(e.Ctx, api.Request{Kind: dataset.OpUndelete, Volume: "db"}); err != nil {
		t.Fatal(err)
	}
	if v := e.MustVolume("old"); v.ID != other.ID {
		t.Errorf("the name old finds %s, want the new volume %s", v.ID, other.ID)
	}
	e.CheckInvariants()
}

// A lost store is rebuilt with the aliases that no other volume has taken.
func TestRebuildRestoresAliases(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	d := setAliases(e, "db", "old", "taken")
	found := api.FoundDataset{Dataset: d, Pool: d.Pool}

	e = controltest.New(t)
	b := e.NewAgent("alpha")
	found.Pool = b.LocalPools[0].ID
	b.MustCreate("taken")
	for range 2 { // it is idempotent
		if _, err := b.Rebuild(e.Ctx, b.ID, []api.FoundDataset{found}, false); err != nil {
			t.Fatal(err)
		}
	}
	v := e.MustVolume("old")
	if v.ID != d.ID || !slices.Equal(v.Aliases, []string{"old"}) {
		t.Errorf("rebuilt with ID %s, aliases %v", v.ID, v.Aliases)
	}
	e.CheckInvariants()
}

// A move keeps the aliases.
func TestMoveKeepsAliases(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db")
	setAliases(e, "db", "old")
	d := e.MustMove("old", a, b, "beta")
	if v := e.MustVolume("old"); v.ID != d.ID || v.Home != b.ID || !slices.Equal(v.Aliases, []string{"old"}) {
		t.Errorf("after the move: home %s, aliases %v", v.Home, v.Aliases)
	}
	e.CheckInvariants()
}
