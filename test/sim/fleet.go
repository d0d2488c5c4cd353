// Package sim runs agents by the thousand against real control replicas: over HTTP and
// TLS, each with a certificate of its own, with storage that does nothing. They ask what
// an agent asks, in the order in which it does.
package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
)

// Beat is how often an agent says that it lives.
const Beat = 2 * time.Second

// Fleet is some agents that follow control until the test ends.
type Fleet struct {
	Agents []*Agent

	stop context.CancelFunc
	done sync.WaitGroup
}

// Agent is one of them.
type Agent struct {
	Node, Incarnation, Pool uuid.UUID
	Name                    string
	Client                  *api.Client

	mu    sync.Mutex
	wrong error // the first thing that went wrong in the background
	syncs int
}

// Start registers so many agents with control at these addresses, and has them follow it.
func Start(t testing.TB, ca *pki.Authority, control []string, n int) *Fleet {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	f := &Fleet{stop: stop}
	t.Cleanup(f.Stop)
	for i := range n {
		// Each begins with another replica, as the lists of real hosts do.
		turned := append(append([]string(nil), control[i%len(control):]...), control[:i%len(control)]...)
		a, err := newAgent(ca, turned, fmt.Sprintf("sim-%04d", i))
		if err != nil {
			t.Fatal(err)
		}
		f.Agents = append(f.Agents, a)
	}
	if err := f.Each(func(a *Agent) error {
		rev, err := a.join(ctx)
		if err == nil {
			f.done.Go(func() { a.follow(ctx, rev) })
			f.done.Go(func() { a.beat(ctx) })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return f
}

// Stop ends what they do in the background, and waits for that. Again: nothing.
func (f *Fleet) Stop() {
	f.stop()
	f.done.Wait()
	for _, a := range f.Agents {
		a.Client.Close()
	}
}

// Each does something with all of them at once.
func (f *Fleet) Each(do func(*Agent) error) error {
	errs := make([]error, len(f.Agents))
	var all sync.WaitGroup
	for i, a := range f.Agents {
		all.Go(func() { errs[i] = do(a) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Wrong is what went wrong in the background; nil when nothing did.
func (f *Fleet) Wrong() error {
	var errs []error
	for _, a := range f.Agents {
		a.mu.Lock()
		errs = append(errs, a.wrong)
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}

func newAgent(ca *pki.Authority, control []string, name string) (*Agent, error) {
	a := &Agent{Node: uuid.New(), Incarnation: uuid.New(), Pool: uuid.New(), Name: name}
	pair, err := ca.Issue(pki.Identity{Cluster: ca.Cluster(), Kind: pki.Node, Node: a.Node, Name: name}, time.Now())
	if err != nil {
		return nil, err
	}
	config := pki.NewCredentials(pair, clock.System{}, nil).Client(pki.Control)
	a.Client, err = api.NewTLSClient("https://"+strings.Join(control, ",https://"), config)
	return a, err
}

func (a *Agent) join(ctx context.Context) (rev uint64, err error) {
	caps := dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true,
		Delta: true, Filesystems: []string{"xfs"},
	}
	err = a.Client.Register(ctx, api.Registration{
		Node:  dataset.Node{ID: a.Node, Name: a.Name, Incarnation: a.Incarnation, Version: "dev"},
		Pools: []dataset.Pool{{ID: a.Pool, Name: "default", Node: a.Node, Backend: "loop", Path: "/pool", Reach: dataset.ReachNode, Capabilities: caps}},
	})
	if err != nil {
		return 0, fmt.Errorf("%s registers: %w", a.Name, err)
	}
	s, err := a.Client.Sync(ctx, a.Node, 0, 0)
	return s.Rev, err
}

func (a *Agent) follow(ctx context.Context, rev uint64) {
	for ctx.Err() == nil {
		s, err := a.Client.Sync(ctx, a.Node, rev, 25*time.Second)
		if err != nil {
			a.failed(ctx, err)
			continue
		}
		rev = s.Rev
		a.mu.Lock()
		a.syncs++
		a.mu.Unlock()
	}
}

func (a *Agent) beat(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(Beat):
		}
		a.failed(ctx, a.tell(ctx))
	}
}

// tell is a heartbeat, with what is seen of some datasets.
func (a *Agent) tell(ctx context.Context, seen ...dataset.DatasetStatus) error {
	return a.Client.Heartbeat(ctx, a.Node, api.Heartbeat{
		Incarnation: a.Incarnation, Datasets: seen,
		Pools: []dataset.PoolStatus{{ID: a.Pool, Online: true, Size: dataset.TiB, Free: dataset.TiB}},
	})
}

func (a *Agent) failed(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wrong == nil {
		a.wrong = fmt.Errorf("%s: %w", a.Name, err)
	}
}

// Create makes a volume as a Docker engine would have it made: it is leased with it.
func (a *Agent) Create(ctx context.Context, name string) (dataset.Dataset, error) {
	p, err := a.Client.Plan(ctx, a.Node, api.Request{ID: uuid.New(), Kind: dataset.OpCreate, Volume: name, Engine: true})
	if err != nil {
		return dataset.Dataset{}, fmt.Errorf("%s plans %s: %w", a.Name, name, err)
	}
	op := *p.Operation
	op.Incarnation = a.Incarnation
	out, err := a.Client.Commit(ctx, a.Node, api.Report{Incarnation: a.Incarnation, Operation: op})
	if err != nil {
		return dataset.Dataset{}, fmt.Errorf("%s commits %s: %w", a.Name, name, err)
	}
	if out.Lost {
		return dataset.Dataset{}, fmt.Errorf("%s: %s was made by somebody else", a.Name, name)
	}
	return *out.Dataset, nil
}

// Fill makes volumes and mounts them, one after another as a host's engine does: a mount
// asks nobody, and control hears of it.
func (a *Agent) Fill(ctx context.Context, volumes int) error {
	var seen []dataset.DatasetStatus
	for i := range volumes {
		d, err := a.Create(ctx, fmt.Sprintf("%s-%02d", a.Name, i))
		if err != nil {
			return err
		}
		use := dataset.Mount{ID: uuid.NewString(), Count: 1, Since: time.Now()}
		seen = append(seen, dataset.DatasetStatus{ID: d.ID, Mounted: true, Mounts: []dataset.Mount{use}})
	}
	return a.tell(ctx, seen...)
}
