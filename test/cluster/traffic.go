package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster/history"
	"github.com/droverhq/drover/test/host"
)

// patience limits the check of one history.
const patience = 30 * time.Second

// Limit is how long Docker waits for a request (I8).
const Limit = 2 * time.Minute

// Traffic consists of clients on all hosts that create, inspect and remove volumes until they are stopped,
// whatever happens to the cluster.
type Traffic struct {
	names *history.Recorder
	slow  atomic.Int64 // requests that took longer than Docker waits

	stop context.CancelFunc
	all  sync.WaitGroup
}

// Load describes what the clients do.
type Load struct {
	Prefix          string // of all volume names
	Seed            uint64 // of the clients' choices
	Pause           time.Duration
	RequestsPerName int // after how many requests each client uses new names; 0: never
}

// StartTraffic starts one client on each host. All of them use the same few names.
func (c *Cluster) StartTraffic(t testing.TB, l Load) *Traffic {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	tr := &Traffic{names: history.Names(), stop: stop}
	t.Cleanup(tr.end)
	for i, h := range c.Hosts {
		client := c.NewNameClient(t, tr.names, h)
		random := rand.New(rand.NewPCG(l.Seed, uint64(i)))
		tr.all.Go(func() {
			defer client.Close()
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprint(l.Prefix, random.IntN(6))
				if l.RequestsPerName > 0 {
					name = fmt.Sprint(name, "-", n/l.RequestsPerName)
				}
				began := time.Now()
				client.sendRandom(random, name)
				if time.Since(began) > Limit {
					tr.slow.Add(1)
				}
				select {
				case <-ctx.Done():
				case <-time.After(l.Pause):
				}
			}
		})
	}
	return tr
}

// RestoreBackup calls the method of the same name of the history of names.
func (tr *Traffic) RestoreBackup(from, to, at time.Time) (over func()) {
	return tr.names.RestoreBackup(from, to, at)
}

func (tr *Traffic) end() {
	tr.stop()
	tr.all.Wait()
}

// Check stops the traffic, and fails the test if no correct server can have given these answers.
func (tr *Traffic) Check(t testing.TB) {
	t.Helper()
	tr.end()
	for _, bad := range tr.names.Check(patience) {
		t.Error(bad)
	}
	if n := tr.slow.Load(); n > 0 {
		t.Errorf("%d requests took longer than Docker waits", n)
	}
}

// NameClient is one client on one host. Only one goroutine may use it.
type NameClient struct {
	names *history.Recorder
	plug  *host.Plug
	api   *client.Client
	node  string
	// controls receive the requests that a node may not make for volumes of another node.
	controls []*client.Client
}

// NewNameClient returns a client whose requests are recorded in a history of names. The caller closes it.
func (c *Cluster) NewNameClient(t testing.TB, names *history.Recorder, h *Host) *NameClient {
	t.Helper()
	client := &NameClient{names: names, plug: h.Plug(t), api: h.Client(t), node: h.Name}
	for _, r := range c.Controls {
		client.controls = append(client.controls, r.Client(t))
	}
	return client
}

// Close closes the connections of the client.
func (c *NameClient) Close() {
	for _, a := range append(c.controls, c.api) {
		a.Close()
	}
}

// sendRandom does something with a name.
func (c *NameClient) sendRandom(random *rand.Rand, name string) {
	switch random.IntN(4) {
	case 0:
		c.remove(c.controls[random.IntN(len(c.controls))], name)
	case 1:
		c.Create(name)
	default:
		c.Get(name)
	}
}

// Create does what docker volume create does.
func (c *NameClient) Create(name string) bool {
	end := c.names.Begin(history.Request{Key: name, Kind: history.Create, Node: c.node})
	err := c.plug.Create(name, nil)
	end(history.Answer{Done: err == nil})
	return err == nil
}

// Get does what drover volume inspect does.
func (c *NameClient) Get(name string) bool {
	end := c.names.Begin(history.Request{Key: name, Kind: history.Get, Node: c.node})
	v, err := c.api.Volume(context.Background(), name)
	switch {
	case err == nil:
		end(history.Answer{Dataset: v.ID.String()})
	case errors.Is(err, dataset.ErrNotFound):
		end(history.Answer{Absent: true})
	default:
		return false
	}
	return true
}

// remove does what drover volume rm does on a control host. An unreachable control host is not asked, since a
// request without an answer shows nothing.
func (c *NameClient) remove(control *client.Client, name string) {
	if _, err := control.Version(context.Background()); err != nil {
		return
	}
	end := c.names.Begin(history.Request{Key: name, Kind: history.Remove, Node: c.node})
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	out, err := control.Submit(ctx, api.Request{Kind: dataset.OpDelete, Volume: name})
	if errors.Is(err, dataset.ErrNotFound) {
		end(history.Answer{Absent: true})
		return
	}
	if err != nil || out.Operation == nil {
		return
	}
	for op := *out.Operation; ; {
		switch {
		case op.State == dataset.OpDone:
			end(history.Answer{Done: true})
			return
		case op.State.Final():
			end(history.Answer{Refused: true}) // another client may have been first
			return
		case ctx.Err() != nil:
			return
		}
		next, err := control.Operation(ctx, op.ID.String(), 5*time.Second)
		if err == nil {
			op = next
		} else if errors.Is(err, dataset.ErrNotFound) {
			return
		}
	}
}
