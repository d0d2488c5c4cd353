package sim_test

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

	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/sim"
)

func TestMain(m *testing.M) { engine.Main(m) }

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
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// writes returns the number of entries in Consul's log.
func (b *bed) writes(t testing.TB) int {
	t.Helper()
	n, err := strconv.Atoi(b.consul.RaftIndex())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lateShare: one agent in this number may miss its renewals for a session, with three servers.
const lateShare = 10

// D3: every agent makes, leases and mounts its volumes at the same time. Afterwards a single create costs what it
// cost before, and a cluster in which nothing changes writes nothing.
func TestD3(t *testing.T) {
	agents := long.Rounds(40, 1000)
	const each = 20
	for _, servers := range []int{1, 3}[:long.Rounds(1, 2)] {
		t.Run(fmt.Sprint(servers, " servers"), func(t *testing.T) {
			b := newBed(t, servers, 2)
			f := sim.Start(t, b.ca, b.at, agents)
			empty := creates(t, f, "before")
			used, before, begin := b.usage(t), b.counted(t, f), time.Now()
			if err := f.Each(func(a *sim.Agent) error { return a.Fill(t.Context(), each) }); err != nil {
				t.Fatal(err)
			}
			took, did := time.Since(begin), b.counted(t, f).since(before, agents*each)
			t.Logf("%d agents × %d volumes on %d servers: %s; %s", agents, each, servers, took.Round(time.Millisecond), load(t))
			t.Log(b.usage(t).since(used, took))
			t.Logf("%s; %s", did, waited())
			did.check(t)
			full := creates(t, f, "after")
			t.Logf("a single create: %s empty, %s full (%.2f)", empty, full, float64(full)/float64(empty))
			b.steady(t)
			wrong := f.Failures()
			// Three servers and all agents on one small machine show what they cost. It is not required that each
			// renewal is answered in time at the peak of a storm.
			if late := wrong[sim.Renewing]; servers > 1 && len(late) > 0 && len(late)*lateShare <= agents {
				t.Logf("%d of %d agents were not renewed for a session: %.2000v", len(late), agents, errors.Join(late...))
				delete(wrong, sim.Renewing)
			}
			for doing, errs := range wrong {
				t.Errorf("in the background, %s of %d of %d agents: %.2000v", doing, len(errs), agents, errors.Join(errs...))
			}
		})
	}
}
