package agenttest

import (
	"cmp"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/profiles"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Cluster is a control service and the hosts that use it and reach each other. Its methods fail the test if an error
// occurs that the test does not expect.
type Cluster struct {
	*testing.T
	ControlStore store.Store
	Service      *control.Service
	Client       *client.Client
	Profiles     []byte // if nil, those of clusterProfiles
	A, B         *Host
	Hosts        []*Host
	Network      Network
	MayFailWith  string // the text of errors that the control service may report
	Share        string // the folder that stands for a share, if a host has a pool on it
	// Session is how long an agent's session with control is valid. With sessions, the control service counts as one of
	// several replicas. If it is 0, control works alone, and no lease is bounded.
	Session time.Duration

	zfs     scratch.ZFS
	restart func()   // replaces Service
	ends    []func() // called in reverse order at the end of the test
}

const clusterProfiles = `
default: plain
profiles:
  plain: {}
  never: {follow: never}
  hurry: {follow: {within: 1ns}}
  safe: {replicas: {count: 1, every: 1s}}
  hand: {size: 320MiB, replicas: {count: 1, every: 1s}}
  auto: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: guard, max_loss: 1h}
  dog: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: watchdog, max_loss: 1h}
  cut: {size: 320MiB, replicas: {count: 1, every: 1s}, failover: auto, fence: {exec: [/bin/true, -f]}, max_loss: 1h}
  shut: {backend: nfs, failover: auto, fence: {exec: [/bin/true]}}
  many: {backend: nfs, access: many}
  safer: {replicas: {count: 2, every: 1s}}
  slow: {size: 320MiB, qos: {write_bps: 5MiB}}
  faster: {size: 320MiB, qos: {write_bps: 20MiB}}
  frozen: {size: 512MiB, qos: {write_bps: 5MiB}}
  strict: {size: 512MiB, qos: {write_bps: 5MiB, strict: true}}
  free: {size: 512MiB}
  flushed: {size: 512MiB, quiesce: flush}
  large: {size: 640MiB}
  backed: {size: 512MiB, backup: {to: offsite, schedule: "@yearly", keep: {last: 2}}}
  verified: {size: 512MiB, backup: {to: offsite, schedule: "@yearly", verify: {every: 12h, restore: true}}}
`

// NewCluster starts two hosts with pools of these backends.
func NewCluster(t *testing.T, backendA, backendB string) *Cluster {
	t.Helper()
	c := &Cluster{T: t}
	c.StartControl()
	c.A, c.B = c.AddHost("host-a", backendA), c.AddHost("host-b", backendB)
	t.Cleanup(c.Close) // before the disks of the pools are removed
	c.A.Start()
	c.B.Start()
	return c
}

// StartControl starts a control service on an empty store.
func (c *Cluster) StartControl() {
	c.Helper()
	st, err := bolt.Open(c.Context(), filepath.Join(c.TempDir(), "store.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(c, err)
	c.atEnd(func() {
		assert.NoError(c, st.Close())
	})
	c.ControlStore = st
	c.Client, c.restart = c.serve(func(s *control.Service) { c.Service = s })
}

// RestartControl replaces the control service by another one, which knows only what is in the store.
func (c *Cluster) RestartControl() {
	c.Helper()
	c.restart()
}

// AddReplica starts another control service on the same store. The function that it returns replaces that service by
// another one.
func (c *Cluster) AddReplica() (l *Link, restart func()) {
	c.Helper()
	replica, restart := c.serve(func(*control.Service) {})
	return NewLink(replica), restart
}

// serve starts a control service on the store.
func (c *Cluster) serve(started func(*control.Service)) (cl *client.Client, restart func()) {
	c.Helper()
	var handler atomic.Pointer[http.Handler]
	end, st := func() {}, c.ControlStore
	restart = func() {
		text := c.Profiles
		if text == nil {
			text = []byte(clusterProfiles)
		}
		set, err := profiles.Parse("profiles.yaml", text)
		require.NoError(c, err)
		svc := control.New(control.Deps{
			Store: st, Profiles: func() control.Profiles { return set }, Clock: clock.System{},
			Failed: c.controlFailed, Shared: c.Session > 0,
			Timing: membership.Timing{Session: c.Session, Housekeeping: cmp.Or(c.Session/5, 300*time.Millisecond)},
		})
		h := server.Handler(server.Deps{Service: svc})
		handler.Store(&h)
		end()
		end = svc.Close
		started(svc)
	}
	restart()
	cl = loopback.New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*handler.Load()).ServeHTTP(w, r)
	}))
	c.atEnd(func() { cl.Close(); end() })
	return cl, restart
}

// controlFailed fails the test if the background work of control fails. With sessions, a session may end on a loaded
// machine.
func (c *Cluster) controlFailed(what string, err error) {
	if c.Session == 0 && (c.MayFailWith == "" || !strings.Contains(err.Error(), c.MayFailWith)) {
		c.Error(what, err)
	}
}

// atEnd registers a function that Close calls. Close calls the functions in reverse order.
func (c *Cluster) atEnd(f func()) { c.ends = append(c.ends, f) }

// Close stops all hosts, and then control.
func (c *Cluster) Close() {
	for _, h := range c.Hosts {
		if h.Agent != nil {
			h.Stop()
			h.tidy()
		}
	}
	c.Network.close()
	for i := len(c.ends) - 1; i >= 0; i-- {
		c.ends[i]()
	}
}

// Other returns host A for B, and B for A.
func (c *Cluster) Other(h *Host) *Host {
	if h == c.A {
		return c.B
	}
	return c.A
}

// Submit has control execute a request.
func (c *Cluster) Submit(req api.Request) api.Outcome {
	c.Helper()
	out, err := c.Service.Submit(c.Context(), req)
	require.NoErrorf(c, err, "%s of %s", req.Kind, req.Volume)
	return out
}

// BeginMove has control start a move, and does not wait for its end.
func (c *Cluster) BeginMove(volume string, to *Host) dataset.Operation {
	c.Helper()
	out := c.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: volume, Node: to.NodeName})
	if out.Operation == nil {
		c.Fatalf("volume %s is on node %s already, so there is no move", volume, to.NodeName)
	}
	return *out.Operation
}

// Move moves a volume.
func (c *Cluster) Move(volume string, to *Host) {
	c.Helper()
	if op := c.AwaitEnd(c.BeginMove(volume, to)); op.State != dataset.OpDone {
		c.Fatalf("move of %s to %s: %s, want %s: %+v", volume, to.NodeName, op.State, dataset.OpDone, op.Problem)
	}
}

// ForceMove moves a volume from its home, which is unreachable, to another host. The argument without is the home. The
// request confirms that the home is fenced.
func (c *Cluster) ForceMove(volume string, to, without *Host) {
	c.Helper()
	out := c.Submit(api.Request{
		ID: uuid.New(), Kind: dataset.OpMove, Volume: volume, Node: to.NodeName, Force: true, Fenced: without.NodeName,
	})
	if out.Operation == nil || out.Operation.Loss == nil {
		c.Fatalf("forced move of %s: %+v, want an operation with a loss", volume, out)
	}
	if op := c.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		c.Fatalf("forced move of %s ended as %s, want %s: %+v", volume, op.State, dataset.OpDone, op.Problem)
	}
}

// Operation returns the record of an operation.
func (c *Cluster) Operation(id uuid.UUID) dataset.Operation {
	c.Helper()
	op, err := c.Service.Operation(c.Context(), id.String(), 0)
	require.NoError(c, err)
	return op
}

// AwaitEnd waits for the end of an operation.
func (c *Cluster) AwaitEnd(op dataset.Operation) dataset.Operation {
	c.Helper()
	until := time.Now().Add(time.Minute)
	for !op.State.Final() {
		var err error
		if op, err = c.Service.Operation(c.Context(), op.ID.String(), 5*time.Second); err != nil {
			c.Fatal(err)
		}
		if time.Now().After(until) {
			c.Fatalf("operation %s has not ended after a minute: %+v", op.ID, op)
		}
	}
	return op
}

// Recorded returns the record of a volume.
func (c *Cluster) Recorded(volume string) api.Volume {
	c.Helper()
	v, err := c.Service.Volume(c.Context(), volume)
	require.NoError(c, err)
	return v
}

// SetNames gives a volume a name and aliases, and waits until its home knows them.
func (c *Cluster) SetNames(volume, name string, aliases ...string) {
	c.Helper()
	var d dataset.Dataset
	if _, err := c.Service.Ledger.Update(c.Context(), func(t *record.Tx) (err error) {
		if d, err = t.Volume(volume); err != nil {
			return err
		}
		for _, old := range d.Names() {
			t.Delete(record.NameKey(old))
		}
		d.Volume = name
		d.Aliases = aliases
		for _, name := range d.Names() {
			err = errors.Join(err, t.Put(record.NameKey(name), record.Claim{ID: d.ID}))
		}
		for _, g := range d.SharedMounts {
			t.NotifyDataset(d.ID, g.Node)
		}
		return errors.Join(err, t.PutDataset(d))
	}); err != nil {
		c.Fatal(err)
	}
	Await(c.T, func() bool {
		for _, h := range []*Host{c.A, c.B} {
			if h == nil || d.Home != h.Node() {
				continue
			}
			now, _ := h.Cache.Dataset(d.ID)
			return now.Volume == name && slices.Equal(now.Aliases, d.Aliases)
		}
		return true
	})
}

// AwaitSharedMounts waits until these hosts, and no others, are recorded as guests of a volume.
func (c *Cluster) AwaitSharedMounts(volume string, want ...*Host) {
	c.Helper()
	until := time.Now().Add(20 * time.Second)
	for {
		v := c.Recorded(volume)
		ok := len(v.SharedMounts) == len(want)
		for _, h := range want {
			_, recorded := v.SharedMountOf(h.Node())
			ok = ok && recorded
		}
		if ok {
			return
		}
		if time.Now().After(until) {
			c.Fatalf("recorded guests of %s: %+v, want %d", volume, v.SharedMountDetails, len(want))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
