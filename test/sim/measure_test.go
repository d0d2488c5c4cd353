package sim_test

import (
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/long"
	consulapi "github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/test/sim"
)

// creates returns the median time of single creates, one after another.
func creates(t testing.TB, f *sim.Fleet, name string) time.Duration {
	t.Helper()
	const n = 61
	times := make([]time.Duration, n)
	for i := range times {
		begin := time.Now()
		if _, err := f.Agents[i%len(f.Agents)].Create(t.Context(), fmt.Sprintf("%s-%03d", name, i)); err != nil {
			t.Fatal(err)
		}
		times[i] = time.Since(begin)
	}
	slices.Sort(times)
	return times[n/2]
}

// usage is what the processes of a bed have used: CPU time, and their present memory.
type usage map[string]used

type used struct {
	cpu time.Duration
	rss int64 // bytes
}

func (b *bed) usage(t testing.TB) usage {
	t.Helper()
	u := usage{}
	for i, h := range b.controls {
		u[fmt.Sprint("control", i+1)] = usedBy(t, h.PID())
	}
	for _, s := range b.consul.Servers {
		u["consul "+s.Name] = usedBy(t, s.PID())
	}
	u["agents"] = usedBy(t, os.Getpid())
	return u
}

// ticks is USER_HZ, the unit in which the kernel reports CPU time (proc_pid_stat(5)).
const ticks = 100

func usedBy(t testing.TB, pid int) used {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from the third on
	n := func(field int) int64 {
		v, err := strconv.ParseInt(fields[field-3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return used{time.Duration(n(14)+n(15)) * time.Second / ticks, n(24) * int64(os.Getpagesize())}
}

// since returns what was used after an earlier time, in cores over a span.
func (u usage) since(earlier usage, span time.Duration) string {
	var parts []string
	for name, now := range u {
		cpu := now.cpu - earlier[name].cpu
		parts = append(parts, fmt.Sprintf("%s: %.1f s of CPU (%.2f cores), %d MiB", name, cpu.Seconds(), cpu.Seconds()/span.Seconds(), now.rss>>20))
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

// counted has the numbers of actions, by the counters of the processes that did them.
type counted struct {
	writes  float64 // entries of Consul's log
	reads   float64 // requests of control to Consul, except committed transactions and renewals
	wakes   float64 // answers to control's watches
	mallocs float64 // of control
	asked   sim.Asked
	volumes int
}

func (b *bed) counted(t testing.TB, f *sim.Fleet) counted {
	t.Helper()
	c := counted{writes: float64(b.writes(t)), asked: f.Asked()}
	c.reads = -float64(c.asked.Renewals)
	for _, h := range b.controls {
		m := h.Metrics(t)
		c.reads += m["drover_store_requests_total"] - m["drover_store_transactions_total"]
		c.wakes += m["drover_store_watch_wakes_total"]
		c.mallocs += m["go_memstats_mallocs_total"]
	}
	return c
}

// since returns the actions after an earlier time, divided by a number of volumes.
func (c counted) since(earlier counted, volumes int) counted {
	n := float64(volumes)
	return counted{
		writes: (c.writes - earlier.writes) / n, reads: (c.reads - earlier.reads) / n,
		wakes: (c.wakes - earlier.wakes) / n, mallocs: (c.mallocs - earlier.mallocs) / n,
		asked: c.asked.Since(earlier.asked), volumes: volumes,
	}
}

func (c counted) String() string {
	of := func(n int64) float64 { return float64(n) / float64(c.volumes) }
	a := c.asked
	return fmt.Sprintf("a volume: %.2f writes to the store, %.2f reads, %.2f wakes, %.0f allocations of control; requests of agents: %.2f to make it, %.2f heartbeats, %.2f syncs, %.2f renewals; renewals without an answer: %d",
		c.writes, c.reads, c.wakes, c.mallocs, of(a.Changes), of(a.Heartbeats), of(a.Syncs), of(a.Renewals), a.Late)
}

// check fails if a volume costs more than it costs now. One read is that of the plan, see control's TestSuppositions.
// The others are of changes by other replicas: up to two, and the slower the machine, the more.
func (c counted) check(t testing.TB) {
	t.Helper()
	for _, x := range []struct {
		what       string
		value, max float64
	}{
		{"writes to the store", c.writes, 1.2},
		{"reads of the store", c.reads, 3.5},
		{"requests that change something", float64(c.asked.Changes) / float64(c.volumes), 2},
		{"syncs, which what an agent did itself is to cause none of", float64(c.asked.Syncs) / float64(c.volumes), 0.5},
	} {
		if x.value > x.max {
			t.Errorf("a volume costs %.2f %s, want %.2f at most", x.value, x.what, x.max)
		}
	}
}

// waited is how long goroutines of this process, which are all agents, waited for a processor. A renewal that is late
// by that time is late for that reason, and not because of control.
func waited() string {
	s := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(s)
	h, all, sum := s[0].Value.Float64Histogram(), uint64(0), uint64(0)
	for _, n := range h.Counts {
		all += n
	}
	for i, n := range h.Counts {
		if sum += n; sum*100 >= all*99 {
			return fmt.Sprintf("the agents' goroutines waited for a processor up to %.3f s, 99 of 100 times", h.Buckets[i+1])
		}
	}
	return ""
}

// load is the number of processes that want to run on this machine.
func load(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("load %s on %d CPUs", strings.Fields(string(b))[0], runtime.NumCPU())
}

// firstRound is the time after which every replica has begun to count its uptime, which it writes to the store once
// in half an hour.
const firstRound = 23 * time.Second

// changed is the index of the newest write to a key and to a session: Consul's log has other entries as well.
func (b *bed) changed(t testing.TB) (indexes [2]uint64) {
	t.Helper()
	_, keys, err := b.consul.Client().KV().Keys("", "", &consulapi.QueryOptions{RequireConsistent: true})
	if err != nil {
		t.Fatal(err)
	}
	_, sessions, err := b.consul.Client().Session().List(&consulapi.QueryOptions{RequireConsistent: true})
	if err != nil {
		t.Fatal(err)
	}
	return [2]uint64{keys.LastIndex, sessions.LastIndex}
}

// steady watches a cluster in which nothing changes: its agents are alive, and nobody writes.
func (b *bed) steady(t testing.TB) {
	t.Helper()
	quiet := time.Duration(long.Rounds(10, 60)) * time.Second
	time.Sleep(time.Until(b.up.Add(firstRound)))
	used, before := b.usage(t), b.changed(t)
	time.Sleep(quiet) // nobody can wait for the absence of events
	if now := b.changed(t); now != before {
		t.Errorf("written to the store in %s in which nothing changed: indexes of keys and sessions were %v and are %v", quiet, before, now)
	}
	t.Logf("nothing to do for %s: %s", quiet, b.usage(t).since(used, quiet))
}
