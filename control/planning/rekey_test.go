package planning_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

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
