package daemon

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// MetricsOptions has the sources of the metrics of a process.
type MetricsOptions struct {
	Version string
	// Source is the view of pools and volumes: control, or the agent in a process without control.
	Source Source
	// Agent is the agent of this process, or nil. It implements some of the reporter interfaces in collector.go, such
	// as ioReporter.
	Agent any
	// Store are the metrics of the store.
	Store []Figure
	// HideVolumes leaves out the metrics with a series for each volume.
	HideVolumes bool
	// Certificate returns when the certificate of this process expires. It is nil without a cluster.
	Certificate func() time.Time
	// Recorder has the durations of operations and requests.
	Recorder *Recorder
	// Exports returns what became of the exports of the records to repositories. It is nil without control.
	Exports func(context.Context) ([]repositories.State, error)
}

// Source returns the present state of pools and volumes. Control implements it, and so does the view of an agent in
// package daemon (hostView). It may also implement some of the reporter interfaces in collector.go.
type Source interface {
	Pools(context.Context) ([]api.Pool, error)
	// SeenVolumes returns the volumes that are or were mounted. With an error, it returns those that it could read.
	SeenVolumes(context.Context) ([]api.VolumeSummary, error)
}

// replicaReporter returns the state of the replicas on a node. Only agents implement it.
type replicaReporter interface {
	ReplicaLags() []agent.ReplicaLag
	SupersededVolumes() (volumes []string)
}

// ioReporter returns how much the volumes on a node were read and written. Only agents implement it.
type ioReporter interface {
	VolumeIO(context.Context) ([]api.VolumeIO, error)
}

// trashReporter returns the datasets in the trash of a node. Only agents implement it.
type trashReporter interface {
	TrashUsage(context.Context) []agent.TrashedDataset
}

// sessionReporter returns the state of a node's session with control. Only agents implement it.
type sessionReporter interface {
	Session() (age, ttl time.Duration, ok bool)
}

// guardReporter reads the status of a node's guard. It fails with dataset.ErrUnsupported if there is none.
type guardReporter interface {
	GuardStatus(context.Context) (guard.Status, error)
}

// failoverReporter returns whether volumes fail over automatically. Only control implements it.
type failoverReporter interface {
	Failover(context.Context) (api.FailoverState, error)
}

// haltReporter returns why control does not trust the store, or "" if control trusts it.
type haltReporter interface {
	Halted(context.Context) (why string, err error)
}

// healthReporter returns the state of the parts of a cluster. Only control implements it.
type healthReporter interface {
	ClusterHealth(context.Context) (api.ClusterHealth, error)
}

// scheduleReporter returns the schedules of snapshots and backups. Only control implements it.
type scheduleReporter interface {
	Schedules(context.Context) ([]housekeeping.Schedule, []housekeeping.BackupSchedule, error)
}

// collectTime bounds the collection. Prometheus waits 10 s for an answer by default.
const collectTime = 5 * time.Second

// NewMetrics returns the handler of /metrics. It uses a separate registry. The handler leaves out the metrics that it
// cannot read, so that a part that does not answer does not hide the other parts. It counts such a request in
// promhttp_metric_handler_errors_total.
func NewMetrics(o MetricsOptions) http.Handler {
	if o.Recorder == nil {
		o.Recorder = NewRecorder()
	}
	r := prometheus.NewRegistry()
	r.MustRegister(o.Recorder.operations, o.Recorder.calls, o.Recorder.requests, o.Recorder.control, o.Recorder.stores)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(&collector{o, r}, promhttp.HandlerOpts{
		MaxRequestsInFlight: 2, Timeout: 2 * collectTime, ErrorHandling: promhttp.ContinueOnError, Registry: r,
	})
}

// collector reads the metrics at each request. It stores none.
//
// It is a prometheus.Gatherer, because a prometheus.Collector would create, compare and sort each of some 100,000
// samples of a host with 10,000 volumes, which takes more than a second.
type collector struct {
	MetricsOptions
	registry *prometheus.Registry
}

// Gather implements prometheus.Gatherer.
func (c *collector) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime)
	defer cancel()
	s := &samples{hideVolumes: c.HideVolumes, of: map[*Family]*series{}}
	var health api.ClusterHealth
	var healthErr error
	var wg sync.WaitGroup // if Consul has no leader, each part may wait until ctx ends
	reporter, hasHealth := c.Source.(healthReporter)
	if hasHealth {
		wg.Go(func() { health, healthErr = reporter.ClusterHealth(ctx) })
	}
	s.set(buildInfo, 1, c.Version)
	for _, f := range c.Store {
		s.set(f.family, f.read())
	}
	if c.Certificate != nil {
		s.set(certificateExpiry, float64(c.Certificate().Unix()))
	}
	errs := []error{c.pools(ctx, s), c.volumes(ctx, s), c.decisions(ctx, s)}
	part := c.Agent
	if part == nil {
		part = c.Source
	}
	errs = append(errs, c.node(ctx, s, part))
	wg.Wait()
	if hasHealth {
		cluster(s, health)
		errs = append(errs, healthErr)
	}
	own, err := c.registry.Gather()
	all := append(s.families(), own...)
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int {
		return strings.Compare(a.GetName(), b.GetName())
	})
	return all, errors.Join(append(errs, err)...)
}

func (c *collector) pools(ctx context.Context, s *samples) error {
	pools, err := c.Source.Pools(ctx)
	for _, p := range pools {
		if p.Status == nil {
			continue
		}
		s.set(poolOnline, indicator(p.Status.Online), p.NodeName, p.Name)
		s.set(poolHeld, indicator(p.Status.Quarantined), p.NodeName, p.Name)
		s.set(poolBytes, float64(p.Status.Free), p.NodeName, p.Name, "free")
		s.set(poolBytes, float64(p.Status.Size), p.NodeName, p.Name, "size")
		s.set(poolBytes, float64(p.Status.Provisioned), p.NodeName, p.Name, "provisioned")
	}
	return err
}

func (c *collector) volumes(ctx context.Context, s *samples) error {
	if c.HideVolumes {
		return nil // SeenVolumes is slow, so it is not called
	}
	volumes, err := c.Source.SeenVolumes(ctx)
	for _, v := range volumes {
		if v.Status == nil {
			continue
		}
		labels := []string{v.Node, v.Volume}
		s.set(volumeMounted, indicator(v.Status.Mounted), labels...)
		s.set(volumeMounts, float64(len(v.Status.Mounts)), labels...)
		if u := v.Status.Usage; u != nil && u.Inodes > 0 {
			s.setLow(volumeInodes, float64(u.Inodes), labels...)
			s.set(volumeInodesUsed, float64(u.InodesUsed), labels...)
		}
		if used := v.Status.Used; used != nil {
			s.set(volumeUsed, float64(*used), labels...)
		}
		if inPool := v.Status.InPool; inPool != nil {
			s.set(volumeInPool, float64(*inPool), labels...)
		}
		s.set(volumeFailing, indicator(v.Status.Problem != ""), labels...)
		if v.Size > 0 {
			s.setLow(volumeSize, float64(v.Size), labels...)
		}
		if c.Agent != nil {
			s.set(snapshotFailures, float64(c.Recorder.snapshotFailures(v.Volume)), v.Volume)
		}
	}
	return err
}

// decisions sets the samples about the decisions of control: failover, trust in the store, and the schedules of
// snapshots and backups.
func (c *collector) decisions(ctx context.Context, s *samples) error {
	var errs []error
	if r, ok := c.Source.(failoverReporter); ok {
		st, err := r.Failover(ctx)
		if err == nil {
			s.set(failoverHalted, indicator(st.Halted != ""))
		}
		errs = append(errs, err)
	}
	if r, ok := c.Source.(haltReporter); ok {
		why, err := r.Halted(ctx)
		if err == nil {
			s.set(storeHalted, indicator(why != ""))
		}
		errs = append(errs, err)
	}
	if r, ok := c.Source.(scheduleReporter); ok {
		snapshots, backups, err := r.Schedules(ctx)
		errs = append(errs, err)
		for _, schedule := range snapshots {
			s.set(snapshotAge, schedule.Age.Seconds(), schedule.Volume)
			s.set(snapshotOverdue, schedule.Overdue.Seconds(), schedule.Volume)
		}
		for _, schedule := range backups {
			s.set(backupAge, schedule.Age.Seconds(), schedule.Volume)
			s.set(backupOverdue, schedule.Overdue.Seconds(), schedule.Volume)
			s.set(backupFailures, float64(schedule.Failures), schedule.Volume)
			if v := schedule.Verified; v != nil {
				s.set(verifyAge, v.Age.Seconds(), schedule.Volume)
				s.set(verifyOverdue, v.Overdue.Seconds(), schedule.Volume)
				s.set(verifyFailures, float64(v.Failures), schedule.Volume)
			}
		}
	}
	if c.Exports != nil {
		states, err := c.Exports(ctx)
		for _, state := range states {
			s.set(exportAge, state.Age.Seconds(), state.Repository)
			s.set(exportFailing, state.Failing.Seconds(), state.Repository)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// node sets the samples that only an agent knows. part is the agent or, without one, the source. node sets the samples
// of those reporter interfaces that part implements.
func (c *collector) node(ctx context.Context, s *samples, part any) (err error) {
	if r, ok := part.(replicaReporter); ok {
		for _, lag := range r.ReplicaLags() {
			s.set(replicaAge, lag.Age.Seconds(), lag.Volume)
			if lag.Interval > 0 {
				s.set(replicaInterval, lag.Interval.Seconds(), lag.Volume)
			}
			if lag.MaxLoss > 0 {
				s.setLow(replicaMaxLoss, lag.MaxLoss.Seconds(), lag.Volume)
			}
		}
		for _, volume := range r.SupersededVolumes() {
			s.set(superseded, 1, volume)
		}
	}
	if r, ok := part.(ioReporter); ok && !c.HideVolumes {
		list, ioErr := r.VolumeIO(ctx)
		for _, v := range list {
			read, write := []string{"read", v.Node, v.Volume}, []string{"write", v.Node, v.Volume}
			s.set(volumeIOBytes, float64(v.Read.Bytes), read...)
			s.set(volumeIOBytes, float64(v.Write.Bytes), write...)
			s.set(volumeIOOperations, float64(v.Read.Operations), read...)
			s.set(volumeIOOperations, float64(v.Write.Operations), write...)
			s.set(volumeIOSeconds, time.Duration(v.Read.Time).Seconds(), read...)
			s.set(volumeIOSeconds, time.Duration(v.Write.Time).Seconds(), write...)
		}
		err = ioErr
	}
	if r, ok := part.(trashReporter); ok {
		trash(s, r.TrashUsage(ctx))
	}
	if r, ok := part.(sessionReporter); ok {
		if age, ttl, ok := r.Session(); ok {
			s.set(leaseAge, age.Seconds())
			s.set(leaseTTL, ttl.Seconds())
		}
	}
	if r, ok := part.(guardReporter); ok {
		st, gerr := r.GuardStatus(ctx)
		if !errors.Is(gerr, dataset.ErrUnsupported) {
			s.set(guardUp, indicator(gerr == nil))
			fences(s, st)
		}
	}
	return err
}

func trash(s *samples, list []agent.TrashedDataset) {
	var all dataset.Size
	of := map[string]dataset.Size{}
	for _, d := range list {
		if d.Known {
			of[d.Volume] += d.Used
			all += d.Used
		}
	}
	for volume, used := range of {
		s.set(trashUsed, float64(used), volume)
	}
	s.set(trashBytes, float64(all))
	s.set(trashDatasets, float64(len(list)))
}

func fences(s *samples, st guard.Status) {
	for _, e := range st.Datasets {
		if e.Fence != nil {
			s.set(fenceTime, e.Fence.Overrun.Seconds(), e.Volume)
		}
		if e.State == guard.StateRebooted || e.State == guard.StateSuperseded {
			continue // nobody can write to it any more
		}
		s.set(fenceBound, e.Bound.Seconds(), e.Volume)
		s.setLow(guardDeadline, (e.Deadline - st.Now).Seconds(), e.Volume)
		s.set(guardFenced, indicator(e.State != guard.StateArmed), e.Volume)
	}
}

func cluster(s *samples, h api.ClusterHealth) {
	for _, n := range h.Nodes {
		s.setLow(nodeUp, indicator(n.Live), n.Name)
		if n.Found == nil || !n.Live {
			continue
		}
		number := map[string]int{"error": 0, "warning": 0}
		for _, f := range n.Found.Findings {
			number[f.Level]++
		}
		for level, count := range number {
			s.set(nodeFindings, float64(count), level, n.Name)
		}
	}
	if len(h.Replicas) > 0 {
		s.set(controlReplicas, float64(len(h.Replicas)))
	}
	if h.Store.Kind == "consul" {
		s.set(storeLeader, indicator(h.Store.Leader != ""))
	}
	for _, server := range h.Store.Servers {
		s.setLow(storeServer, indicator(server.Healthy), server.Name)
	}
}

func indicator(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
