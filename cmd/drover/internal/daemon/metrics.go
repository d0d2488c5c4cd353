package daemon

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/guard"
)

// collector reads the figures at each request. It stores none.
type collector struct {
	source poolsAndVolumes
	store  []figure

	pool, poolOnline, mounted, uses, used, size, age, halted *prometheus.Desc
	maxLoss, storeHalted, poolHeld                           *prometheus.Desc
	superseded, guardUp, guardAhead, guardFenced             *prometheus.Desc
}

// poolsAndVolumes returns the present state of pools and volumes. Agents and control implement it.
type poolsAndVolumes interface {
	Pools(context.Context) ([]api.Pool, error)
	SeenVolumes(context.Context) []api.Volume // the volumes that are or were mounted
}

// replicaReporter returns the state of the replicas on a node. Only agents implement it.
type replicaReporter interface {
	ReplicaLags() []agent.ReplicaLag
	SupersededVolumes() (volumes []string)
}

// failoverReporter returns whether volumes fail over automatically. Only control implements it.
type failoverReporter interface {
	Failover(context.Context) (api.FailoverState, error)
}

// haltReporter returns why control does not trust the store, or "" if control trusts it.
type haltReporter interface {
	Halted(context.Context) (why string, err error)
}

// guardReporter reads the status of a node's guard.
type guardReporter interface {
	GuardStatus(context.Context) (guard.Status, error)
}

// figure is one figure of a store.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func() float64
}

func storeFigure(name, help string, kind prometheus.ValueType, read func() float64) figure {
	return figure{prometheus.NewDesc("drover_store_"+name, help, nil, nil), kind, read}
}

func boltFigures(st *bolt.Store) []figure {
	count, gauge := prometheus.CounterValue, prometheus.GaugeValue
	return []figure{
		storeFigure("commits_total", "Flushed commits of the store.", count,
			func() float64 { return float64(st.Stats().Commits) }),
		storeFigure("transactions_total", "Transactions that the store committed.", count,
			func() float64 { return float64(st.Stats().Txns) }),
		storeFigure("conflicts_total", "Transactions that the store refused because of a conflict.", count,
			func() float64 { return float64(st.Stats().Conflicts) }),
		storeFigure("entries", "Keys in the store.", gauge, func() float64 { return float64(st.Stats().Entries) }),
		storeFigure("reserve_bytes", "Bytes reserved so that volumes can be removed when the disk is full; 0 if "+
			"reserving is not possible.", gauge, func() float64 { return float64(st.Stats().ReserveBytes) }),
	}
}

func consulFigures(st *consul.Store) []figure {
	count := prometheus.CounterValue
	return []figure{
		storeFigure("transactions_total", "Transactions that this process committed.", count,
			func() float64 { return float64(st.Stats().Txns) }),
		storeFigure("conflicts_total", "Transactions of this process that the store refused because of a conflict.",
			count, func() float64 { return float64(st.Stats().Conflicts) }),
		storeFigure("unknown_total", "Transactions of this process that failed for another reason; the outcome "+
			"of most is unknown.", count, func() float64 { return float64(st.Stats().Unknown) }),
		storeFigure("requests_total", "Requests of this process to Consul, without watches.", count,
			func() float64 { return float64(st.Stats().Requests) }),
		storeFigure("watch_wakes_total", "Responses of Consul to watches of this process.", count,
			func() float64 { return float64(st.Stats().Wakes) }),
	}
}

// newMetrics returns the handler of /metrics, with a registry of its own.
func newMetrics(seen poolsAndVolumes, st []figure, version string) http.Handler {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("drover_"+name, help, labels, nil)
	}
	c := &collector{
		source: seen, store: st,
		pool:       d("pool_bytes", "Size of a pool in bytes.", "pool", "node", "state"),
		poolOnline: d("pool_online", "1 while a pool is online.", "pool", "node"),
		poolHeld: d("pool_held", "1 while a pool is held because its disk was restored from an older state.", "pool",
			"node"),
		mounted: d("volume_mounted", "1 while a volume is mounted.", "volume", "node"),
		uses:    d("volume_mounts", "Number of mount IDs that use a volume.", "volume", "node"),
		used: d("volume_used_bytes", "Bytes used by a volume: in its filesystem while it is mounted, in the pool "+
			"otherwise.", "volume", "node"),
		size: d("volume_size_bytes", "Size limit of a volume in bytes; absent if there is none.",
			"volume", "node"),
		age: d("replica_age_seconds", "Maximum lag of the replica of a volume on this node behind its home.", "volume"),
		maxLoss: d("replica_max_loss_seconds",
			"Maximum lag of a replica that may take over automatically, for a volume with failover auto.",
			"volume"),
		superseded: d("copy_superseded", "1 for a superseded copy on this node, which a person must discard.",
			"volume"),
		halted: d("failover_halted", "1 while automatic failover is halted because too many nodes vanished together."),

		storeHalted: d("store_halted", "1 while the store is inconsistent and changes are suspended."),

		guardUp: d("guard_up", "1 while the guard responds."),
		guardAhead: d("guard_deadline_seconds",
			"Time until the guard fences a volume; negative after the deadline.",
			"volume"),
		guardFenced: d("guard_fenced", "1 while a volume is fenced or being fenced.", "volume"),
	}
	r := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "drover_build_info", Help: "Always 1, with the " +
		"version as a label."},
		[]string{"version"})
	info.WithLabelValues(version).Set(1)
	r.MustRegister(c, info, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: 10 * time.Second})
}

// Describe sends the descriptions of the figures.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.pool, c.poolOnline, c.poolHeld, c.mounted, c.uses, c.used, c.size, c.age,
		c.maxLoss, c.superseded, c.halted, c.storeHalted, c.guardUp, c.guardAhead, c.guardFenced} {
		ch <- d
	}
	for _, f := range c.store {
		ch <- f.desc
	}
}

// Collect reads the figures. A figure that cannot be read is omitted, and the scrape reports the error.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	all := gauges{}
	defer all.send(ch)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		all.add(d, v, d == c.guardAhead || d == c.maxLoss || d == c.size, labels)
	}
	for _, f := range c.store {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read())
	}
	pools, err := c.source.Pools(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.pool, err)
	}
	for _, p := range pools {
		if p.Status == nil {
			continue
		}
		gauge(c.poolOnline, flag(p.Status.Online), p.Name, p.NodeName)
		gauge(c.poolHeld, flag(p.Status.Held), p.Name, p.NodeName)
		gauge(c.pool, float64(p.Status.Free), p.Name, p.NodeName, "free")
		gauge(c.pool, float64(p.Status.Size), p.Name, p.NodeName, "size")
	}
	for _, v := range c.source.SeenVolumes(ctx) {
		c.volume(gauge, v)
	}
	if dec, isControl := c.source.(failoverReporter); isControl { // agents do not implement it
		if st, err := dec.Failover(ctx); err != nil {
			ch <- prometheus.NewInvalidMetric(c.halted, err)
		} else {
			gauge(c.halted, flag(st.Halted != ""))
		}
	}
	if dec, isControl := c.source.(haltReporter); isControl {
		if reason, err := dec.Halted(ctx); err != nil {
			ch <- prometheus.NewInvalidMetric(c.storeHalted, err)
		} else {
			gauge(c.storeHalted, flag(reason != ""))
		}
	}
	if k, isAgent := c.source.(replicaReporter); isAgent { // control does not implement it, because it has no replicas
		for _, r := range k.ReplicaLags() {
			gauge(c.age, r.Age.Seconds(), r.Volume)
			if r.MaxLoss > 0 {
				gauge(c.maxLoss, r.MaxLoss.Seconds(), r.Volume)
			}
		}
		for _, volume := range k.SupersededVolumes() {
			gauge(c.superseded, 1, volume)
		}
	}
	if g, asks := c.source.(guardReporter); asks {
		st, err := g.GuardStatus(ctx)
		gauge(c.guardUp, flag(err == nil))
		c.guard(gauge, st)
	}
}

func (c *collector) guard(gauge func(*prometheus.Desc, float64, ...string), st guard.Status) {
	for _, e := range st.Datasets {
		if e.State == guard.StateRebooted || e.State == guard.StateSuperseded {
			continue // nobody can write to it any more
		}
		gauge(c.guardAhead, (e.Deadline - st.Now).Seconds(), e.Volume)
		gauge(c.guardFenced, flag(e.State != guard.StateArmed), e.Volume)
	}
}

func (c *collector) volume(gauge func(*prometheus.Desc, float64, ...string), v api.Volume) {
	if v.Status == nil {
		return
	}
	gauge(c.mounted, flag(v.Status.Mounted), v.Volume, v.Node)
	gauge(c.uses, float64(len(v.Status.Mounts)), v.Volume, v.Node)
	gauge(c.used, float64(v.Status.Used), v.Volume, v.Node)
	if v.Size > 0 {
		gauge(c.size, float64(v.Size), v.Volume, v.Node)
	}
}

// gauges contains one gauge for each name and set of labels. A volume in the trash and the present volume of the same
// name may both be on this host. Then the gauge has the worse of the two values.
type gauges map[string]gauge

type gauge struct {
	desc   *prometheus.Desc
	value  float64
	labels []string
}

func (g gauges) add(d *prometheus.Desc, v float64, lowIsWorse bool, labels []string) {
	key := strings.Join(append([]string{d.String()}, labels...), "\x00")
	switch existing, exists := g[key]; {
	case exists && lowIsWorse:
		v = min(v, existing.value)
	case exists:
		v = max(v, existing.value)
	}
	g[key] = gauge{d, v, labels}
}

func (g gauges) send(ch chan<- prometheus.Metric) {
	for _, f := range g {
		ch <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, f.value, f.labels...)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
