package controltest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// LastCopy is a volume that moved from Left to Home two days ago, with a copy on Replica. The first service has
// received all reports about this. SecondService is another service on the same store, which has received none of them.
type LastCopy struct {
	*Replicas
	SecondService       *Control
	Left, Home, Replica *Agent
	Dataset             dataset.Dataset
}

// NewLastCopy makes the volume db, and lets the time pass after which the copy of a former home expires.
func NewLastCopy(t *testing.T) *LastCopy {
	x := NewReplicas(t, 2)
	e := x.On(x.Services[0])
	l := &LastCopy{
		Replicas:      x,
		SecondService: x.On(x.Services[1]),
		Left:          e.NewAgent("alpha"),
		Home:          e.NewAgent("beta"),
		Replica:       e.NewAgent("gamma"),
	}
	l.Left.MustCreate("db@silver")
	l.Dataset = e.MustMove("db", l.Left, l.Home, "beta")
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		d, err := t.Dataset(l.Dataset.ID)
		c := dataset.Copy{
			Dataset: d.ID, Node: l.Replica.ID, Pool: l.Replica.LocalPools[0].ID, Kind: dataset.CopyReplica,
			Epoch: d.Epoch, Snapshot: uuid.New(), Taken: Start,
		}
		return errors.Join(err, record.PutCopy(t, &d, c))
	}); err != nil {
		t.Fatal(err)
	}
	l.Wait(2 * placement.LeftCopyRetention)
	return l
}

// Restart restarts an agent. It reports to SecondService afterwards.
func (l *LastCopy) Restart(a *Agent, name string) {
	l.Helper()
	a.Incarnation = uuid.New()
	a.MustRegister(name)
	a.Control = l.SecondService
}

// EditCopy changes the record of the copy on a node and the record of the node. It also sets the number of replicas in
// the profile of the volume to one.
func (l *LastCopy) EditCopy(a *Agent, change func(*dataset.Copy, *dataset.Node)) {
	l.Helper()
	if _, err := l.SecondService.Ledger.Update(l.Context(), func(t *record.Tx) error {
		d, err := t.Dataset(l.Dataset.ID)
		var c dataset.Copy
		var n dataset.Node
		_, cerr := t.Get(record.CopyKey(a.ID, l.Dataset.ID), &c)
		_, nerr := t.Get(record.NodeKey(a.ID), &n)
		change(&c, &n)
		d.Profile.Replicas.Count = 1
		return errors.Join(err, cerr, nerr, record.PutCopy(t, &d, c), t.Put(record.NodeKey(a.ID), n))
	}); err != nil {
		l.Fatal(err)
	}
}

// RestartHome restarts the home, through the service that has received all reports.
func (l *LastCopy) RestartHome() {
	l.Helper()
	l.EndHome()
	l.Home.Control = l.Left.Control
	l.Home.Incarnation = uuid.New()
	l.Home.MustRegister("beta")
	l.Home.ForgetSession(l.Home.ID)
	l.Home.Control = l.SecondService
}

// Wait ends the session of the home, lets time pass, and restarts the home.
func (l *LastCopy) Wait(d time.Duration) {
	l.Helper()
	l.EndHome()
	l.SecondService.AdvanceClock(d)
	l.RestartHome()
}

// EndHome ends the session of the home.
func (l *LastCopy) EndHome() {
	l.Helper()
	l.Home.Control = l.Left.Control
	l.EndSession(l.Home)
	l.Home.Control = l.SecondService
}

// Purge deletes the volume for good, as a user does.
func (l *LastCopy) Purge() {
	l.Helper()
	l.Home.MustDelete("db")
	l.SecondService.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: l.Dataset.ID.String()})
}

// ReportHomePool reports the pool of the home, to SecondService.
func (l *LastCopy) ReportHomePool(online bool, why string) {
	l.Helper()
	l.Home.ReportPool(dataset.PoolStatus{
		ID: l.Dataset.Pool, Online: online, Quarantined: !online && why != "gone", Reason: why,
	})
}

// ReportHomeWell reports that the home can open the volume, to SecondService.
func (l *LastCopy) ReportHomeWell() {
	l.Helper()
	l.ReportHomePool(true, "")
	l.Home.ReportOpen(l.Dataset, "")
}
