package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// cuts is a cluster of two hosts whose volume db is moved back and forth, and whose networks are cut when one of them
// reaches a step.
type cuts struct {
	*cluster.Cluster

	id uuid.UUID

	mu      sync.Mutex
	entries []witness.Entry
}

const cutProfiles = `default: plain
profiles:
  plain: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge, follow: always}
`

// The steps of a move, as reached by its target and by the old home, including the transfer of the lease: from the
// recall to the transaction that opens the next epoch.
var (
	targetSteps = []string{"move.begin", "move.copied", "move.recalled", "move.yielded", "move.pulled", "move.promoted", "move.recorded"}
	sourceSteps = []string{"yield.begin", "yield.given-up", "yield.snapshot", "yield.manifest", "yield.told", "leave.begin", "leave.demoted"}
)

// severed says which connection is cut: the second of the two does not receive what the first one sends.
type severed struct {
	name string
	ways [][2]string
}

// severings are all cuts between two of the three, in both directions and in each one alone.
func severings() (all []severed) {
	for _, p := range [][2]string{{"target", "source"}, {"target", "control"}, {"source", "control"}} {
		x, y := p[0], p[1]
		all = append(all, severed{x + " from " + y, [][2]string{{x, y}, {y, x}}},
			severed{x + " unheard by " + y, [][2]string{{x, y}}}, severed{y + " unheard by " + x, [][2]string{{y, x}}})
	}
	return all
}

// lease is how long the hosts may wait for control after they were cut off from it.
const lease = time.Minute

// TestCuts: at each step of a move and of the transfer of its lease, the network is cut between two of target, home
// and control, in both directions and in each one alone, while containers start on both hosts. Two of them never
// write at the same time. The move ends, one host has the volume, and everything that was written is there. In the
// short form each step has one kind of cut and each kind one step; in the long form all combinations are tested.
func TestCuts(t *testing.T) {
	t.Parallel()
	c := &cuts{Cluster: cluster.New(t, cluster.Options{
		Consul: 1, Controls: 1, Hosts: 2, Engines: -1, Step: 100 * time.Millisecond, Env: []string{"DROVER_SESSION=1s"},
		Profiles: cutProfiles, Lease: lease,
	})}
	require.NoError(t, c.Hosts[0].Plug(t).Create("db", nil))
	c.id = c.Hosts[0].Inspect(t, "db").ID
	steps, ran, before := slices.Concat(targetSteps, sourceSteps), 0, len(c.entries)
	for n, step := range steps {
		for k, cut := range severings() {
			if !long.Enabled() && k != n%len(severings()) {
				continue
			}
			if !t.Run("C2 "+step+", "+cut.name, func(t *testing.T) { ran++; c.cutAt(t, step, cut) }) {
				return // the following tests depend on it
			}
		}
	}
	if wrote := len(c.entries) - before; wrote < 2*ran {
		t.Errorf("%d writes in %d steps", wrote, ran)
	}
	c.judge(t)
}

// judge compares the contents of the volume with what was written.
func (c *cuts) judge(t *testing.T) {
	t.Helper()
	at := c.Hosts[0]
	if c.home(t) != at.Name {
		at = c.Hosts[1]
	}
	head := c.Head(t, at, "db")
	for _, bad := range witness.Check(c.entries, []witness.Copy{head}, nil) {
		t.Error(bad)
	}
	if len(head.Tokens) != len(c.entries) {
		t.Errorf("%d writes, and %d are there", len(c.entries), len(head.Tokens))
	}
}

// cutAt moves the volume to the other host and cuts the network at a step.
func (c *cuts) cutAt(t *testing.T, step string, cut severed) {
	source, target := c.Hosts[0], c.Hosts[1]
	if c.home(t) != source.Name {
		source, target = target, source
	}
	c.write(t, source)
	at, hold := target, filepath.Join(t.TempDir(), "hold")
	if slices.Contains(sourceSteps, step) {
		at = source
	}
	at.Kill9(t)
	at.Up(t, "DROVER_STEP="+step, "DROVER_STEP_DO=hold:"+hold)
	client := c.Controls[0].Client(t)
	defer client.Close()
	var out api.Outcome
	host.Await(t, "the move is taken in", func() (err error) {
		out, err = client.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", Node: target.Name})
		return err
	})
	host.Await(t, "step "+step, func() error { _, err := os.Stat(hold); return err })

	machines := map[string]*lan.Machine{"target": target.On, "source": source.On, "control": c.Controls[0].On}
	for _, w := range cut.ways {
		c.Net.PartitionOneWay(machines[w[0]], machines[w[1]])
	}
	require.NoError(t, os.Remove(hold))
	var users sync.WaitGroup
	for _, h := range c.Hosts {
		users.Go(func() { c.write(t, h) })
	}
	time.Sleep(time.Second) // as long as a session; nothing else shows the effect of a cut
	c.Net.Heal()
	users.Wait()
	host.Await(t, "the move ends", func() error {
		op, err := client.Operation(t.Context(), out.Operation.ID.String(), 0)
		if err == nil && !op.State.Final() {
			err = fmt.Errorf("it is %s at %q", op.State, op.Progress.Step)
		}
		return err
	})
	c.judge(t)
}

// home returns the node that is the home of the volume.
func (c *cuts) home(t *testing.T) string {
	t.Helper()
	v, err := c.Controls[0].Client(t).Volume(t.Context(), "db")
	require.NoError(t, err)
	return v.Node
}

// write plays a container on a host that writes a few lines. It may be refused.
func (c *cuts) write(t *testing.T, h *cluster.Host) {
	entries, err := wrote(t, h, "db", c.id)
	if err != nil {
		t.Logf("on %s: %v", h.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = append(c.entries, entries...)
}

// wrote is the record of a container that wrote a few lines to a volume on a host. The error says why it did not
// start.
func wrote(t *testing.T, h *cluster.Host, volume string, ds uuid.UUID) (entries []witness.Entry, err error) {
	plug, id := h.Plug(t), host.NewID()
	at, err := plug.Mount(volume, id)
	if err != nil {
		return nil, err
	}
	epoch, err := h.Epoch(ds)
	assert.NoError(t, err)
	for seq := range 3 {
		e := witness.Entry{Token: witness.Token{Writer: id[:12], Epoch: epoch, Seq: seq + 1}, Dataset: ds.String(), Node: h.Name}
		e.Begin, _ = witness.Now()
		if err := appendLine(h.File(filepath.Join(at, cluster.Tokens)), e.Token.String()); err != nil {
			t.Errorf("on %s: %v", h.Name, err)
			e.Err = err.Error()
		}
		e.End, _ = witness.Now()
		entries = append(entries, e)
	}
	assert.NoErrorf(t, cluster.AwaitLease(t, lease, func() error { return plug.Unmount(volume, id) }), "on %s", h.Name)
	return entries, nil
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}
