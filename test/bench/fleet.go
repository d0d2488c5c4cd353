package bench

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
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

// How often an agent sends requests by itself, as package agent does: renewals, to one replica after the other;
// heartbeats, to each replica; and changes, soon after they happened.
const (
	renewEvery  = 2 * time.Second
	beatEvery   = 10 * time.Second
	settleTime  = 50 * time.Millisecond
	syncPatient = 25 * time.Second
	// session is how long a node may miss renewals before it counts as unreachable. One answer that is late on a
	// busy machine must not be enough.
	session = 10 * time.Second
)

// Fleet is a number of agents that follow control until the test ends. Each has its own certificate, and storage that
// does nothing. The agents send the same requests as real ones, in the same order, over HTTP and TLS.
type Fleet struct {
	Agents []*Agent

	stop context.CancelFunc
	done sync.WaitGroup
}

// Agent is one agent of a fleet.
type Agent struct {
	Node, Incarnation, Pool uuid.UUID
	Name                    string
	Client                  *client.Client

	replicas []*client.Client // one client for each replica
	beats    chan struct{}    // receives a value if there is something to report

	mu       sync.Mutex
	asked    Asked
	failures map[string]error // the first background error of each kind of request
	pending  []dataset.DatasetStatus
	reported []bool // whether each replica has received a report
}

// Asked counts the requests of agents.
type Asked struct{ Changes, Syncs, Renewals int64 }

// count counts a request.
func (a *Agent) count(kind func(*Asked) *int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*kind(&a.asked)++
}

// startFleet registers n agents with control at these addresses, and lets them follow it.
func startFleet(t testing.TB, ca *pki.Authority, control []string, n int) *Fleet {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	f := &Fleet{stop: stop}
	t.Cleanup(f.Stop)
	for i := range n {
		// Each agent begins with another replica, as the lists of real hosts do.
		turned := append(append([]string(nil), control[i%len(control):]...), control[:i%len(control)]...)
		a, err := newAgent(ca, turned, fmt.Sprintf("sim-%04d", i))
		require.NoError(t, err)
		f.Agents = append(f.Agents, a)
	}
	if err := f.Each(func(a *Agent) error {
		rev, err := a.join(ctx)
		if err == nil {
			f.done.Go(func() { a.follow(ctx, rev) })
			f.done.Go(func() { a.renew(ctx) })
			f.done.Go(func() { a.beat(ctx) })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return f
}

// Stop ends the background requests of the agents, and waits for their end. Idempotent.
func (f *Fleet) Stop() {
	f.stop()
	f.done.Wait()
	for _, a := range f.Agents {
		a.Client.Close()
	}
}

// Each calls do for all agents concurrently.
func (f *Fleet) Each(do func(*Agent) error) error {
	errs := make([]error, len(f.Agents))
	var all sync.WaitGroup
	for i, a := range f.Agents {
		all.Go(func() { errs[i] = do(a) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Asked returns how many requests the agents have made so far.
func (f *Fleet) Asked() (n Asked) {
	for _, a := range f.Agents {
		a.mu.Lock()
		n.Changes += a.asked.Changes
		n.Syncs += a.asked.Syncs
		n.Renewals += a.asked.Renewals
		a.mu.Unlock()
	}
	return n
}

// The kinds of background requests.
const (
	Renewing = "renewals"
	Beating  = "heartbeats"
	Syncing  = "syncs"
)

// Failures returns the background errors by kind of request: the first one of each agent.
func (f *Fleet) Failures() map[string][]error {
	all := map[string][]error{}
	for _, a := range f.Agents {
		a.mu.Lock()
		for doing, err := range a.failures {
			all[doing] = append(all[doing], err)
		}
		a.mu.Unlock()
	}
	return all
}

func newAgent(ca *pki.Authority, control []string, name string) (*Agent, error) {
	a := &Agent{
		Node:        uuid.New(),
		Incarnation: uuid.New(),
		Pool:        uuid.New(),
		Name:        name,
		beats:       make(chan struct{}, 1),
		failures:    map[string]error{},
	}
	pair, err := ca.Issue(pki.Identity{Cluster: ca.Cluster(), Kind: pki.Node, Node: a.Node, Name: name}, time.Now())
	if err != nil {
		return nil, err
	}
	config := pki.NewCredentials(pair, clock.System{}, nil).Client(pki.Control)
	if a.Client, err = client.NewTLS("https://"+strings.Join(control, ",https://"), config); err != nil {
		return nil, err
	}
	a.replicas = a.Client.PerServer()
	a.reported = make([]bool, len(a.replicas))
	return a, nil
}

func (a *Agent) join(ctx context.Context) (rev uint64, err error) {
	caps := dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true,
		Delta: true, Filesystems: []string{"xfs"},
	}
	err = a.Client.Register(ctx, api.Registration{
		Node: dataset.Node{ID: a.Node, Name: a.Name, Incarnation: a.Incarnation, Version: "dev"},
		Pools: []dataset.Pool{{
			ID:           a.Pool,
			Name:         "default",
			Node:         a.Node,
			Backend:      "loop",
			Path:         "/pool",
			Reach:        dataset.ReachNode,
			Capabilities: caps,
		}},
	})
	if err != nil {
		return 0, fmt.Errorf("%s registers: %w", a.Name, err)
	}
	s, err := a.Client.Sync(ctx, a.Node, 0, 0)
	return s.Revision, err
}

func (a *Agent) follow(ctx context.Context, rev uint64) {
	for ctx.Err() == nil {
		a.count(func(n *Asked) *int64 { return &n.Syncs })
		s, err := a.Client.Sync(ctx, a.Node, rev, syncPatient)
		if err != nil {
			a.failed(ctx, Syncing, err)
			continue
		}
		rev = s.Revision
	}
}

func (a *Agent) renew(ctx context.Context) {
	last := time.Now()
	for n := 0; ctx.Err() == nil; {
		rctx, cancel := context.WithTimeout(ctx, renewEvery)
		a.count(func(n *Asked) *int64 { return &n.Renewals })
		_, err := a.replicas[n%len(a.replicas)].Renew(rctx, a.Node, a.Incarnation)
		cancel()
		if err == nil {
			last = time.Now()
		} else {
			if time.Since(last) > session {
				a.failed(ctx, Renewing, err)
			}
			n++
		}
		pause(ctx, renewEvery)
	}
}

func (a *Agent) beat(ctx context.Context) {
	round := time.NewTicker(beatEvery)
	defer round.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-round.C:
		case <-a.beats:
			pause(ctx, settleTime)
		}
		a.report(ctx)
	}
}

// report sends a heartbeat to each replica. The first heartbeat to a replica is complete. Later ones contain only the
// changed datasets.
func (a *Agent) report(ctx context.Context) {
	a.mu.Lock()
	seen := a.pending
	a.pending = nil
	a.mu.Unlock()
	var all sync.WaitGroup
	for i, to := range a.replicas {
		all.Go(func() {
			err := to.Heartbeat(ctx, a.Node, api.Heartbeat{
				Incarnation: a.Incarnation, Datasets: seen, Incremental: a.reported[i],
				Pools: []dataset.PoolStatus{{ID: a.Pool, Online: true, Size: dataset.TiB, Free: dataset.TiB}},
			})
			a.reported[i] = err == nil
			a.failed(ctx, Beating, err)
		})
	}
	all.Wait()
}

// reportSoon causes the status of a dataset to be reported soon.
func (a *Agent) reportSoon(st dataset.DatasetStatus) {
	a.mu.Lock()
	a.pending = append(a.pending, st)
	a.mu.Unlock()
	select {
	case a.beats <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (a *Agent) failed(ctx context.Context, doing string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failures[doing] == nil {
		a.failures[doing] = fmt.Errorf("%s: %w", a.Name, err)
	}
}

// Create creates a volume as a Docker engine does. The agent then has its lease.
func (a *Agent) Create(ctx context.Context, name string) (dataset.Dataset, error) {
	a.count(func(n *Asked) *int64 { return &n.Changes })
	p, err := a.Client.Plan(ctx, a.Node, api.Request{
		ID:     uuid.New(),
		Kind:   dataset.OpCreate,
		Volume: name,
		Engine: true,
	})
	if err != nil {
		return dataset.Dataset{}, fmt.Errorf("%s plans %s: %w", a.Name, name, err)
	}
	op := *p.Operation
	op.Incarnation = a.Incarnation
	out, err := a.commit(ctx, op)
	if err != nil {
		return dataset.Dataset{}, fmt.Errorf("%s commits %s: %w", a.Name, name, err)
	}
	if out.Duplicate {
		return dataset.Dataset{}, fmt.Errorf("%s: another agent has made %s", a.Name, name)
	}
	return *out.Dataset, nil
}

// commit repeats the request while control is unreachable, as package agent does: it must become known whether
// the volume exists.
func (a *Agent) commit(ctx context.Context, op dataset.Operation) (api.Committed, error) {
	for {
		a.count(func(n *Asked) *int64 { return &n.Changes })
		out, err := a.Client.Commit(ctx, a.Node, api.Report{Incarnation: a.Incarnation, Operation: op})
		if !errors.Is(err, dataset.ErrUnavailable) || ctx.Err() != nil {
			return out, err
		}
		pause(ctx, time.Second)
	}
}

// Fill creates volumes and mounts them, one after the other, as the engine of a host does. A mount needs no
// request; control learns of it from a heartbeat.
func (a *Agent) Fill(ctx context.Context, volumes int) error {
	for i := range volumes {
		d, err := a.Create(ctx, fmt.Sprintf("%s-%02d", a.Name, i))
		if err != nil {
			return err
		}
		use := dataset.Mount{ID: uuid.NewString(), Count: 1, Since: time.Now()}
		a.reportSoon(dataset.DatasetStatus{ID: d.ID, Mounted: true, Mounts: []dataset.Mount{use}})
	}
	return nil
}
