package control_test

import (
	"context"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

// power is what a request, or one of its fields, lets its sender do beyond the name of the operation.
type power string

const (
	vouches  power = "vouches"  // it says that a node writes no more, so that a second writer may begin
	destroys power = "destroys" // data, or a protection of data, is gone
	reads    power = "reads"    // all of a volume can be read afterwards by the sender
	hostFile power = "host"     // it names any file of a host, which root of that host then reads
)

// fieldPowers has a row for every field of a request. A new field needs a row here, and, if it has a
// power, a row in submissions that sets it.
var fieldPowers = map[string][]power{
	"ID": nil, "Kind": nil, "Volume": nil, "Options": nil, "Snapshot": nil, "Name": nil, "Message": nil,
	"Size": nil, "Profile": nil, "Live": nil, "Engine": nil, "Node": nil, "Ref": nil, "Labels": nil, "RequestID": nil,
	"Protect":   {destroys}, // it takes a protection away
	"Scheduled": {destroys}, // retention removes older snapshots for it
	"Path":      {hostFile}, // for an import, or the old key for a rekey
	"DryRun":    nil,
	// A recorded repository, which an admin has added. A backup in it can be restored by each who may clone a volume.
	"Repository": nil, "Backup": nil, "KeptApart": nil,
	"TakeOver": nil,                 // it only resumes the scheduled backups of the volume's profile
	"Check":    nil,                 // a program that root of the node has put below /etc/drover/checks
	"Version":  nil,                 // the agent that restores the backup compares them
	"Force":    {destroys, vouches}, // of protected volumes; with Fenced it does not need the home
	"Fenced":   {vouches},
	"Failover": nil, // control itself checks whether the home is lost
}

// powersCluster has a volume of each state that a request can be about. Node beta is away.
type powersCluster struct {
	*controltest.Control
	alpha, beta, gamma *controltest.Agent
	trashed            dataset.Dataset
}

func newPowersWorld(t *testing.T) *powersCluster {
	t.Helper()
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	controltest.KeyAt(e, "sealed", dataset.KeySource{KeyFile: "/keys/one"})
	w := &powersCluster{Control: e, alpha: e.NewAgent("alpha"), beta: e.NewAgent("beta"), gamma: e.NewAgent("gamma")}
	for name, a := range map[string]*controltest.Agent{"alpha": w.alpha, "beta": w.beta, "gamma": w.gamma} {
		a.LocalPools[0].Capabilities.Encryption = true
		a.MustRegister(name)
	}
	for _, name := range []string{"lost", "split"} {
		w.alpha.MustCreate(name + "@gold")
		e.MustMove(name, w.alpha, w.beta, "beta")
	}
	w.alpha.MustCreate("mine@silver")
	w.alpha.MustSnapshot("mine", "before")
	w.alpha.MustCreate("former@silver", "protect=true")
	w.MustSubmit(api.Request{Kind: dataset.OpRename, Volume: "former", Name: "kept"})
	w.alpha.MustSeal(controltest.Create("secret@sealed"), controltest.WrappedBy(uuid.New(), "1"))
	controltest.AddRepository(e, "offsite")
	w.alpha.MustCreate("gone@silver")
	w.trashed = w.alpha.MustDelete("gone")
	x.EndSession(w.beta)
	w.Clock.Advance(time.Second)
	e.OK(e.RecordUnreachable(e.Ctx))
	w.alpha.MustCommit(*e.MustSubmit(controltest.ForcedMove("split", "alpha", "beta")).Operation) // beta keeps a superseded head
	return w
}

// newReturnedWorld is newPowersWorld after node beta came back.
func newReturnedWorld(t *testing.T) *powersCluster {
	w := newPowersWorld(t)
	w.beta.Incarnation = uuid.New()
	w.beta.MustRegister("beta")
	w.ForgetSession(w.beta.ID)
	return w
}

// newLostWorld has a volume that fails over by itself, whose home has been away for long enough.
func newLostWorld(t *testing.T) *powersCluster {
	l := controltest.NewLostHome(t, 1)
	l.Replicas.EndSession(l.Alpha)
	if _, err := l.AskFailover(l.Service, "beta"); dataset.KindOf(err) != dataset.ErrPending {
		t.Fatal(err)
	}
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	return &powersCluster{Control: l.Control, alpha: l.Beta, beta: l.Alpha, gamma: l.Gamma}
}

// submission is one request, its powers, and who may make it: "worker" and "admin" are operators with these roles,
// "own" is the node that carries it out, and "other" is a node that has no part in it.
type submission struct {
	name   string
	req    api.Request
	powers []power
	may    string
	world  func(*testing.T) *powersCluster // nil: newPowersWorld
}

const (
	people   = "worker admin"
	everyone = "worker admin own"
)

func submissions() []submission {
	on := func(kind dataset.OpKind, volume string) api.Request { return api.Request{Kind: kind, Volume: volume} }
	with := func(req api.Request, change func(*api.Request)) api.Request { change(&req); return req }
	return []submission{
		{name: "create", req: controltest.Create("new@silver"), may: everyone + " other"},
		{name: "create for an engine", req: with(controltest.Create("new@silver"), func(r *api.Request) { r.Engine = true }), may: everyone + " other"},
		{name: "clone", req: api.Request{Kind: dataset.OpClone, Volume: "new", Options: map[string]string{"from": "mine"}}, powers: []power{reads}, may: everyone + " other"},
		{name: "import", req: api.Request{Kind: dataset.OpImport, Volume: "new@silver", Path: "/etc"}, powers: []power{hostFile}, may: "admin own other"},
		{name: "restore a backup", req: api.Request{Kind: dataset.OpImport, Volume: "new@silver", Repository: "offsite", Backup: strings.Repeat("0f", 32)}, powers: []power{reads}, may: everyone + " other"},
		{name: "snapshot", req: on(dataset.OpSnapshot, "mine"), may: everyone},
		{name: "snapshot for the schedule", req: api.Request{Kind: dataset.OpSnapshot, Volume: "mine", Scheduled: true}, powers: []power{destroys}, may: everyone},
		{name: "snapshot rm", req: api.Request{Kind: dataset.OpSnapshotDelete, Volume: "mine", Snapshot: "before"}, powers: []power{destroys}, may: everyone},
		{name: "restore", req: api.Request{Kind: dataset.OpRestore, Volume: "mine", Snapshot: "before"}, powers: []power{destroys}, may: everyone},
		{name: "resize", req: api.Request{Kind: dataset.OpResize, Volume: "mine", Size: "20GiB"}, may: everyone},
		{name: "rekey", req: controltest.Rekey("secret"), may: everyone},
		{name: "rekey with an old key", req: api.Request{Kind: dataset.OpRekey, Volume: "secret", Path: "/keys/old"}, powers: []power{hostFile}, may: "admin own"},
		{name: "backup", req: api.Request{Kind: dataset.OpBackup, Volume: "mine", Repository: "offsite"}, may: everyone},
		{name: "push", req: api.Request{Kind: dataset.OpPush, Volume: "mine", Repository: "offsite"}, may: everyone},
		{name: "verify a backup", req: api.Request{Kind: dataset.OpVerify, Volume: "mine@silver", Repository: "offsite", Backup: strings.Repeat("0f", 32)}, powers: []power{reads}, may: everyone + " other"},
		{name: "set-profile", req: api.Request{Kind: dataset.OpUpdate, Volume: "mine", Profile: "kept"}, may: everyone},
		{name: "rename", req: api.Request{Kind: dataset.OpRename, Volume: "mine", Name: "new"}, may: everyone},
		{name: "drop-alias", req: api.Request{Kind: dataset.OpDropAlias, Volume: "kept", Name: "former"}, may: everyone},
		{name: "unprotect", req: api.Request{Kind: dataset.OpUpdate, Volume: "kept", Protect: controltest.No()}, powers: []power{destroys}, may: everyone},
		{name: "delete", req: on(dataset.OpDelete, "mine"), powers: []power{destroys}, may: everyone},
		{name: "delete what is protected", req: api.Request{Kind: dataset.OpDelete, Volume: "kept", Force: true}, powers: []power{destroys}, may: everyone},
		{name: "delete without the home", req: api.Request{Kind: dataset.OpDelete, Volume: "lost", Force: true, Fenced: "beta"}, powers: []power{destroys, vouches}, may: "admin"},
		{name: "undelete", req: on(dataset.OpUndelete, "gone"), may: everyone},
		{name: "purge", req: on(dataset.OpPurge, "gone"), powers: []power{destroys}, may: everyone},
		{name: "move", req: controltest.Move("mine", "gamma"), powers: []power{reads}, may: everyone + " other"},
		{name: "move without the home", req: controltest.ForcedMove("lost", "alpha", "beta"), powers: []power{vouches}, may: "admin"},
		{name: "failover", req: api.Request{Kind: dataset.OpMove, Volume: "db", Node: "beta", Failover: true}, may: everyone + " other", world: newLostWorld},
		{name: "discard", req: on(dataset.OpDiscard, "split"), powers: []power{destroys}, may: everyone},
		{name: "show", req: on(dataset.OpShow, "split"), powers: []power{reads}, may: everyone, world: newReturnedWorld},
		{name: "hide", req: on(dataset.OpHide, "split"), may: everyone},
	}
}

// Each kind of request, with each field that has a power, is tried by every kind of caller that a certificate can
// name. Only an admin may confirm that a node does not write any more, or name a file of a host.
func TestI1WhoMaySubmitWhat(t *testing.T) {
	for _, c := range submissions() {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			build := c.world
			if build == nil {
				build = newPowersWorld
			}
			may := strings.Fields(c.may)
			if slices.Contains(c.powers, vouches) && c.may != "admin" {
				t.Errorf("it confirms a fence, and %s may", c.may)
			}
			if slices.Contains(c.powers, hostFile) && slices.Contains(may, "worker") {
				t.Error("it names a file of a host, and an operator who is no admin may")
			}
			w := build(t)
			everybody := w.principals()
			for who, ctx := range everybody {
				if slices.Contains(may, who) {
					continue
				}
				if _, err := w.Submit(ctx, c.req); dataset.KindOf(err) != dataset.ErrForbidden {
					t.Errorf("%s: %v", who, err)
				}
			}
			for i, who := range may {
				if i > 0 {
					w = build(t)
				}
				if out, err := w.Submit(w.principals()[who], c.req); err != nil || out.Operation == nil {
					t.Errorf("%s: %+v, %v", who, out, err)
				}
			}
		})
	}
}

func (w *powersCluster) principals() map[string]context.Context {
	operator := func(role pki.Role) context.Context {
		return controltest.As(pki.Identity{Kind: pki.Operator, Role: role, Name: "bob"})
	}
	return map[string]context.Context{
		"worker": operator(pki.Worker), "admin": operator(pki.Admin),
		"own": controltest.As(controltest.NodeIdentity("alpha", w.alpha.ID)), "other": controltest.As(controltest.NodeIdentity("gamma", w.gamma.ID)),
	}
}

// A new kind of operation, or a new field of a request, needs a row in the tables above.
func TestEveryKindAndFieldHasARow(t *testing.T) {
	kinds, set := map[dataset.OpKind]bool{}, map[string]bool{}
	byPower := map[power]bool{}
	for _, c := range submissions() {
		kinds[c.req.Kind] = true
		v := reflect.ValueOf(c.req)
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				set[v.Type().Field(i).Name] = true
			}
		}
		for _, p := range c.powers {
			byPower[p] = true
		}
	}
	for _, k := range operationKinds(t) {
		if !kinds[k] {
			t.Errorf("operation kind %q has no row in submissions", k)
		}
	}
	request := reflect.TypeFor[api.Request]()
	for i := range request.NumField() {
		name := request.Field(i).Name
		powers, known := fieldPowers[name]
		if !known {
			t.Errorf("field %s of a request has no row in fieldPowers", name)
		}
		if len(powers) > 0 && !set[name] {
			t.Errorf("field %s has the powers %v, and no row in submissions sets it", name, powers)
		}
	}
	if request.NumField() != len(fieldPowers) {
		t.Errorf("fieldPowers has %v, a request %d fields", slices.Sorted(maps.Keys(fieldPowers)), request.NumField())
	}
	for _, p := range []power{vouches, destroys, reads, hostFile} {
		if !byPower[p] {
			t.Errorf("no row in submissions %s", p)
		}
	}
}

// operationKinds reads the constants of type OpKind from their source, as reflection cannot list them.
func operationKinds(t *testing.T) (kinds []dataset.OpKind) {
	t.Helper()
	file, err := parser.ParseFile(gotoken.NewFileSet(), "../dataset/operation.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "OpKind" {
			return true
		}
		for _, v := range spec.Values {
			value, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			require.NoError(t, err)
			kinds = append(kinds, dataset.OpKind(value))
		}
		return true
	})
	if len(kinds) < 17 {
		t.Fatalf("found only %d kinds of operations: %v", len(kinds), kinds)
	}
	return kinds
}
