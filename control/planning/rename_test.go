package planning_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// renameWorld has volume db with the aliases former and first, volume other, volume full with as many aliases as a
// volume can have, an anonymous volume, and volume gone in the trash.
func renameWorld(t *testing.T) (*controltest.Control, *controltest.Agent) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	for _, name := range []string{"first", "other", "full0", anonymous} {
		a.MustCreate(name)
	}
	e.MustSubmit(controltest.Rename("first", "former"))
	e.MustSubmit(controltest.Rename("former", "db"))
	for i := range dataset.MaxAliases {
		e.MustSubmit(controltest.Rename(fmt.Sprint("full", i), fmt.Sprint("full", i+1)))
	}
	a.MustCreate("gone")
	a.MustDelete("gone")
	return e, a
}

var anonymous = strings.Repeat("ab", 32)

// TestRename: a rename gives the volume a free name, and makes the former one an alias. A dry run decides the same, and
// changes nothing.
func TestRename(t *testing.T) {
	for name, c := range map[string]struct {
		volume, to string
		kind       *dataset.Kind // of the error; nil: accepted
		parts      []string
		want       []string // the name and the aliases afterwards
		unchanged  bool
	}{
		"free name":           {volume: "db", to: "new", want: []string{"new", "db", "former", "first"}},
		"by alias":            {volume: "former", to: "new", want: []string{"new", "db", "former", "first"}},
		"back to an alias":    {volume: "db", to: "former", want: []string{"former", "db", "first"}},
		"same name":           {volume: "db", to: "db", want: []string{"db", "former", "first"}, unchanged: true},
		"alias, same name":    {volume: "first", to: "db", want: []string{"db", "former", "first"}, unchanged: true},
		"name in the trash":   {volume: "db", to: "gone", want: []string{"gone", "db", "former", "first"}},
		"full, to an alias":   {volume: "full8", to: "full3", want: []string{"full3", "full8", "full7", "full6", "full5", "full4", "full2", "full1", "full0"}},
		"full":                {"full8", "new", dataset.ErrInvalid, []string{"8 aliases", "rename --drop-alias full0 full8"}, nil, false},
		"another volume":      {"db", "other", dataset.ErrExists, []string{"rename of volume db", "volume other exists"}, nil, false},
		"alias of another":    {"other", "first", dataset.ErrExists, []string{"first is an alias of volume db", "rename --drop-alias first db"}, nil, false},
		"no name":             {"db", "", dataset.ErrInvalid, []string{"bad volume name"}, nil, false},
		"bad name":            {"db", "a/b", dataset.ErrInvalid, []string{"bad volume name"}, nil, false},
		"spec":                {"db", "new@gold", dataset.ErrInvalid, []string{"bad volume name"}, nil, false},
		"anonymous name":      {"db", strings.Repeat("0", 64), dataset.ErrInvalid, []string{"Docker generates"}, nil, false},
		"anonymous volume":    {anonymous, "new", dataset.ErrUnsupported, []string{"drover clone " + anonymous + " new"}, nil, false},
		"volume in the trash": {"gone", "new", dataset.ErrNotFound, []string{"no such volume"}, nil, false},
		"no volume":           {"none", "new", dataset.ErrNotFound, []string{"no such volume"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := renameWorld(t)
			before := e.Dump()
			req := controltest.Rename(c.volume, c.to)
			req.DryRun = true
			dry, dryErr := e.Submit(e.Ctx, req)
			if diff := cmp.Diff(before, e.Dump()); diff != "" {
				t.Errorf("a dry run changed the store:\n%s", diff)
			}
			req.DryRun = false
			out, err := e.Submit(e.Ctx, req)
			if dataset.KindOf(dryErr) != dataset.KindOf(err) || (dry.Operation == nil) != (out.Operation == nil) {
				t.Errorf("the dry run: got %+v, %v, the rename %+v, %v", dry.Operation, dryErr, out.Operation, err)
			}
			if c.kind != nil {
				controltest.Refused(t, err, c.kind, c.parts...)
				return
			}
			if err != nil || (out.Operation == nil) != c.unchanged {
				t.Fatalf("got %+v, %v", out.Operation, err)
			}
			for _, name := range c.want {
				if v := e.MustVolume(name); !slices.Equal(v.Names(), c.want) {
					t.Errorf("%s finds a volume with the names %v, want %v", name, v.Names(), c.want)
				}
			}
			e.CheckInvariants()
		})
	}
}

// TestDropAlias: only an alias of the volume can be dropped. Its name is free then, and the volume stays.
func TestDropAlias(t *testing.T) {
	for name, c := range map[string]struct {
		volume, alias string
		kind          *dataset.Kind
		parts         []string
		want          []string
	}{
		"alias":               {volume: "db", alias: "former", want: []string{"db", "first"}},
		"alias of itself":     {volume: "first", alias: "first", want: []string{"db", "former"}},
		"name":                {"db", "db", dataset.ErrInvalid, []string{"is the name of the volume", "drover volume rename db NEW"}, nil},
		"name by alias":       {"first", "db", dataset.ErrInvalid, []string{"is the name of the volume"}, nil},
		"nothing":             {"db", "", dataset.ErrInvalid, []string{"missing alias", "first, former"}, nil},
		"no alias":            {"db", "frmer", dataset.ErrNotFound, []string{"no such alias", "first, former", "former"}, nil},
		"another volume":      {"db", "other", dataset.ErrNotFound, []string{"no such alias"}, nil},
		"volume without":      {"other", "db", dataset.ErrNotFound, []string{"the volume has no alias"}, nil},
		"volume in the trash": {"gone", "first", dataset.ErrNotFound, []string{"no such volume"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := renameWorld(t)
			id := e.MustVolume("db").ID
			out, err := e.Submit(e.Ctx, controltest.DropAlias(c.volume, c.alias))
			if c.kind != nil {
				controltest.Refused(t, err, c.kind, c.parts...)
				return
			}
			if err != nil || out.Volume == nil || !slices.Equal(out.Volume.Names(), c.want) || out.Volume.ID != id {
				t.Fatalf("got %+v, %v, want the names %v", out.Volume, err, c.want)
			}
			if _, err := e.Volume(e.Ctx, c.alias); dataset.KindOf(err) != dataset.ErrNotFound {
				t.Errorf("the dropped alias: %v", err)
			}
			a.MustCreate(c.alias)
			e.CheckInvariants()
		})
	}
}

// TestRenameKeepsTheRest: only the names and the request differ after a rename.
func TestRenameKeepsTheRest(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold", "label.tier=web", "protect=true")
	before := e.MustVolume("db")
	op := e.MustSubmit(controltest.Rename("db", "new")).Operation
	want := before
	want.Volume, want.RequestedAs, want.Request = "new", "new", op.ID
	want.SetAliases([]string{"db"})
	if diff := cmp.Diff(want, e.MustVolume("new")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestRenameKeepsSpelling: the engine that made a volume knows it by its first spelling, so a rename keeps the spelling.
// After the alias in it was dropped, the spelling finds nothing, and the name replaces it. The node that made the volume
// stays recorded, because it may delete the volume.
func TestRenameKeepsSpelling(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	req := controltest.Create("db@gold")
	req.Engine = true
	a.MustDo(req)
	e.MustSubmit(controltest.Rename("db", "new"))
	e.MustSubmit(controltest.Rename("new", "newer"))
	e.MustSubmit(controltest.DropAlias("newer", "new"))
	if v := e.MustVolume("newer"); v.RequestedAs != "db@gold" || v.RequestedBy != a.ID {
		t.Errorf("after a rename: got %q of node %s, want db@gold of %s", v.RequestedAs, v.RequestedBy, a.ID)
	}
	e.MustSubmit(controltest.DropAlias("newer", "db"))
	if v := e.MustVolume("newer"); v.RequestedAs != "newer" || v.RequestedBy != a.ID {
		t.Errorf("after the alias was dropped: got %q of node %s, want newer of %s", v.RequestedAs, v.RequestedBy, a.ID)
	}
}
