package host

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
)

// collector reads the figures when somebody asks for them; nothing is kept.
type collector struct {
	svc   *control.Service
	store *bolt.Store

	pool, poolOnline, mounted, uses, used, size *prometheus.Desc
	commits, txns, conflicts, entries, reserve  *prometheus.Desc
}

// newMetrics returns the handler of /metrics, with a registry of its own.
func newMetrics(svc *control.Service, st *bolt.Store, version string) http.Handler {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("drover_"+name, help, labels, nil)
	}
	c := &collector{
		svc: svc, store: st,
		pool:       d("pool_bytes", "Bytes of a pool.", "pool", "node", "state"),
		poolOnline: d("pool_online", "1 while a pool is in its place.", "pool", "node"),
		mounted:    d("volume_mounted", "1 while a volume is mounted.", "volume", "node"),
		uses:       d("volume_mounts", "Mount IDs that use a volume.", "volume", "node"),
		used:       d("volume_used_bytes", "Bytes that a volume's data takes: of its filesystem while it is mounted, of the pool otherwise.", "volume", "node"),
		size:       d("volume_size_bytes", "Bytes that a volume's data can take; none where there is no limit.", "volume", "node"),
		commits:    d("store_commits_total", "Flushed commits of the store."),
		txns:       d("store_transactions_total", "Transactions that the store committed."),
		conflicts:  d("store_conflicts_total", "Transactions that the store refused, as something had changed."),
		entries:    d("store_entries", "Keys in the store."),
		reserve:    d("store_reserve_bytes", "Bytes set aside so that volumes can be removed when the disk is full; 0 where that cannot be had."),
	}
	r := prometheus.NewRegistry()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "drover_build_info", Help: "1, with the version."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	r.MustRegister(c, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: 10 * time.Second})
}

// Describe names the figures.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.pool, c.poolOnline, c.mounted, c.uses, c.used, c.size, c.commits, c.txns, c.conflicts, c.entries, c.reserve} {
		ch <- d
	}
}

// Collect reads them. A figure that cannot be read is left out: the scrape says
// so.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.store.Stats()
	gauge(c.entries, float64(s.Entries))
	gauge(c.reserve, float64(s.ReserveBytes))
	for d, v := range map[*prometheus.Desc]uint64{c.commits: s.Commits, c.txns: s.Txns, c.conflicts: s.Conflicts} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	pools, err := c.svc.Pools(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.pool, err)
	}
	for _, p := range pools {
		if p.Status == nil {
			continue
		}
		gauge(c.poolOnline, flag(p.Status.Online), p.Name, p.NodeName)
		gauge(c.pool, float64(p.Status.Free), p.Name, p.NodeName, "free")
		gauge(c.pool, float64(p.Status.Size), p.Name, p.NodeName, "size")
	}
	for _, v := range c.svc.Seen(ctx) {
		c.volume(gauge, v)
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

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
