package control

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// sealedEnv has nodes that encrypt, and the profile sealed, whose key is in a file.
func sealedEnv(t tb, names ...string) (*env, map[string]*agent) {
	e := newEnv(t)
	keyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/one"})
	agents := map[string]*agent{}
	for _, name := range names {
		a := e.agent(name)
		a.pools[0].Capabilities.Encryption = true
		a.register(name)
		agents[name] = a
	}
	return e, agents
}

// keyAt has profiles.yaml say where the key of a profile is.
func keyAt(e *env, profile string, at dataset.KeySource) {
	p := e.profiles.byName["silver"]
	p.Name, p.Revision, p.Encryption = profile, profile+" "+at.String(), at
	e.profiles.byName[profile] = p
}

// seals makes a volume as an agent does that gives it a data key.
func (a *agent) seals(req api.Request, e dataset.Encryption) dataset.Dataset {
	a.Helper()
	op := a.plan(req)
	op.Dataset.Encryption = &e
	return *a.commit(op).Dataset
}

func wrappedBy(id uuid.UUID, key string) dataset.Encryption {
	return dataset.Encryption{ID: id, KeyID: key, Wrapped: []byte("wrapped by " + key)}
}

func rekey(volume string) api.Request { return api.Request{Kind: dataset.OpRekey, Volume: volume} }

// What is wrapped anew stands on record for all that have something of the volume, with the key's
// new place; another data key does not, and nothing of it while the volume is on its way.
func TestRekey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha", "beta", "gamma")
	a, b := agents["alpha"], agents["beta"]
	d := a.seals(create("db@sealed"), wrappedBy(uuid.New(), "1"))
	e.moved("db", a, b, "beta") // alpha keeps what it left
	rev := a.sync(0).Rev

	keyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/two"})
	op := b.plan(rekey("db"))
	if at := op.Dataset.Profile.Encryption.KeyFile; at != "/keys/two" {
		t.Errorf("the new key is read from %s", at)
	}
	other := wrappedBy(uuid.New(), "2")
	op.Dataset.Encryption = &other
	refused(t, b.commits(op), dataset.ErrConflict, "another one")
	two := wrappedBy(d.Encryption.ID, "2")
	op.Dataset.Encryption = &two
	for range 2 {
		b.commit(op)
	}
	v := e.volume("db")
	if v.Encryption.KeyID != "2" || v.Profile.Encryption.KeyFile != "/keys/two" || v.Profile.Size != d.Profile.Size {
		t.Errorf("on record are %+v and %+v", v.Encryption, v.Profile)
	}
	s := a.sync(rev)
	if len(s.Copies) != 1 || s.Copies[0].Record == nil || s.Copies[0].Record.Encryption.KeyID != "2" {
		t.Errorf("who keeps a copy hears %+v", s.Copies)
	}

	late := b.plan(rekey("db"))
	late.Dataset.Encryption = &two
	move := *e.submit(moveTo("db", "gamma")).Operation
	b.planned(rekey("db"), dataset.ErrConflict, move.ID.String(), "has looked for its key")
	refused(t, b.commits(late), dataset.ErrConflict, move.ID.String())
}

// What is in the trash is rekeyed once it is back, and that is said.
func TestRekeyInTheTrash(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := a.seals(create("db@sealed"), wrappedBy(uuid.New(), "1"))
	a.delete("db")
	short := d.ID.String()[:8]
	for _, ref := range []string{"db", short} {
		a.planned(rekey(ref), dataset.ErrNotFound, "drover trash restore "+short, "drover volume rekey db")
	}
	a.planned(rekey("none"), dataset.ErrNotFound, "no such volume")
	e.submit(api.Request{Kind: dataset.OpUndelete, Volume: short})
	a.plan(rekey("db"))
}

// A resize for another profile leaves the key where a rekey has put it meanwhile.
func TestResizeKeepsTheKey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := a.seals(create("db@sealed"), wrappedBy(uuid.New(), "1"))
	keyAt(e, "large", dataset.KeySource{KeyFile: "/keys/large"})
	large := e.profiles.byName["large"]
	large.Size *= 2
	e.profiles.byName["large"] = large
	resize := *e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "large"}).Operation
	keyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/two"})
	op, two := a.plan(rekey("db")), wrappedBy(d.Encryption.ID, "2")
	op.Dataset.Encryption = &two
	a.commit(op)
	a.commit(resize)
	if v := e.volume("db"); v.Profile.Name != "large" || v.Size != large.Size || v.Profile.Encryption.KeyFile != "/keys/two" || v.Encryption.KeyID != "2" {
		t.Errorf("on record are %+v and %+v", v.Profile, v.Encryption)
	}
}

// A volume of which nobody knows any more where its key is, as after a rebuild of a store whose
// profiles.yaml lacks its key program, has no clone that would pass for one that is not encrypted;
// with a key in its profile it has again.
func TestCloneWithoutAKey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	keyAt(e, "lost", dataset.KeySource{Exec: []string{"/bin/key"}})
	d := a.seals(create("db@lost"), wrappedBy(uuid.New(), "1"))
	f := a.found()
	keyAt(e, "lost", dataset.KeySource{})
	f[0].Dataset.ID, f[0].Dataset.Volume = uuid.New(), "again"
	a.rebuild(f...)
	if v := e.volume("again"); v.Encryption == nil || v.Profile.Encryption.Wanted() {
		t.Fatalf("after the rebuild: %+v, %+v", v.Encryption, v.Profile.Encryption)
	}
	a.planned(create("copy", "from=again"), dataset.ErrForbidden, "give profile lost one", "drover volume rekey again")
	a.planned(create("copy@bronze", "from=again"), dataset.ErrInvalid, "import")
	a.plan(create("copy@sealed", "from=again"))
	keyAt(e, "lost", dataset.KeySource{KeyFile: "/keys/two"})
	op, two := a.plan(rekey("again")), wrappedBy(d.Encryption.ID, "2")
	op.Dataset.Encryption = &two
	a.commit(op)

	clone := a.plan(create("copy", "from=again"))
	clone.Dataset.Profile.Encryption = dataset.KeySource{} // as an agent that made it plain would say
	refused(t, a.commits(clone), dataset.ErrInvalid, "one data key")
	clone = a.plan(create("copy", "from=again"))
	other := wrappedBy(uuid.New(), "2")
	clone.Dataset.Encryption = &other
	refused(t, a.commits(clone), dataset.ErrInvalid, "one data key")
	clone.Dataset.Encryption = &two
	a.commit(clone)
}

// A key file of a host can be any file there: who names one is an admin, and says all of its path.
func TestWhoNamesAnOldKey(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := a.seals(create("db@sealed"), wrappedBy(uuid.New(), "1"))
	a.create("clear")
	req := rekey("db")
	req.Path = "/root/old"
	worker, admin := as(pki.Identity{Kind: pki.Operator, Role: pki.Worker, Name: "bob"}), as(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "alice"})
	_, err := e.Submit(worker, req)
	refused(t, err, dataset.ErrForbidden, "may not name a key file")
	out, err := e.Submit(worker, rekey("db"))
	if err != nil || out.Operation.Node != a.id || out.Operation.Path != "" {
		t.Fatalf("%+v, %v", out.Operation, err)
	}
	zero := wrappedBy(d.Encryption.ID, "1")
	out.Operation.Dataset.Encryption = &zero
	a.commit(*out.Operation)
	out, err = e.Submit(admin, req)
	if err != nil || out.Operation.Path != "/root/old" {
		t.Fatalf("%+v, %v", out.Operation, err)
	}
	op, two := *out.Operation, wrappedBy(d.Encryption.ID, "2")
	op.Dataset.Encryption = &two
	a.commit(op)
	if op := e.operationNow(op.ID); op.State != dataset.OpDone || op.Dataset.Encryption.KeyID != "2" {
		t.Errorf("%+v", op)
	}
	var told []string
	if err := e.Events(e.ctx, 0, false, func(v api.Event) error {
		told = append(told, v.Type+" "+v.Volume+": "+v.Detail)
		return nil
	}); err != nil || !slices.Contains(told, "volume.rekey db: key 1 to 2") {
		t.Errorf("the events are %q, %v", told, err)
	}
	req.Path = "old"
	a.planned(req, dataset.ErrInvalid, "absolute path")
	a.planned(rekey("clear"), dataset.ErrUnsupported, "not encrypted")
	keyAt(e, "sealed", dataset.KeySource{})
	a.planned(rekey("db"), dataset.ErrInvalid, "names no key any more")
}
