package planning_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// copiesOf returns the kinds of the copies of a volume by the names of their nodes.
func copiesOf(e *controltest.Control, volume string) map[string]dataset.CopyKind {
	e.Helper()
	out := map[string]dataset.CopyKind{}
	for _, k := range e.MustVolume(volume).CopyDetails {
		out[k.NodeName] = k.Kind
	}
	e.CheckInvariants()
	return out
}

func setProfile(profile string) api.Request {
	return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: profile}
}

// TestSetProfileAddsAndRemovesReplicas: a volume gets replicas with its profile. They are empty until their nodes have
// copied the data, and nothing continues from an empty one. A profile without replicas removes them, but not before
// the home reports that it is well.
func TestSetProfileAddsAndRemovesReplicas(t *testing.T) {
	for name, size := range map[string]dataset.Size{"same size": 10 * dataset.GiB, "larger": 20 * dataset.GiB} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			e.AddReplicaProfile(1)
			p := e.ProfileSet.ByName["safe"]
			p.Size = size
			e.ProfileSet.ByName["safe"] = p
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			d := a.MustCreate("db@silver")
			e.MustSubmit(setProfile("safe"))
			a.DoWork() // the resize, if there is one
			v := e.MustVolume("db")
			if v.Profile.Name != "safe" || v.Home != a.ID || v.Epoch != d.Epoch || v.Size != size {
				t.Errorf("%+v", v.Dataset)
			}
			if got := copiesOf(e, "db"); len(got) != 1 || got["beta"] != dataset.CopyReplica {
				t.Fatalf("copies: %v", got)
			}
			_, err := e.Submit(e.Ctx, controltest.ForcedMove("db", "beta", "alpha"))
			controltest.Refused(t, err, dataset.ErrNotFound, "complete copy")
			b.ReportCopyTaken(d, controltest.Start)
			if k := e.MustVolume("db").CopyDetails[0]; k.Snapshot == uuid.Nil {
				t.Errorf("reported as complete: %+v", k)
			}

			a.ReportOpen(d, "it is not in the pool")
			e.MustSubmit(setProfile("silver"))
			if got := copiesOf(e, "db"); got["beta"] != dataset.CopyReplica {
				t.Errorf("the home cannot open the volume, and the replica is %v", got)
			}
			a.ReportOpen(d, "")
			if err := e.CopyKeeper.Maintain(e.Ctx, e.MustVolume("db").Dataset); err != nil {
				t.Fatal(err)
			}
			if got := copiesOf(e, "db"); got["beta"] != dataset.CopyCondemned {
				t.Errorf("the home is well, and the replica is %v", got)
			}
			if v := e.MustVolume("db"); v.Home != a.ID || v.State != dataset.StateReady {
				t.Errorf("%+v", v.Dataset)
			}
			// The node is about to destroy its copy, so it can have a replica again soon.
			e.MustSubmit(setProfile("safe"))
			if err := b.ReportCopy(e.Ctx, b.ID, api.CopyReport{
				Incarnation: b.Incarnation, Removed: true, Copy: dataset.Copy{Dataset: d.ID, Node: b.ID},
			}); err != nil {
				t.Fatal(err)
			}
			e.Round()
			if got := copiesOf(e, "db"); got["beta"] != dataset.CopyReplica {
				t.Errorf("replicas again: %v", got)
			}
		})
	}
}

// TestSetProfileWithTooFewNodes: a profile with replicas is refused if too few other nodes can have one. The error says
// why each of them cannot.
func TestSetProfileWithTooFewNodes(t *testing.T) {
	put := func(kind dataset.CopyKind) func(*controltest.Control, *controltest.Agent, dataset.Dataset) {
		return func(e *controltest.Control, b *controltest.Agent, d dataset.Dataset) {
			if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
				d, err := t.Dataset(d.ID)
				return errors.Join(err, record.PutCopy(t, &d, dataset.Copy{
					Dataset: d.ID, Node: b.ID, Pool: b.LocalPools[0].ID, Kind: kind, Epoch: 1, Snapshot: uuid.New(),
					Taken: controltest.Start,
				}))
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	cordon := func(e *controltest.Control, b *controltest.Agent, _ dataset.Dataset) {
		e.EditNode(b, func(n *dataset.Node) { n.Cordoned = true })
	}
	type prepare = func(*controltest.Control, *controltest.Agent, dataset.Dataset)
	for name, c := range map[string]struct {
		prepare []prepare
		refused []string // parts of the error; none: accepted
	}{
		"node without a copy":        {},
		"node with what a move left": {prepare: []prepare{put(dataset.CopyLeft)}},
		"node destroys its copy":     {prepare: []prepare{put(dataset.CopyCondemned)}},
		"cordoned":                   {[]prepare{cordon}, []string{"pool fast of node beta: its node is cordoned"}},
		"cordoned, with what a move left": {
			[]prepare{put(dataset.CopyLeft), cordon}, []string{"node beta is cordoned (drover node cordon --off beta)"},
		},
		"superseded copy": {
			[]prepare{put(dataset.CopySuperseded)},
			[]string{"node beta keeps a superseded copy (drover copy ls)"},
		},
		"pool offline": {
			[]prepare{func(_ *controltest.Control, b *controltest.Agent, _ dataset.Dataset) { b.ReportOnline(false) }},
			[]string{"it is offline"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			e.AddReplicaProfile(1)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			d := a.MustCreate("db@silver")
			for _, f := range c.prepare {
				f(e, b, d)
			}
			_, err := e.Submit(e.Ctx, setProfile("safe"))
			if len(c.refused) > 0 {
				controltest.Refused(t, err, dataset.ErrUnsupported, append(c.refused,
					"volume db: profile safe requires replicas on more nodes than can have one")...)
				if v := e.MustVolume("db"); v.Profile.Name != "silver" {
					t.Errorf("refused, and the profile is %s", v.Profile.Name)
				}
			} else if err != nil {
				t.Errorf("%v", err)
			}
			e.CheckInvariants()
		})
	}
}

// TestSetProfileWithOneNode: a single node cannot have replicas.
func TestSetProfileWithOneNode(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	e.NewAgent("alpha").MustCreate("db@silver")
	_, err := e.Submit(e.Ctx, setProfile("safe"))
	controltest.Refused(t, err, dataset.ErrUnsupported, "there is no other node")
	e.CheckInvariants()
}
