// Package volume_test tests how package control decides on volumes. It is a folder of its own, so that it runs beside
// the other tests of that package.
package volume_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

func TestCreate(t *testing.T) {
	e, a := controltest.OneNode(t)
	req := controltest.Create("db@gold", "size=30GiB", "label.team=red", "protect=true", "owner=999:998", "mode=0750")
	req.Engine, req.ID = true, uuid.New()
	op := a.MustPlan(req)
	e.CheckInvariants() // nothing was written
	mode := uint32(0o750)
	gold := e.ProfileSet.ByName["gold"]
	gold.Size, gold.Owner = 30*dataset.GiB, &dataset.Owner{UID: 999, GID: 998, Mode: &mode}
	want := dataset.Dataset{
		ID: op.DatasetID, Volume: "db", RequestedAs: "db@gold", RequestedBy: a.ID, State: dataset.StateReady, Profile: gold,
		Size: 30 * dataset.GiB, Labels: map[string]string{"team": "red"}, Protected: true,
		Home: a.ID, Pool: a.LocalPools[0].ID, Epoch: 1, Created: controltest.Start, Request: req.ID,
	}
	if diff := cmp.Diff(want, *op.DatasetRecord); diff != "" {
		t.Errorf("planned (- want, + got):\n%s", diff)
	}
	if op.ID != req.ID || op.Kind != dataset.OpCreate || op.State != dataset.OpPending || op.Node != a.ID || op.Epoch != 1 {
		t.Errorf("operation %+v", op)
	}
	if _, err := e.Volume(e.Ctx, "db"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("planning alone made a volume: %v", err)
	}

	e.Spy.Counted()
	out := a.MustCommit(op)
	if _, txns, _ := e.Spy.Counted(); txns != 1 {
		t.Errorf("%d transactions for a create", txns)
	}
	if diff := cmp.Diff(&want, out.Dataset); diff != "" || out.Duplicate || out.Index == 0 {
		t.Errorf("committed %v, %d:\n%s", out.Duplicate, out.Index, diff)
	}
	v := e.MustVolume("db")
	if v.Node != "alpha" || v.PoolName != "fast" || v.Backend != "loop" || v.Snapshots != 0 || v.Lease.Incarnation != a.Incarnation {
		t.Errorf("shown as %+v", v)
	}
	st := e.CheckInvariants()
	if len(st.Datasets) != 1 || len(st.Operations) != 0 {
		t.Errorf("a short create leaves %d datasets and %d operations", len(st.Datasets), len(st.Operations))
	}

	again := a.MustCommit(op)
	if again.Index != out.Index || again.Duplicate || !cmp.Equal(again.Dataset, out.Dataset) {
		t.Errorf("the same report again gives %+v, not %+v", again, out)
	}
	if p, err := e.Plan(e.Ctx, a.ID, req); err != nil || p.Operation != nil || p.Unchanged == nil || p.Unchanged.ID != op.DatasetID {
		t.Errorf("the same request again: %+v, %v", p, err)
	}
}

func TestCreateRefused(t *testing.T) {
	e, a := controltest.OneNode(t)
	for _, c := range []struct {
		req   api.Request
		kind  *dataset.Kind
		parts []string
	}{
		{controltest.Create("x"), dataset.ErrInvalid, []string{`bad volume name "x"`}},
		{controltest.Create(strings.Repeat("x", 1<<20)), dataset.ErrInvalid, nil},
		{controltest.Create("db@glod"), dataset.ErrInvalid, []string{`unknown profile "glod" (available: bronze, fleeting, gold, kept, silver)`}},
		{controltest.Create("x@glod"), dataset.ErrInvalid, []string{`bad volume name "x": expected 2 to`, `; and unknown profile "glod" (available: bronze`}},
		{controltest.Create("x@snapshot-f23ca986"), dataset.ErrInvalid, []string{"with a letter or digit first"}},
		{controltest.Create("db@GOLD"), dataset.ErrInvalid, []string{`bad profile name "GOLD"`, `(available: bronze, fleeting, gold, kept, silver); did you mean gold?`}},
		{controltest.Create("db", "profile=Silver"), dataset.ErrInvalid, []string{`bad profile name "Silver"`, `silver); did you mean silver?`}},
		{controltest.Create("db@gold", "profile=silver"), dataset.ErrInvalid, []string{"gold", "silver", "use only " +
			"one"}},
		{controltest.Create("db", "sise=3G"), dataset.ErrInvalid, []string{`"sise"`, "did you mean size?"}},
		{controltest.Create("db", "size=3"), dataset.ErrInvalid, []string{"3GiB", "3B"}},
		{controltest.Create("db", "pool=slow"), dataset.ErrInvalid, []string{`unknown pool "slow" (available: fast, plain)`}},
		{controltest.Create("db", "pool=plain", "size=1GiB"), dataset.ErrUnsupported, []string{"pool plain cannot satisfy profile bronze: it cannot enforce a size (pool fast of node alpha could)"}},
		{controltest.Create("db", "pool=plain", "fs=xfs"), dataset.ErrUnsupported, []string{"it has no filesystem xfs inside volumes"}},
		{controltest.Create("db@gold", "pool=plain"), dataset.ErrUnsupported, nil},
		{controltest.Create("db@snapshot-f23ca986"), dataset.ErrNotFound, []string{"f23ca986", "snapshot ls"}},
		{controltest.Create("db", "from=nothing"), dataset.ErrNotFound, []string{"nothing", "no volume, snapshot or dataset"}},
		{controltest.Create("db@snapshot-f23ca986", "from=f23ca987"), dataset.ErrInvalid, []string{"use only one"}},
		{api.Request{Kind: dataset.OpClone, Volume: "db"}, dataset.ErrInvalid, []string{"missing source of the clone"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db@snapshot-f23ca986"}, dataset.ErrInvalid, []string{"import cannot be a clone"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: strings.Repeat("/x", 4000)}, dataset.ErrInvalid, []string{"8000 bytes"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "plugins"}, dataset.ErrInvalid, []string{`folder to import "plugins": expected an absolute path`}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "."}, dataset.ErrInvalid, []string{"expected"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "../etc"}, dataset.ErrInvalid, []string{"expected"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "/srv/../etc/"}, dataset.ErrInvalid, []string{`"/srv/../etc/": the path is not clean (use /etc)`}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "/srv\x00"}, dataset.ErrInvalid, []string{"a zero byte"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Live: true}, dataset.ErrInvalid, []string{"live: it applies only to the import of a folder"}},
		{api.Request{Kind: dataset.OpCreate, Volume: "db", Path: "/srv"}, dataset.ErrInvalid, []string{"unexpected path: it applies only to import and rekey, not to create"}},
		{api.Request{Kind: dataset.OpCreate, Volume: "db", Live: true}, dataset.ErrInvalid, []string{"live: it applies only to the import of a folder"}},
		{api.Request{Kind: dataset.OpRekey, Volume: "db", Path: "key.old"}, dataset.ErrInvalid, []string{`old key file "key.old": expected an absolute path`}},
		{api.Request{Kind: "frobnicate", Volume: "db"}, dataset.ErrInvalid, []string{`"frobnicate"`}},
		{api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()}, dataset.ErrInvalid, []string{"submit it"}},
	} {
		a.MustRefusePlan(c.req, c.kind, c.parts...)
	}
	e.MustRefuse(api.Request{Kind: dataset.OpImport, Volume: "db"}, dataset.ErrInvalid, `import of volume "db": missing path of a folder`)
	if st := e.CheckInvariants(); len(st.Datasets)+len(st.Operations) != 0 {
		t.Errorf("refusals left %+v", st)
	}
}

// Design section 3: the existing volume is what was requested, or the error names the requested and the existing
// value.
func TestCreateOfWhatExists(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold", "size=10GB", "label.a=1", "mode=0700")
	a.MustCreate("ro", "readonly=true", "owner=1:2", "pool=plain")
	for _, same := range []api.Request{
		controltest.Create("db"), controltest.Create("db@gold"), controltest.Create("db", "profile=gold"), controltest.Create("db", "size=10GB"),
		controltest.Create("db", "fs=xfs"), controltest.Create("db", "pool=fast"), controltest.Create("db", "label.a=1"),
		controltest.Create("db@gold", "mode=700", "size=10GB"), controltest.Create("ro", "readonly=true", "owner=1:2"), controltest.Create("ro"),
		controltest.Create("ro", "readonly=false", "protect=false"),
	} {
		p, err := e.Plan(e.Ctx, a.ID, same)
		if err != nil || p.Unchanged == nil || p.Operation != nil {
			t.Errorf("%s %v: %+v, %v", same.Volume, same.Options, p, err)
		}
	}
	for _, c := range []struct {
		req   api.Request
		parts []string
	}{
		{controltest.Create("db@silver"), []string{`"db"`, "gold", "silver"}},
		{controltest.Create("db", "profile=silver"), []string{"gold", "silver"}},
		{controltest.Create("db@glod"), []string{`exists with profile gold: unknown profile "glod"`, "available: "}},
		{controltest.Create("db", "size=10GiB"), []string{"10GB", "10GiB"}},
		{controltest.Create("db", "fs=ext4"), []string{"xfs", "ext4"}},
		{controltest.Create("db", "pool=plain"), []string{"fast", "plain"}},
		{controltest.Create("db", "readonly=true"), []string{"readonly"}},
		{controltest.Create("db", "protect=true"), []string{"volume protect db"}},
		{controltest.Create("db", "owner=5:5"), []string{"5:5"}},
		{controltest.Create("ro", "owner=1:3"), []string{"1:3"}},
		{controltest.Create("db", "mode=0755"), []string{"0755"}},
		{controltest.Create("db", "label.a=2"), []string{"labels"}},
		{controltest.Create("db", "label.a=1", "label.b=2"), []string{"labels"}},
		{controltest.Create("db@snapshot-f23ca986"), []string{"not a clone of f23ca986"}},
		{controltest.Create("ro", "fs=xfs"), []string{"the filesystem that its pool chose", "xfs"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "/srv"}, []string{"and is not replaced"}},
	} {
		a.MustRefusePlan(c.req, dataset.ErrExists, append(c.parts, "exists")...)
	}
	// A volume keeps its profile after the profile was removed from the file.
	delete(e.ProfileSet.ByName, "gold")
	if p, err := e.Plan(e.Ctx, a.ID, controltest.Create("db@gold")); err != nil || p.Unchanged == nil {
		t.Errorf("after the profile was removed: %+v, %v", p, err)
	}
}

func TestAnonymousVolumes(t *testing.T) {
	e := controltest.New(t)
	e.ProfileSet.ByName["bronze"] = func() dataset.Profile {
		p := e.ProfileSet.ByName["bronze"]
		p.Snapshots.Schedule = "@hourly"
		return p
	}()
	a := e.NewAgent("alpha")
	name := strings.Repeat("0123456789abcdef", 4)
	d := a.MustCreate(name)
	if !d.Anonymous || d.Profile.OnDelete.Mode != dataset.DeletePurge || d.Profile.Snapshots.Schedule != "" {
		t.Errorf("anonymous: %+v", d)
	}
	named := a.MustCreate("copy@snapshot-" + d.ID.String()[:8])
	if named.Anonymous || named.Profile.OnDelete.Mode != dataset.DeleteTrash || !named.Profile.SchedulesOff {
		t.Errorf("a named clone has the settings of its anonymous source: %+v", named.Profile)
	}
	d = a.MustDelete(name)
	if d.State != dataset.StatePurging {
		t.Errorf("deleted: %s", d.State)
	}
	a.MustPurge(d)
	if st := e.CheckInvariants(); len(st.Datasets) != 1 {
		t.Errorf("left: %+v", st.Datasets)
	}
	for i, req := range []api.Request{controltest.Create(name[:63] + "0@gold"), controltest.Create(name[:63]+"1", "label.a=1"), controltest.Create(name[:63])} {
		if d := a.MustPlan(req).DatasetRecord; d.Anonymous {
			t.Errorf("%d: %s is taken for anonymous", i, d.Volume)
		}
	}
}

// I5: one name, one dataset. Any number of concurrent identical creates make one dataset, and all of them succeed.
// Different ones are refused with both values in the error.
func TestI5OneNameOneDataset(t *testing.T) {
	e := controltest.New(t)
	agents := []*controltest.Agent{e.NewAgent("alpha"), e.NewAgent("beta")}
	const n = 48
	type result struct {
		d   dataset.Dataset
		err error
	}
	results := make([]result, n)
	specs := []string{"db@gold", "db@silver"}
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			d, err := createAsAgentsDo(agents[i/2%2], controltest.Create(specs[i%2]))
			results[i] = result{d, err}
		})
	}
	close(start)
	all.Wait()
	st := e.CheckInvariants()
	if len(st.Datasets) != 1 {
		t.Fatalf("%d datasets", len(st.Datasets))
	}
	winner := e.MustVolume("db").Dataset
	for i, r := range results {
		if specs[i%2] == "db@"+winner.Profile.Name {
			if r.err != nil || r.d.ID != winner.ID {
				t.Errorf("%d: %s: %v, %v", i, specs[i%2], r.d.ID, r.err)
			}
			continue
		}
		controltest.Refused(t, r.err, dataset.ErrExists, "gold", "silver")
	}
}

// createAsAgentsDo plans, makes and commits a volume, and plans again if it lost.
func createAsAgentsDo(a *controltest.Agent, req api.Request) (dataset.Dataset, error) {
	for {
		p, err := a.Plan(a.Ctx, a.ID, req)
		if err != nil {
			return dataset.Dataset{}, err
		}
		if p.Unchanged != nil {
			return *p.Unchanged, nil
		}
		out, err := a.Commit(a.Ctx, a.ID, a.ReportOf(*p.Operation))
		if err != nil {
			return dataset.Dataset{}, err
		}
		if !out.Duplicate {
			return *out.Dataset, nil
		}
	}
}

// namesTheVolume checks that a finished operation names the existing dataset, in its record and in the answer to the
// same request if it is repeated.
func namesTheVolume(a *controltest.Agent, op dataset.Operation, req api.Request, id uuid.UUID) {
	a.Helper()
	if op.DatasetID != id || op.DatasetRecord == nil || op.DatasetRecord.ID != id {
		a.Errorf("operation %s is done and names dataset %s, and %+v: want %s", op.ID, op.DatasetID, op.DatasetRecord, id)
	}
	req.ID = op.ID
	if out := a.MustSubmit(req); out.Volume == nil || out.Volume.ID != id {
		a.Errorf("operation %s, asked for again, answers volume %+v", op.ID, out.Volume)
	}
}

// The same with operations on record. A create that lost ends with the outcome of what was requested, and what it
// made must be removed.
func TestI5OnRecord(t *testing.T) {
	e, a := controltest.OneNode(t)
	var ops []dataset.Operation
	reqs := []api.Request{
		controltest.Create("db@gold", "label.a=1"), controltest.Create("db"), controltest.Create("db@gold"), controltest.Create("db@silver"), controltest.Create("db", "label.a=2"),
		{Kind: dataset.OpImport, Volume: "db", Path: "/srv"},
	}
	for _, req := range reqs {
		ops = append(ops, *e.MustSubmit(req).Operation)
	}
	ends := []dataset.OpState{dataset.OpDone, dataset.OpDone, dataset.OpDone, dataset.OpFailed, dataset.OpFailed, dataset.OpFailed}
	for round := range 2 {
		for i, op := range ops {
			out, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
			if round == 1 && ends[i] == dataset.OpFailed {
				controltest.Refused(t, err, dataset.ErrConflict)
				continue
			}
			if err != nil || out.Duplicate != (i > 0) || out.Dataset.ID != ops[0].DatasetID {
				t.Errorf("round %d, %d: %+v, %v", round, i, out, err)
			}
			got, err := e.Operation(e.Ctx, op.ID.String(), 0)
			if err != nil || got.State != ends[i] {
				t.Errorf("%d ended as %s, %+v, %v", i, got.State, got.Problem, err)
			}
			if got.State == dataset.OpDone {
				namesTheVolume(a, got, reqs[i], ops[0].DatasetID)
			}
			if ends[i] == dataset.OpFailed {
				controltest.Refused(t, got.Problem.Err(), dataset.ErrExists, "exists")
			}
		}
	}
	if st := e.CheckInvariants(); len(st.Datasets) != 1 {
		t.Errorf("%d datasets", len(st.Datasets))
	}
	// The winner's name is removed. A losing report that arrives again must not appear to have won.
	a.MustDelete("db")
	_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(ops[1]))
	controltest.Refused(t, err, dataset.ErrConflict, "deleted meanwhile")
}

func TestCreateCommitsLittle(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("warm-up@gold")
	e.Spy.Counted()
	for i := range 5 {
		op := a.MustPlan(controltest.Create(fmt.Sprintf("db%d@gold", i)))
		reads, txns, _ := e.Spy.Counted()
		if reads > 4 || txns != 0 { // the name, the node, its two pools
			t.Errorf("a plan costs %d reads and %d transactions", reads, txns)
		}
		a.MustCommit(op)
		reads, txns, keys := e.Spy.Counted()
		if reads > 4 || txns != 1 || keys != 5 { // the node, the operation, the dataset, and the name
			t.Errorf("a commit costs %d reads, %d transactions of %d keys", reads, txns, keys)
		}
	}
	e.Clock.Advance(time.Second)
	if _, err := e.Volume(e.Ctx, "db3"); err != nil || errors.Is(err, controltest.ErrUnreachable) {
		t.Error(err)
	}
}
