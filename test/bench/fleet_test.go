package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// bed is what the simulated hosts use: Consul, and control replicas that are real processes.
type bed struct {
	consul   *consul.Cluster
	ca       *pki.Authority
	controls []*host.Host
	at       []string
	up       time.Time // the time at which everything was running
}

func newBed(t testing.TB, servers, controls int) *bed {
	t.Helper()
	b := &bed{consul: consul.Start(t, consul.Options{Servers: servers})}
	dir := filepath.Join(t.TempDir(), "ca")
	var err error
	if b.ca, err = pki.Create(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	for i := range controls {
		address := freeAddress(t)
		h := host.Start(t, host.Options{
			Process: "control", Name: fmt.Sprint("control", i+1), Pool: "image",
			Config: fmt.Sprintf("store: {consul: {addresses: [\"%s\"]}}\nca: %s\nlisten: {address: \"%s\"}\n",
				strings.Join(b.consul.Addresses(), `", "`), dir, address),
		})
		b.controls, b.at = append(b.controls, h), append(b.at, address)
	}
	b.up = time.Now()
	return b
}

// freeAddress returns an address of a separate host, because a port that is free on 127.0.0.1 may be given to another
// test first.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", 1+rand.IntN(254), rand.IntN(256)))
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// writes returns the number of entries in Consul's log.
func (b *bed) writes(t testing.TB) int {
	t.Helper()
	n, err := strconv.Atoi(b.consul.RaftIndex())
	require.NoError(t, err)
	return n
}

// lateShare: one agent in this number may miss its renewals for a session, with three servers.
const lateShare = 10

// BenchmarkFleet (D3): every agent makes, leases and mounts its volumes at the same time. A volume costs no more requests than it costs
// now, and afterwards a cluster in which nothing changes writes nothing.
func BenchmarkFleet(t *testing.B) {
	agents := long.Rounds(40, 1000)
	const each = 20
	for _, servers := range []int{1, 3}[:long.Rounds(1, 2)] {
		t.Run(fmt.Sprint(servers, " servers"), func(t *testing.B) {
			b := newBed(t, servers, 2)
			f := startFleet(t, b.ca, b.at, agents)
			before, begin := b.counted(t, f), time.Now()
			require.NoError(t, f.Each(func(a *Agent) error { return a.Fill(t.Context(), each) }))
			t.Logf("%d agents × %d volumes on %d servers: %s", agents, each, servers, time.Since(begin).Round(time.Millisecond))
			b.counted(t, f).check(t, before, float64(agents*each))
			b.steady(t)
			quiet(t)
			wrong := f.Failures()
			// Three servers and all agents on one small machine show what they cost. It is not required that each
			// renewal is answered in time at the peak of a storm.
			if late := wrong[Renewing]; servers > 1 && len(late)*lateShare <= agents {
				delete(wrong, Renewing)
			}
			for doing, errs := range wrong {
				t.Errorf("in the background, %s of %d of %d agents: %.2000v", doing, len(errs), agents, errors.Join(errs...))
			}
		})
	}
}

// counted has the numbers of actions, by the counters of the processes that did them.
type counted struct {
	writes float64 // entries of Consul's log
	reads  float64 // requests of control to Consul, except committed transactions and renewals
	asked  Asked
}

func (b *bed) counted(t testing.TB, f *Fleet) counted {
	t.Helper()
	c := counted{writes: float64(b.writes(t)), asked: f.Asked()}
	c.reads = -float64(c.asked.Renewals)
	for _, h := range b.controls {
		m := h.Metrics(t)
		c.reads += m["drover_store_requests_total"] - m["drover_store_transactions_total"]
	}
	return c
}

// check fails if a volume costs more than it costs now. One read is that of the plan, see control's TestSuppositions.
// The others are of changes by other replicas: up to two, and the slower the machine, the more.
func (c counted) check(t testing.TB, before counted, volumes float64) {
	t.Helper()
	for _, x := range []struct {
		what       string
		value, max float64
	}{
		{"writes to the store", c.writes - before.writes, 1.2},
		{"reads of the store", c.reads - before.reads, 3.5},
		{"requests that change something", float64(c.asked.Changes - before.asked.Changes), 2},
		{"syncs, which what an agent did itself is to cause none of", float64(c.asked.Syncs - before.asked.Syncs), 0.5},
	} {
		if x.value/volumes > x.max {
			t.Errorf("a volume costs %.2f %s, want %.2f at most", x.value/volumes, x.what, x.max)
		}
	}
}

// firstRound is the time after which every replica has begun to count its uptime, which it writes to the store once
// in half an hour.
const firstRound = 23 * time.Second

// changed is the index of the newest write to a key and to a session: Consul's log has other entries as well.
func (b *bed) changed(t testing.TB) (indexes [2]uint64) {
	t.Helper()
	_, keys, err := b.consul.Client().KV().Keys("", "", &consulapi.QueryOptions{RequireConsistent: true})
	require.NoError(t, err)
	_, sessions, err := b.consul.Client().Session().List(&consulapi.QueryOptions{RequireConsistent: true})
	require.NoError(t, err)
	return [2]uint64{keys.LastIndex, sessions.LastIndex}
}

// steady watches a cluster in which nothing changes: its agents are alive, and nobody writes.
func (b *bed) steady(t testing.TB) {
	t.Helper()
	quiet := time.Duration(long.Rounds(10, 60)) * time.Second
	time.Sleep(time.Until(b.up.Add(firstRound)))
	before := b.changed(t)
	time.Sleep(quiet) // nobody can wait for the absence of events
	if now := b.changed(t); now != before {
		t.Errorf("written to the store in %s in which nothing changed: indexes of keys and sessions were %v and are %v", quiet, before, now)
	}
}
