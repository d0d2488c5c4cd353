package control

import (
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A filesystem that nobody asked for keeps a volume from no pool where its files go one by
// one: the pool there makes what it has, and that is on record.
func TestMoveToAnotherKind(t *testing.T) {
	e := newEnv(t)
	a, c := e.agent("alpha"), &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
	c.pools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: dirCan, Path: "/c"}}
	c.register("gamma")
	e.agents = append(e.agents, c)
	made := a.plan(create("db"))
	made.Dataset.Size, made.Dataset.Profile.Filesystem = 30*dataset.GiB, dataset.Filesystem{Type: "xfs", Chosen: true}
	a.commit(made)
	op := *e.submit(moveTo("db", "gamma")).Operation
	if want := (dataset.Filesystem{}); !op.Files || !reflect.DeepEqual(op.Dataset.Profile.Filesystem, want) {
		t.Errorf("%+v, %+v", op, op.Dataset)
	}
	for _, to := range []struct {
		from, to *agent
		has      dataset.Filesystem
		size     dataset.Size
	}{{a, c, dataset.Filesystem{}, 0}, {c, a, dataset.Filesystem{Type: "ext4", Chosen: true}, 9 * dataset.GiB}} {
		if to.to == a {
			op = *e.submit(moveTo("db", "alpha")).Operation
		}
		to.to.recalls(op)
		if err := to.from.yields(op, gaveUp(op)); err != nil {
			t.Fatal(err)
		}
		op.Manifest, op.Dataset.Size, op.Dataset.Profile.Filesystem = gaveUp(op), to.size, to.has
		if got := *to.to.commit(op).Dataset; !reflect.DeepEqual(got.Profile.Filesystem, to.has) || got.Size != to.size {
			t.Errorf("on record with %s, %+v", got.Size, got.Profile.Filesystem)
		}
		e.check()
	}
}

// A filesystem that somebody asked for goes along where the files go one by one, and only a
// move of files changes what a volume is made of: what else a target reports is not put on
// record.
func TestMoveKeepsWhatWasAsked(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
	other := loopCan
	other.Delta = false
	c.pools = []dataset.Pool{{ID: uuid.New(), Name: "other", Backend: "other", Capabilities: other, Path: "/c"}}
	c.register("gamma")
	asked := a.create("db", "fs=xfs").Profile.Filesystem
	if asked.Type != "xfs" || asked.Chosen {
		t.Fatalf("%+v", asked)
	}
	for _, to := range []struct {
		name     string
		from, to *agent
		files    bool
	}{{"beta", a, b, false}, {"gamma", b, c, true}} {
		op := *e.submit(moveTo("db", to.name)).Operation
		if op.Files != to.files || !reflect.DeepEqual(op.Dataset.Profile.Filesystem, asked) {
			t.Errorf("to %s: files %t, %+v", to.name, op.Files, op.Dataset.Profile.Filesystem)
		}
		to.to.recalls(op)
		if err := to.from.yields(op, gaveUp(op)); err != nil {
			t.Fatal(err)
		}
		size := op.Dataset.Size
		op.Manifest = gaveUp(op)
		if !to.files {
			op.Dataset.Size, op.Dataset.Profile.Filesystem = 9*dataset.GiB, dataset.Filesystem{Type: "ext4", Chosen: true}
		}
		if got := *to.to.commit(op).Dataset; !reflect.DeepEqual(got.Profile.Filesystem, asked) || got.Size != size {
			t.Errorf("on record at %s with %s, %+v", to.name, got.Size, got.Profile.Filesystem)
		}
		e.check()
	}
}

// What comes whole has its filesystem already: a node whose host lacks mkfs takes it, and a replica, but
// nothing that is to be made there.
func TestMoveToANodeWithoutMkfs(t *testing.T) {
	e := newEnv(t)
	e.replicated(1)
	a := e.agent("alpha")
	less := loopCan
	less.Filesystems = nil
	for _, c := range []struct {
		node  string
		holds []string
	}{{"gamma", []string{"xfs"}}, {"delta", nil}} {
		n := &agent{env: e, id: uuid.New(), incarnation: uuid.New()}
		n.pools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Capabilities: less, Holds: c.holds, Path: "/c",
			Missing: []string{"xfs needs mkfs.xfs (apt-get install xfsprogs)"}}}
		n.register(c.node)
		e.agents = append(e.agents, n)
	}
	if op := e.agents[1].plan(create("new@silver", "fs=xfs")); op.Node != a.id {
		t.Errorf("made where there is no mkfs: %+v", op)
	}
	a.create("db@silver", "fs=xfs")
	_, err := e.Submit(e.ctx, moveTo("db", "delta"))
	refused(t, err, dataset.ErrUnsupported, "xfs needs mkfs.xfs", "pool fast of node gamma could")
	if op := e.submit(moveTo("db", "gamma")).Operation; op.Files {
		t.Errorf("%+v", op)
	}
	a.create("off@silver", "fs=xfs")
	e.edit(a, func(n *dataset.Node) { n.Cordoned, n.Draining = true, true })
	if op := e.submit(api.Request{Kind: dataset.OpMove, Volume: "off"}).Operation; op.Node != e.agents[1].id {
		t.Errorf("off its node: %+v", op)
	}
	e.edit(a, func(n *dataset.Node) { n.Cordoned, n.Draining = false, false })
	d := a.create("safe@safe", "fs=xfs")
	if got := e.volume("safe").Copies; len(got) != 1 || got[0] != e.agents[1].id {
		t.Errorf("copies of %s: %v", d.ID, got)
	}
}
