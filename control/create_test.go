package control

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
	"github.com/droverhq/drover/dataset"
)

func TestCreate(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	req := create("db@gold", "size=30GiB", "label.team=red", "protect=true", "owner=999:998", "mode=0750")
	req.Engine, req.ID = true, uuid.New()
	op := a.plan(req)
	e.check() // nothing was written
	mode := uint32(0o750)
	gold := e.profiles.byName["gold"]
	gold.Size, gold.Owner = 30*dataset.GiB, &dataset.Owner{UID: 999, GID: 998, Mode: &mode}
	want := dataset.Dataset{
		ID: op.DatasetID, Volume: "db", Spelling: "db@gold", SpelledBy: a.id, State: dataset.StateReady, Profile: gold,
		Size: 30 * dataset.GiB, Labels: map[string]string{"team": "red"}, Protected: true,
		Home: a.id, Pool: a.pools[0].ID, Epoch: 1, Created: someday, Request: req.ID,
	}
	if diff := cmp.Diff(want, *op.Dataset); diff != "" {
		t.Errorf("planned (- want, + got):\n%s", diff)
	}
	if op.ID != req.ID || op.Kind != dataset.OpCreate || op.State != dataset.OpPending || op.Node != a.id || op.Epoch != 1 {
		t.Errorf("operation %+v", op)
	}
	if _, err := e.Volume(e.ctx, "db"); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("a plan alone made a volume: %v", err)
	}

	op.Dataset.Size += 4096 // as the backend rounds it up
	want.Size += 4096
	e.spy.counted()
	out := a.commit(op)
	if _, txns, _ := e.spy.counted(); txns != 1 {
		t.Errorf("%d transactions for a create", txns)
	}
	if diff := cmp.Diff(&want, out.Dataset); diff != "" || out.Lost || out.Index == 0 {
		t.Errorf("committed %v, %d:\n%s", out.Lost, out.Index, diff)
	}
	v := e.volume("db")
	if v.Node != "alpha" || v.PoolName != "fast" || v.Backend != "loop" || v.Snapshots != 0 || v.Lease.Incarnation != a.incarnation {
		t.Errorf("shown as %+v", v)
	}
	st := e.check()
	if len(st.datasets) != 1 || len(st.operations) != 0 {
		t.Errorf("a short create leaves %d datasets and %d operations", len(st.datasets), len(st.operations))
	}

	again := a.commit(op)
	if again.Index != out.Index || again.Lost || !cmp.Equal(again.Dataset, out.Dataset) {
		t.Errorf("the same report again gives %+v, not %+v", again, out)
	}
	if p, err := e.Plan(e.ctx, a.id, req); err != nil || p.Operation != nil || p.Done == nil || p.Done.ID != op.DatasetID {
		t.Errorf("the same request again: %+v, %v", p, err)
	}
}

// A create that was on record when its answer was lost is never taken back,
// whatever wrote the dataset since.
func TestCreateAgainAfterOthers(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	op := a.plan(create("db@gold"))
	a.commit(op)
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: yes()})
	a.snapshot("db", "")
	if out := a.commit(op); out.Lost || out.Dataset.ID != op.DatasetID {
		t.Errorf("after other changes: %+v", out)
	}
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: no()})
	a.delete("db")
	if out := a.commit(op); out.Lost || out.Dataset.State != dataset.StateTrashed {
		t.Errorf("after its delete: %+v", out)
	}
	a.create("db@silver")
	if out := a.commit(op); out.Lost || out.Dataset.State != dataset.StateTrashed {
		t.Errorf("after its delete and another create: %+v", out)
	}
	e.check()
}

func TestCreateRefused(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for _, c := range []struct {
		req   api.Request
		kind  *dataset.Kind
		parts []string
	}{
		{create("x"), dataset.ErrInvalid, []string{`bad volume name "x"`}},
		{create(strings.Repeat("x", 1<<20)), dataset.ErrInvalid, nil},
		{create("db@glod"), dataset.ErrInvalid, []string{`unknown profile "glod" (have: bronze, fleeting, gold, kept, silver)`}},
		{create("x@glod"), dataset.ErrInvalid, []string{`bad volume name "x": want 2 to`, `; and unknown profile "glod" (have: bronze`}},
		{create("x@snapshot-f23ca986"), dataset.ErrInvalid, []string{`beginning with a letter or digit`}},
		{create("db@GOLD"), dataset.ErrInvalid, []string{`bad profile name "GOLD"`, `(have: bronze, fleeting, gold, kept, silver); did you mean gold?`}},
		{create("db", "profile=Silver"), dataset.ErrInvalid, []string{`bad profile name "Silver"`, `silver); did you mean silver?`}},
		{create("db@gold", "profile=silver"), dataset.ErrInvalid, []string{"gold", "silver", "say one"}},
		{create("db", "sise=3G"), dataset.ErrInvalid, []string{`"sise"`, "did you mean size?"}},
		{create("db", "size=3"), dataset.ErrInvalid, []string{"3GiB", "3B"}},
		{create("db", "pool=slow"), dataset.ErrInvalid, []string{`unknown pool "slow" (have: fast, plain)`}},
		{create("db", "pool=plain", "size=1GiB"), dataset.ErrUnsupported, []string{"pool plain cannot keep profile bronze: it cannot enforce a size (pool fast of node alpha could)"}},
		{create("db", "pool=plain", "fs=xfs"), dataset.ErrUnsupported, []string{"it has no filesystem xfs inside volumes"}},
		{create("db@gold", "pool=plain"), dataset.ErrUnsupported, nil},
		{create("db@snapshot-f23ca986"), dataset.ErrNotFound, []string{"f23ca986", "snapshot ls"}},
		{create("db", "from=nothing"), dataset.ErrNotFound, []string{"nothing", "no volume is named"}},
		{create("db@snapshot-f23ca986", "from=f23ca987"), dataset.ErrInvalid, []string{"say one"}},
		{api.Request{Kind: dataset.OpClone, Volume: "db"}, dataset.ErrInvalid, []string{"a clone of what"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db@snapshot-f23ca986"}, dataset.ErrInvalid, []string{"import cannot be a clone"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: strings.Repeat("/x", 4000)}, dataset.ErrInvalid, []string{"8000 bytes"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "plugins"}, dataset.ErrInvalid, []string{`folder to import "plugins": the path is relative`}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "."}, dataset.ErrInvalid, []string{"the path is relative"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "../etc"}, dataset.ErrInvalid, []string{"the path is relative"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "/srv/../etc/"}, dataset.ErrInvalid, []string{`"/srv/../etc/": the path is not clean (say /etc)`}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "/srv\x00"}, dataset.ErrInvalid, []string{"a zero byte"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Live: true}, dataset.ErrInvalid, []string{"live is for the import of a folder"}},
		{api.Request{Kind: dataset.OpCreate, Volume: "db", Path: "/srv"}, dataset.ErrInvalid, []string{"a path is for import and rekey, and not for create"}},
		{api.Request{Kind: dataset.OpCreate, Volume: "db", Live: true}, dataset.ErrInvalid, []string{"live is for the import of a folder"}},
		{api.Request{Kind: dataset.OpRekey, Volume: "db", Path: "key.old"}, dataset.ErrInvalid, []string{`old key file "key.old": the path is relative`}},
		{api.Request{Kind: "frobnicate", Volume: "db"}, dataset.ErrInvalid, []string{`"frobnicate"`}},
		{api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: yes()}, dataset.ErrInvalid, []string{"submit it"}},
	} {
		a.planned(c.req, c.kind, c.parts...)
	}
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpImport, Volume: "db"}) // of an archive, which no submission carries
	refused(t, err, dataset.ErrInvalid, `import of volume "db": from which folder?`)
	if st := e.check(); len(st.datasets)+len(st.operations) != 0 {
		t.Errorf("refusals left %+v", st)
	}
}

// Design section 3: what is there is what was asked for, or the error names both.
func TestCreateOfWhatExists(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	op := a.plan(create("db@gold", "size=10GB", "label.a=1", "mode=0700"))
	op.Dataset.Size = 10000003072 // rounded up to blocks
	a.commit(op)
	a.create("ro", "readonly=true", "owner=1:2", "pool=plain")
	for _, same := range []api.Request{
		create("db"), create("db@gold"), create("db", "profile=gold"), create("db", "size=10GB"),
		create("db", "size=10000003072B"), create("db", "fs=xfs"), create("db", "pool=fast"), create("db", "label.a=1"),
		create("db@gold", "mode=700", "size=10GB"), create("ro", "readonly=true", "owner=1:2"), create("ro"),
		create("ro", "readonly=false", "protect=false"),
	} {
		p, err := e.Plan(e.ctx, a.id, same)
		if err != nil || p.Done == nil || p.Operation != nil {
			t.Errorf("%s %v: %+v, %v", same.Volume, same.Options, p, err)
		}
	}
	for _, c := range []struct {
		req   api.Request
		parts []string
	}{
		{create("db@silver"), []string{`"db"`, "gold", "silver"}},
		{create("db", "profile=silver"), []string{"gold", "silver"}},
		{create("db@glod"), []string{`exists with profile gold: unknown profile "glod"`, "have: "}},
		{create("db", "size=10GiB"), []string{"10GB", "10GiB"}},
		{create("db", "fs=ext4"), []string{"xfs", "ext4"}},
		{create("db", "pool=plain"), []string{"fast", "plain"}},
		{create("db", "readonly=true"), []string{"readonly"}},
		{create("db", "protect=true"), []string{"volume protect db"}},
		{create("db", "owner=5:5"), []string{"5:5"}},
		{create("ro", "owner=1:3"), []string{"1:3"}},
		{create("db", "mode=0755"), []string{"0755"}},
		{create("db", "label.a=2"), []string{"labels"}},
		{create("db", "label.a=1", "label.b=2"), []string{"labels"}},
		{create("db@snapshot-f23ca986"), []string{"not a clone of f23ca986"}},
		{create("ro", "fs=xfs"), []string{"the filesystem that its pool chose", "xfs"}},
		{api.Request{Kind: dataset.OpImport, Volume: "db", Path: "/srv"}, []string{"import makes a new one"}},
	} {
		a.planned(c.req, dataset.ErrExists, append(c.parts, "exists")...)
	}
	// A profile that was removed from the file is still a volume's own.
	delete(e.profiles.byName, "gold")
	if p, err := e.Plan(e.ctx, a.id, create("db@gold")); err != nil || p.Done == nil {
		t.Errorf("after the profile went: %+v, %v", p, err)
	}
}

func TestAnonymousVolumes(t *testing.T) {
	e := newEnv(t)
	e.profiles.byName["bronze"] = func() dataset.Profile {
		p := e.profiles.byName["bronze"]
		p.Snapshots.Schedule = "@hourly"
		return p
	}()
	a := e.agent("alpha")
	name := strings.Repeat("0123456789abcdef", 4)
	d := a.create(name)
	if !d.Anonymous || d.Profile.OnDelete.Mode != dataset.DeletePurge || d.Profile.Snapshots.Schedule != "" {
		t.Errorf("anonymous: %+v", d)
	}
	named := a.create("copy@snapshot-" + d.ID.String()[:8])
	if named.Anonymous || named.Profile.OnDelete.Mode != dataset.DeleteTrash || named.Profile.Snapshots.Schedule != "@hourly" {
		t.Errorf("a clone with a name has what its source goes without: %+v", named.Profile)
	}
	d = a.delete(name)
	if d.State != dataset.StatePurging {
		t.Errorf("deleted: %s", d.State)
	}
	a.purge(d)
	if st := e.check(); len(st.datasets) != 1 {
		t.Errorf("left: %+v", st.datasets)
	}
	for i, req := range []api.Request{create(name[:63] + "0@gold"), create(name[:63]+"1", "label.a=1"), create(name[:63])} {
		if d := a.plan(req).Dataset; d.Anonymous {
			t.Errorf("%d: %s is taken for anonymous", i, d.Volume)
		}
	}
}

// I5: one name, one dataset. Any number of concurrent identical creates make
// one, and all succeed; different ones are refused, naming both.
func TestI5OneNameOneDataset(t *testing.T) {
	e := newEnv(t)
	agents := []*agent{e.agent("alpha"), e.agent("beta")}
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
			d, err := createAsAgentsDo(agents[i/2%2], create(specs[i%2]))
			results[i] = result{d, err}
		})
	}
	close(start)
	all.Wait()
	st := e.check()
	if len(st.datasets) != 1 {
		t.Fatalf("%d datasets", len(st.datasets))
	}
	winner := e.volume("db").Dataset
	for i, r := range results {
		if specs[i%2] == "db@"+winner.Profile.Name {
			if r.err != nil || r.d.ID != winner.ID {
				t.Errorf("%d: %s: %v, %v", i, specs[i%2], r.d.ID, r.err)
			}
			continue
		}
		refused(t, r.err, dataset.ErrExists, "gold", "silver")
	}
}

// createAsAgentsDo plans, makes and commits, and looks again when it lost.
func createAsAgentsDo(a *agent, req api.Request) (dataset.Dataset, error) {
	for {
		p, err := a.Plan(a.ctx, a.id, req)
		if err != nil {
			return dataset.Dataset{}, err
		}
		if p.Done != nil {
			return *p.Done, nil
		}
		out, err := a.Commit(a.ctx, a.id, a.report(*p.Operation))
		if err != nil {
			return dataset.Dataset{}, err
		}
		if !out.Lost {
			return *out.Dataset, nil
		}
	}
}

// namesTheVolume checks that an operation which is done names the dataset that there is, in its record
// and in the answer to the same request, asked again.
func (a *agent) namesTheVolume(op dataset.Operation, req api.Request, id uuid.UUID) {
	a.Helper()
	if op.DatasetID != id || op.Dataset == nil || op.Dataset.ID != id {
		a.Errorf("operation %s is done and names dataset %s, and %+v: want %s", op.ID, op.DatasetID, op.Dataset, id)
	}
	req.ID = op.ID
	if out := a.submit(req); out.Volume == nil || out.Volume.ID != id {
		a.Errorf("operation %s, asked for again, answers volume %+v", op.ID, out.Volume)
	}
}

// The same through operations on record: those that lost end as what was asked
// for says, and what they made is to be taken back.
func TestI5OnRecord(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	var ops []dataset.Operation
	reqs := []api.Request{
		create("db@gold", "label.a=1"), create("db"), create("db@gold"), create("db@silver"), create("db", "label.a=2"),
		{Kind: dataset.OpImport, Volume: "db", Path: "/srv"},
	}
	for _, req := range reqs {
		ops = append(ops, *e.submit(req).Operation)
	}
	ends := []dataset.OpState{dataset.OpDone, dataset.OpDone, dataset.OpDone, dataset.OpFailed, dataset.OpFailed, dataset.OpFailed}
	for round := range 2 {
		for i, op := range ops {
			out, err := a.Commit(a.ctx, a.id, a.report(op))
			if round == 1 && ends[i] == dataset.OpFailed {
				refused(t, err, dataset.ErrConflict)
				continue
			}
			if err != nil || out.Lost != (i > 0) || out.Dataset.ID != ops[0].DatasetID {
				t.Errorf("round %d, %d: %+v, %v", round, i, out, err)
			}
			got, err := e.Operation(e.ctx, op.ID.String(), 0)
			if err != nil || got.State != ends[i] {
				t.Errorf("%d ended as %s, %+v, %v", i, got.State, got.Problem, err)
			}
			if got.State == dataset.OpDone {
				a.namesTheVolume(got, reqs[i], ops[0].DatasetID)
			}
			if ends[i] == dataset.OpFailed {
				refused(t, got.Problem.Err(), dataset.ErrExists, "exists")
			}
		}
	}
	if st := e.check(); len(st.datasets) != 1 {
		t.Errorf("%d datasets", len(st.datasets))
	}
	// The winner's name goes: a lost report that comes again must not seem to have won.
	a.delete("db")
	_, err := a.Commit(a.ctx, a.id, a.report(ops[1]))
	refused(t, err, dataset.ErrConflict, "deleted meanwhile")
}

func TestCreateCommitsLittle(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("warm-up@gold")
	e.spy.counted()
	for i := range 5 {
		op := a.plan(create(fmt.Sprintf("db%d@gold", i)))
		reads, txns, _ := e.spy.counted()
		if reads > 4 || txns != 0 { // the name, the node, its two pools
			t.Errorf("a plan costs %d reads and %d transactions", reads, txns)
		}
		a.commit(op)
		reads, txns, keys := e.spy.counted()
		if reads > 4 || txns != 1 || keys != 5 { // the node, the operation, the dataset, the name
			t.Errorf("a commit costs %d reads, %d transactions of %d keys", reads, txns, keys)
		}
	}
	e.clock.Advance(time.Second)
	if _, err := e.Volume(e.ctx, "db3"); err != nil || errors.Is(err, errAway) {
		t.Error(err)
	}
}
