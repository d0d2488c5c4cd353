package volume_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// renameWorld has volume db with the aliases former and first, volume other, volume full with as many aliases as a
// volume can have, an anonymous volume, and volume gone in the trash.
func renameWorld(t *testing.T) (*controltest.Control, *controltest.Agent) {
	e, a := controltest.OneNode(t)
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
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold", "label.tier=web", "protect=true")
	before := e.MustVolume("db")
	op := e.MustSubmit(controltest.Rename("db", "new")).Operation
	want := before
	want.Volume, want.RequestedAs, want.Request = "new", "new", op.ID
	want.Aliases = []string{"db"}
	if diff := cmp.Diff(want, e.MustVolume("new")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestRenameKeepsSpelling: the engine that made a volume knows it by its first spelling, so a rename keeps the spelling.
// After the alias in it was dropped, the spelling finds nothing, and the name replaces it. The node that made the volume
// stays recorded, because it may delete the volume.
func TestRenameKeepsSpelling(t *testing.T) {
	e, a := controltest.OneNode(t)
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

// TestDropAliasOfMountedVolume: an alias cannot be dropped while a node reports a mount by it, or a mount whose names
// are not known. A dry run decides the same. Mounts by other names do not count, and with Force none does.
func TestDropAliasOfMountedVolume(t *testing.T) {
	for name, c := range map[string]struct {
		mounts []dataset.Mount
		parts  []string // of the error; nil: the alias is dropped
	}{
		"unused":            {nil, nil},
		"by the name":       {[]dataset.Mount{{ID: "m", Names: []string{"db@gold"}}}, nil},
		"by another alias":  {[]dataset.Mount{{ID: "m", Names: []string{"former"}}}, nil},
		"by a longer name":  {[]dataset.Mount{{ID: "m", Names: []string{"first2", "first2@first"}}}, nil},
		"by the alias":      {[]dataset.Mount{{ID: "m", Names: []string{"first"}}}, []string{"on node alpha", "docker ps --filter volume=first there", "name db", "--force"}},
		"with a profile":    {[]dataset.Mount{{ID: "m", Names: []string{"first@gold"}}}, []string{"docker ps --filter volume=first@gold there"}},
		"two containers":    {[]dataset.Mount{{ID: "m", Names: []string{"db"}}, {ID: "n", Names: []string{"first"}}, {ID: "o", Names: []string{"first@gold"}}}, []string{"volume=first --filter volume=first@gold there"}},
		"by both names":     {[]dataset.Mount{{ID: "m", Engine: "podman", Names: []string{"db", "first"}}}, []string{"podman ps --filter volume=first there"}},
		"name is not known": {[]dataset.Mount{{ID: "m"}}, []string{"mounted on node alpha", "not known", "drover volume inspect db"}},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := renameWorld(t)
			h := api.Heartbeat{Incarnation: a.Incarnation, Incremental: true, Datasets: []dataset.DatasetStatus{
				{ID: e.MustVolume("db").ID, Mounted: c.mounts != nil, Mounts: c.mounts},
			}}
			e.OK(e.Heartbeat(e.Ctx, a.ID, h))
			req := controltest.DropAlias("db", "first")
			dry := req
			dry.DryRun = true
			for _, r := range []api.Request{dry, req} {
				if _, err := e.Submit(e.Ctx, r); c.parts != nil {
					controltest.Refused(t, err, dataset.ErrInUse, append(c.parts, "drop alias first of volume db")...)
				} else if err != nil {
					t.Error(err)
				}
			}
			if c.parts != nil {
				req.Force = true
				e.MustSubmit(req)
			}
			if names := e.MustVolume("db").Names(); !slices.Equal(names, []string{"db", "former"}) {
				t.Errorf("the volume has the names %v", names)
			}
			e.CheckInvariants()
		})
	}
}

// TestDropAliasOnSharedMount: a mount by the alias on a node that is not the home counts, too.
func TestDropAliasOnSharedMount(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("old")
	e.MustSubmit(controltest.Rename("old", "db"))
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		d, err := t.Dataset(d.ID)
		d.SharedMounts = []dataset.SharedMount{{ID: uuid.New(), Node: b.ID}}
		return errors.Join(err, t.PutDataset(d))
	}))
	status := dataset.DatasetStatus{ID: d.ID, Mounted: true, Mounts: []dataset.Mount{{ID: "m", Names: []string{"old"}}}}
	h := api.Heartbeat{Incarnation: b.Incarnation, Datasets: []dataset.DatasetStatus{status}}
	e.OK(e.Heartbeat(e.Ctx, b.ID, h))
	e.MustRefuse(controltest.DropAlias("db", "old"), dataset.ErrInUse, "a running container on node beta uses the volume by that name")
}

// TestDropAliasBeforeReport: an alias is dropped only once the home has reported the volume to this service, and not too
// long ago. After a restart of control, a node reports many volumes in several parts, and the first part may lack the
// volume. A service that a node cannot reach knows only old reports of it.
func TestDropAliasBeforeReport(t *testing.T) {
	e, a := renameWorld(t)
	drop := controltest.DropAlias("db", "first")
	refused := func(when string) {
		t.Helper()
		if _, err := e.Submit(e.Ctx, drop); dataset.KindOf(err) != dataset.ErrPending {
			t.Fatalf("%s: %v", when, err)
		} else {
			controltest.Refused(t, err, dataset.ErrPending, "node alpha has not reported lately", "try again")
		}
	}
	e.Registered = nil // nobody reports to the new service
	e.Restart()
	refused("after a restart")
	a.ReportIdle("other")
	refused("after the first part of a report")
	a.ReportIdle("db")
	e.Clock.Advance(e.Timing.MaxClockAge() + time.Second)
	refused("after an old report")
	a.ReportIdle("db")
	e.MustSubmit(drop)
}

// sealedEnv has nodes that encrypt, and the profile sealed, whose key is in a file.
func sealedEnv(t controltest.TB, names ...string) (*controltest.Control, map[string]*controltest.Agent) {
	e := controltest.New(t)
	controltest.KeyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/one"})
	agents := map[string]*controltest.Agent{}
	for _, name := range names {
		a := e.NewAgent(name)
		a.LocalPools[0].Capabilities.Encryption = true
		a.MustRegister(name)
		agents[name] = a
	}
	return e, agents
}

// A rewrapped data key is recorded for every node with data of the volume, together with the new place of the key. A
// different data key is refused, and nothing is recorded while the volume is being moved.
func TestRekey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha", "beta", "gamma")
	a, b := agents["alpha"], agents["beta"]
	d := a.MustSeal(controltest.Create("db@sealed"), controltest.WrappedBy(uuid.New(), "1"))
	e.MustMove("db", a, b, "beta") // alpha keeps the copy that the move left
	rev := a.MustSync(0).Revision

	controltest.KeyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/two"})
	op := b.MustPlan(controltest.Rekey("db"))
	if at := op.DatasetRecord.Profile.Encryption.KeyFile; at != "/keys/two" {
		t.Errorf("the new key is read from %s", at)
	}
	other := controltest.WrappedBy(uuid.New(), "2")
	op.DatasetRecord.Encryption = &other
	controltest.Refused(t, b.TryCommit(op), dataset.ErrConflict, "another one")
	two := controltest.WrappedBy(d.Encryption.ID, "2")
	op.DatasetRecord.Encryption = &two
	for range 2 {
		b.MustCommit(op)
	}
	v := e.MustVolume("db")
	if v.Encryption.KeyID != "2" || v.Profile.Encryption.KeyFile != "/keys/two" || v.Profile.Size != d.Profile.Size {
		t.Errorf("on record are %+v and %+v", v.Encryption, v.Profile)
	}
	s := a.MustSync(rev)
	if len(s.Copies) != 1 || s.Copies[0].Record == nil || s.Copies[0].Record.Encryption.KeyID != "2" {
		t.Errorf("the node with the copy gets %+v", s.Copies)
	}

	late := b.MustPlan(controltest.Rekey("db"))
	late.DatasetRecord.Encryption = &two
	move := *e.MustSubmit(controltest.Move("db", "gamma")).Operation
	b.MustRefusePlan(controltest.Rekey("db"), dataset.ErrConflict, move.ID.String(), "has already checked its key")
	controltest.Refused(t, b.TryCommit(late), dataset.ErrConflict, move.ID.String())
}

// A volume in the trash can only be rekeyed after it was restored, and the error says so.
func TestRekeyInTheTrash(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := a.MustSeal(controltest.Create("db@sealed"), controltest.WrappedBy(uuid.New(), "1"))
	a.MustDelete("db")
	short := d.ID.String()[:8]
	for _, ref := range []string{"db", short} {
		a.MustRefusePlan(controltest.Rekey(ref), dataset.ErrNotFound, "drover trash restore "+short, "drover volume rekey db")
	}
	a.MustRefusePlan(controltest.Rekey("none"), dataset.ErrNotFound, "no such volume")
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: short})
	a.MustPlan(controltest.Rekey("db"))
}

// A resize with another profile keeps the key source that a concurrent rekey has recorded.
func TestResizeKeepsTheKey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := a.MustSeal(controltest.Create("db@sealed"), controltest.WrappedBy(uuid.New(), "1"))
	controltest.KeyAt(e, "large", dataset.KeySource{KeyFile: "/keys/large"})
	large := e.ProfileSet.ByName["large"]
	large.Size *= 2
	e.ProfileSet.ByName["large"] = large
	resize := *e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "large"}).Operation
	controltest.KeyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/two"})
	op, two := a.MustPlan(controltest.Rekey("db")), controltest.WrappedBy(d.Encryption.ID, "2")
	op.DatasetRecord.Encryption = &two
	a.MustCommit(op)
	a.MustCommit(resize)
	if v := e.MustVolume("db"); v.Profile.Name != "large" || v.Size != large.Size || v.Profile.Encryption.KeyFile != "/keys/two" || v.Encryption.KeyID != "2" {
		t.Errorf("on record are %+v and %+v", v.Profile, v.Encryption)
	}
}

// After a rebuild of a store whose profiles.yaml lacks the key program, nobody knows where the key of a volume is.
// Such a volume cannot be cloned, since the clone would pass for one that is not encrypted. It can be cloned once its
// profile has a key again.
func TestCloneWithoutAKey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	controltest.KeyAt(e, "lost", dataset.KeySource{Exec: []string{"/bin/key"}})
	d := a.MustSeal(controltest.Create("db@lost"), controltest.WrappedBy(uuid.New(), "1"))
	f := a.FoundDatasets()
	controltest.KeyAt(e, "lost", dataset.KeySource{})
	f[0].Dataset.ID, f[0].Dataset.Volume = uuid.New(), "again"
	a.MustRebuild(f...)
	if v := e.MustVolume("again"); v.Encryption == nil || v.Profile.Encryption.Wanted() {
		t.Fatalf("after the rebuild: %+v, %+v", v.Encryption, v.Profile.Encryption)
	}
	a.MustRefusePlan(controltest.Create("copy", "from=again"), dataset.ErrForbidden, "give profile lost one", "drover volume rekey again")
	a.MustRefusePlan(controltest.Create("copy@bronze", "from=again"), dataset.ErrInvalid, "import")
	a.MustPlan(controltest.Create("copy@sealed", "from=again"))
	controltest.KeyAt(e, "lost", dataset.KeySource{KeyFile: "/keys/two"})
	op, two := a.MustPlan(controltest.Rekey("again")), controltest.WrappedBy(d.Encryption.ID, "2")
	op.DatasetRecord.Encryption = &two
	a.MustCommit(op)

	clone := a.MustPlan(controltest.Create("copy", "from=again"))
	clone.DatasetRecord.Profile.Encryption = dataset.KeySource{} // as an agent that made it without encryption would report it
	controltest.Refused(t, a.TryCommit(clone), dataset.ErrInvalid, "different data keys")
	clone = a.MustPlan(controltest.Create("copy", "from=again"))
	other := controltest.WrappedBy(uuid.New(), "2")
	clone.DatasetRecord.Encryption = &other
	controltest.Refused(t, a.TryCommit(clone), dataset.ErrInvalid, "different data keys")
	clone.DatasetRecord.Encryption = &two
	gone := clone
	gone.Source = &dataset.Source{Dataset: clone.Source.Dataset, Snapshot: uuid.New()}
	controltest.Refused(t, a.TryCommit(gone), dataset.ErrConflict, "was deleted meanwhile")
	a.MustCommit(clone)
}

// A key file can be any file of a host, so only an admin may name one, and must give its absolute path.
func TestWhoNamesAnOldKey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := a.MustSeal(controltest.Create("db@sealed"), controltest.WrappedBy(uuid.New(), "1"))
	a.MustCreate("clear")
	req := controltest.Rekey("db")
	req.Path = "/root/old"
	worker, admin := controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}), controltest.As(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "alice"})
	_, err := e.Submit(worker, req)
	controltest.Refused(t, err, dataset.ErrForbidden, "may not name a key file")
	out, err := e.Submit(worker, controltest.Rekey("db"))
	if err != nil || out.Operation.Node != a.ID || out.Operation.Path != "" {
		t.Fatalf("%+v, %v", out.Operation, err)
	}
	zero := controltest.WrappedBy(d.Encryption.ID, "1")
	out.Operation.DatasetRecord.Encryption = &zero
	a.MustCommit(*out.Operation)
	out, err = e.Submit(admin, req)
	if err != nil || out.Operation.Path != "/root/old" {
		t.Fatalf("%+v, %v", out.Operation, err)
	}
	op, two := *out.Operation, controltest.WrappedBy(d.Encryption.ID, "2")
	op.DatasetRecord.Encryption = &two
	a.MustCommit(op)
	if op := e.MustOperation(op.ID); op.State != dataset.OpDone || op.DatasetRecord.Encryption.KeyID != "2" {
		t.Errorf("%+v", op)
	}
	var told []string
	if err := e.Events(e.Ctx, 0, false, func(v api.Event) error {
		told = append(told, string(v.Type)+" "+v.Volume+": "+v.Detail)
		return nil
	}); err != nil || !slices.Contains(told, "volume.rekey db: key 1 to 2") {
		t.Errorf("the events are %q, %v", told, err)
	}
	req.Path = "old"
	a.MustRefusePlan(req, dataset.ErrInvalid, "absolute path")
	a.MustRefusePlan(controltest.Rekey("clear"), dataset.ErrUnsupported, "not encrypted")
	controltest.KeyAt(e, "sealed", dataset.KeySource{})
	a.MustRefusePlan(controltest.Rekey("db"), dataset.ErrInvalid, "names a key")
}
