package cluster_test

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
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/history"
)

// patience bounds one check of a history.
const patience = 30 * time.Second

// limit is what Docker gives a create (I8).
const limit = 2 * time.Minute

// traffic are clients on all hosts that make, ask for and remove volumes until they are
// stopped, whatever happens to the cluster.
type traffic struct {
	names *history.Recorder
	done  atomic.Int64 // requests that were answered and not refused
	slow  atomic.Int64 // requests that took longer than Docker waits

	stop context.CancelFunc
	all  sync.WaitGroup
}

// startTraffic starts one client on each host, with a few names that all of them use.
func startTraffic(t *testing.T, c *cluster.Cluster, prefix string) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	tr := &traffic{names: history.Names(), stop: stop}
	t.Cleanup(tr.end)
	for i, h := range c.Hosts {
		client := &nameClient{names: tr.names, plug: h.Plug(t), api: h.Client(t), node: h.Name}
		for _, r := range c.Controls {
			client.controls = append(client.controls, r.Client(t))
		}
		random := rand.New(rand.NewPCG(1, uint64(i)))
		tr.all.Go(func() {
			defer client.close()
			for ctx.Err() == nil {
				name := fmt.Sprint(prefix, random.IntN(6))
				began := time.Now()
				if client.any(random, name) {
					tr.done.Add(1)
				}
				if time.Since(began) > limit {
					tr.slow.Add(1)
				}
			}
		})
	}
	tr.await(t, 10)
	return tr
}

// await waits until so many more requests were answered.
func (tr *traffic) await(t *testing.T, n int64) {
	t.Helper()
	was := tr.done.Load()
	cluster.Await(t, "clients are answered", func() error {
		if now := tr.done.Load(); now < was+n {
			return fmt.Errorf("%d of %d", now-was, n)
		}
		return nil
	})
}

func (tr *traffic) end() {
	tr.stop()
	tr.all.Wait()
}

// check ends it and fails the test when no correct server gives such answers.
func (tr *traffic) check(t *testing.T) {
	t.Helper()
	tr.end()
	for _, bad := range tr.names.Check(patience) {
		t.Error(bad)
	}
	if n := tr.slow.Load(); n > 0 {
		t.Errorf("%d requests took longer than Docker waits", n)
	}
	t.Logf("%d requests, %d of them done", tr.names.Len(), tr.done.Load())
}

// nameClient is one client, of one host.
type nameClient struct {
	names *history.Recorder
	plug  interface {
		Create(name string, options map[string]string) error
	}
	api  *api.Client
	node string
	// controls are asked for what a node may not do to another's volumes.
	controls []*api.Client
}

func (c *nameClient) close() {
	for _, a := range append(c.controls, c.api) {
		a.Close()
	}
}

// any does something with a name and reports whether it was done.
func (c *nameClient) any(random *rand.Rand, name string) bool {
	switch random.IntN(4) {
	case 0:
		return c.remove(c.controls[random.IntN(len(c.controls))], name)
	case 1:
		return c.create(name)
	default:
		return c.get(name)
	}
}

// create is docker volume create.
func (c *nameClient) create(name string) bool {
	end := c.names.Begin(history.Request{Key: name, What: history.Create, Node: c.node})
	err := c.plug.Create(name, nil)
	end(history.Answer{Done: err == nil})
	return err == nil
}

// get is drover volume inspect.
func (c *nameClient) get(name string) bool {
	end := c.names.Begin(history.Request{Key: name, What: history.Get, Node: c.node})
	v, err := c.api.Volume(context.Background(), name)
	switch {
	case err == nil:
		end(history.Answer{Is: v.ID.String()})
	case errors.Is(err, dataset.ErrNotFound):
		end(history.Answer{Absent: true})
	default:
		return false
	}
	return true
}

// remove is drover volume rm on a control host. One that is away is not asked: what it
// does not answer says nothing.
func (c *nameClient) remove(control *api.Client, name string) bool {
	if _, err := control.Version(context.Background()); err != nil {
		return false
	}
	end := c.names.Begin(history.Request{Key: name, What: history.Remove, Node: c.node})
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := control.Submit(ctx, api.Request{Kind: dataset.OpDelete, Volume: name})
	if errors.Is(err, dataset.ErrNotFound) {
		end(history.Answer{Absent: true})
		return true
	}
	if err != nil || out.Operation == nil {
		return false
	}
	for op := *out.Operation; ; {
		switch {
		case op.State == dataset.OpDone:
			end(history.Answer{Done: true})
			return true
		case op.State.Final():
			end(history.Answer{Refused: true}) // another client was first, perhaps
			return false
		case ctx.Err() != nil:
			return false
		}
		next, err := control.Operation(ctx, op.ID.String(), 5*time.Second)
		if err == nil {
			op = next
		} else if errors.Is(err, dataset.ErrNotFound) {
			return false
		}
	}
}
