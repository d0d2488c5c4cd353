package controltest

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// LostHome is a cluster whose volume db has its home on Alpha and copies on Beta and Gamma.
type LostHome struct {
	*Control
	Replicas           *Replicas
	Alpha, Beta, Gamma *Agent
	Others             []*Agent
	Dataset            dataset.Dataset
}

// NewLostHome returns the cluster with all nodes alive.
func NewLostHome(t *testing.T, services int) *LostHome {
	t.Helper()
	x := NewReplicas(t, services)
	e := x.On(x.Services[0])
	AddAutoFailover(x.Profiles, 2)
	l := &LostHome{
		Control:  e,
		Replicas: x,
		Alpha:    e.NewAgent("alpha"),
		Beta:     e.NewAgent("beta"),
		Gamma:    e.NewAgent("gamma"),
	}
	for _, a := range []*Agent{l.Alpha, l.Beta, l.Gamma} {
		a.ReportGuard()
	}
	l.Dataset = l.Alpha.MustCreate("db@auto")
	l.Beta.ReportCurrentCopy(l.Dataset, Start.Add(-10*time.Second), Start.Add(-5*time.Second))
	l.Gamma.ReportCurrentCopy(l.Dataset, Start.Add(-20*time.Second), Start.Add(-5*time.Second))
	return l
}

// AskFailover asks a service for a failover, as the agent of a node does.
func (l *LostHome) AskFailover(s *control.Service, node string) (*dataset.Operation, error) {
	out, err := s.Submit(l.Ctx, api.Request{Kind: dataset.OpMove, Volume: "db", Node: node, Failover: true})
	return out.Operation, err
}

// Wait lets time pass in which the given agents renew their sessions.
func (l *LostHome) Wait(d time.Duration, alive ...*Agent) {
	l.Helper()
	for d > 0 {
		step := min(d, l.Timing.Session/4)
		l.Clock.Advance(step)
		d -= step
		for _, a := range alive {
			if _, err := l.Renew(l.Ctx, a.ID, a.Incarnation); err != nil {
				l.Fatalf("%v", err)
			}
		}
	}
}

// RestartAgent restarts an agent whose session has ended.
func (l *LostHome) RestartAgent(a *Agent, name string) {
	l.Helper()
	a.Incarnation = uuid.New()
	a.MustRegister(name)
	l.ForgetSession(a.ID)
}

// MustFailOver ends the session of Alpha, and begins a failover once the loss is certain.
func (l *LostHome) MustFailOver() dataset.Operation {
	l.Helper()
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	Refused(l.T(), err, dataset.ErrPending, "is unreachable", "alpha")
	l.Wait(l.Timing.Session, append(l.Others, l.Beta, l.Gamma)...)
	op, err := l.AskFailover(l.Service, "beta")
	if err != nil || op == nil {
		l.Fatalf("failover: got %+v, %v, want an operation", op, err)
	}
	return *op
}

// T returns the test.
func (l *LostHome) T() *testing.T { return l.Replicas.T }
