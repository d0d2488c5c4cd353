package relocation_test

import (
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// If nobody asked for a filesystem, it excludes no pool as the target of a move that copies single files. The target
// pool creates the filesystem that it supports, and that is recorded.
func TestMoveToAnotherKind(t *testing.T) {
	e := controltest.New(t)
	a, c := e.NewAgent("alpha"), &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	c.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "plain", Backend: "dir", Capabilities: controltest.DirCapabilities, Path: "/c"}}
	c.MustRegister("gamma")
	e.Registered = append(e.Registered, c)
	made := a.MustPlan(controltest.Create("db"))
	made.DatasetRecord.Size, made.DatasetRecord.Profile.Filesystem = 30*dataset.GiB, dataset.Filesystem{Type: "xfs", Chosen: true}
	a.MustCommit(made)
	op := *e.MustSubmit(controltest.Move("db", "gamma")).Operation
	if want := (dataset.Filesystem{}); !op.FileCopy || !reflect.DeepEqual(op.DatasetRecord.Profile.Filesystem, want) {
		t.Errorf("%+v, %+v", op, op.DatasetRecord)
	}
	for _, to := range []struct {
		from, to *controltest.Agent
		has      dataset.Filesystem
		size     dataset.Size
	}{{a, c, dataset.Filesystem{}, 0}, {c, a, dataset.Filesystem{Type: "ext4", Chosen: true}, 9 * dataset.GiB}} {
		if to.to == a {
			op = *e.MustSubmit(controltest.Move("db", "alpha")).Operation
		}
		to.to.MustRecall(op)
		if err := to.from.TryYield(op, controltest.Relinquished(op)); err != nil {
			t.Fatal(err)
		}
		op.Manifest, op.DatasetRecord.Size, op.DatasetRecord.Profile.Filesystem = controltest.Relinquished(op), to.size, to.has
		if got := *to.to.MustCommit(op).Dataset; !reflect.DeepEqual(got.Profile.Filesystem, to.has) || got.Size != to.size {
			t.Errorf("on record with %s, %+v", got.Size, got.Profile.Filesystem)
		}
		e.CheckInvariants()
	}
}

// If somebody asked for a filesystem, it is kept by a move that copies single files. Only such a move changes the
// filesystem of a volume: anything else that a target reports is not recorded.
func TestMoveKeepsWhatWasAsked(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
	other := controltest.LoopCapabilities
	other.Delta = false
	c.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "other", Backend: "other", Capabilities: other, Path: "/c"}}
	c.MustRegister("gamma")
	asked := a.MustCreate("db", "fs=xfs").Profile.Filesystem
	if asked.Type != "xfs" || asked.Chosen {
		t.Fatalf("%+v", asked)
	}
	for _, to := range []struct {
		name     string
		from, to *controltest.Agent
		files    bool
	}{{"beta", a, b, false}, {"gamma", b, c, true}} {
		op := *e.MustSubmit(controltest.Move("db", to.name)).Operation
		if op.FileCopy != to.files || !reflect.DeepEqual(op.DatasetRecord.Profile.Filesystem, asked) {
			t.Errorf("to %s: files %t, %+v", to.name, op.FileCopy, op.DatasetRecord.Profile.Filesystem)
		}
		to.to.MustRecall(op)
		if err := to.from.TryYield(op, controltest.Relinquished(op)); err != nil {
			t.Fatal(err)
		}
		size := op.DatasetRecord.Size
		op.Manifest = controltest.Relinquished(op)
		if !to.files {
			op.DatasetRecord.Size, op.DatasetRecord.Profile.Filesystem = 9*dataset.GiB, dataset.Filesystem{Type: "ext4", Chosen: true}
		}
		if got := *to.to.MustCommit(op).Dataset; !reflect.DeepEqual(got.Profile.Filesystem, asked) || got.Size != size {
			t.Errorf("on record at %s with %s, %+v", to.name, got.Size, got.Profile.Filesystem)
		}
		e.CheckInvariants()
	}
}

// A volume that is transferred as a whole already has its filesystem. A node whose host lacks mkfs accepts it, also
// as a replica, but no volume that must be formatted there.
func TestMoveToANodeWithoutMkfs(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a := e.NewAgent("alpha")
	less := controltest.LoopCapabilities
	less.Filesystems = nil
	for _, c := range []struct {
		node  string
		holds []string
	}{{"gamma", []string{"xfs"}}, {"delta", nil}} {
		n := &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New()}
		n.LocalPools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Capabilities: less, AcceptedFilesystems: c.holds, Path: "/c",
			MissingFeatures: []string{"xfs needs mkfs.xfs (apt-get install xfsprogs)"}}}
		n.MustRegister(c.node)
		e.Registered = append(e.Registered, n)
	}
	if op := e.Registered[1].MustPlan(controltest.Create("new@silver", "fs=xfs")); op.Node != a.ID {
		t.Errorf("made where there is no mkfs: %+v", op)
	}
	a.MustCreate("db@silver", "fs=xfs")
	_, err := e.Submit(e.Ctx, controltest.Move("db", "delta"))
	controltest.Refused(t, err, dataset.ErrUnsupported, "xfs needs mkfs.xfs", "pool fast of node gamma could")
	if op := e.MustSubmit(controltest.Move("db", "gamma")).Operation; op.FileCopy {
		t.Errorf("%+v", op)
	}
	a.MustCreate("off@silver", "fs=xfs")
	e.EditNode(a, func(n *dataset.Node) { n.Cordoned, n.Draining = true, true })
	if op := e.MustSubmit(api.Request{Kind: dataset.OpMove, Volume: "off"}).Operation; op.Node != e.Registered[1].ID {
		t.Errorf("off its node: %+v", op)
	}
	e.EditNode(a, func(n *dataset.Node) { n.Cordoned, n.Draining = false, false })
	d := a.MustCreate("safe@safe", "fs=xfs")
	if got := e.MustVolume("safe").Copies; len(got) != 1 || got[0] != e.Registered[1].ID {
		t.Errorf("copies of %s: %v", d.ID, got)
	}
}
