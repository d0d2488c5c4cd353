package control

import (
	"reflect"
	"testing"

	"github.com/google/uuid"

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
