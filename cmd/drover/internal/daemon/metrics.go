package daemon

import (
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// samples are the samples of one request. The result of families has one sample for each family and set of label
// values. A volume in the trash and the present volume of the same name may both be on this host. Both have the same
// labels then, so families keeps the worse of the two values.
type samples struct {
	hideVolumes bool
	of          map[*Family]*series
}

type series struct {
	list  []sample // can have several samples with the same label values
	worse func(a, b float64) float64
}

type sample struct {
	values []string
	value  float64
}

// set sets a sample. values are those of the labels of the family, in their order. The caller must not change them
// later, and can pass the same slice for several families. If a sample is set several times, the largest value stays.
func (s *samples) set(f *Family, value float64, values ...string) { s.add(f, value, values, math.Max) }

// setLow is like set for a family whose lower values are worse: the smallest value stays. A family is always set with
// the same one of the two functions.
func (s *samples) setLow(f *Family, value float64, values ...string) {
	s.add(f, value, values, math.Min)
}

func (s *samples) add(f *Family, value float64, values []string, worse func(a, b float64) float64) {
	if s.hideVolumes && slices.Contains(f.labels, "volume") {
		return
	}
	all := s.of[f]
	if all == nil {
		all = &series{worse: worse}
		s.of[f] = all
	}
	all.list = append(all.list, sample{values, value})
}

// families returns the samples in the form in which Prometheus' library exposes them.
func (s *samples) families() (out []*dto.MetricFamily) {
	for f, all := range s.of {
		slices.SortFunc(all.list, func(a, b sample) int { return slices.Compare(a.values, b.values) })
		kept := all.list[:0] // the worse one of two with the same labels
		for _, next := range all.list {
			if n := len(kept); n > 0 && slices.Equal(kept[n-1].values, next.values) {
				kept[n-1].value = all.worse(kept[n-1].value, next.value)
				continue
			}
			kept = append(kept, next)
		}
		all.list = kept
		out = append(out, all.family(f))
	}
	return out
}

// family makes all samples of a family in a few allocations.
func (s *series) family(f *Family) *dto.MetricFamily {
	n, each := len(s.list), len(f.labels)
	metrics, pairs := make([]dto.Metric, n), make([]dto.LabelPair, n*each)
	pointers, pairPointers := make([]*dto.Metric, n), make([]*dto.LabelPair, n*each)
	kind := dto.MetricType_GAUGE
	gauges, counters := []dto.Gauge(nil), []dto.Counter(nil)
	if f.kind == counter {
		kind, counters = dto.MetricType_COUNTER, make([]dto.Counter, n)
	} else {
		gauges = make([]dto.Gauge, n)
	}
	for i := range s.list {
		for j := range f.labels {
			at := i*each + j
			pairs[at].Name, pairs[at].Value = &f.labels[j], &s.list[i].values[j]
			pairPointers[at] = &pairs[at]
		}
		m := &metrics[i]
		m.Label = pairPointers[i*each : (i+1)*each : (i+1)*each]
		if f.kind == counter {
			counters[i].Value = &s.list[i].value
			m.Counter = &counters[i]
		} else {
			gauges[i].Value = &s.list[i].value
			m.Gauge = &gauges[i]
		}
		pointers[i] = m
	}
	return &dto.MetricFamily{Name: &f.name, Help: &f.help, Type: &kind, Metric: pointers}
}

// kind is the type of a metric, as Prometheus names it.
type kind string

// The types of metrics.
const (
	gauge     kind = "gauge"
	counter   kind = "counter"
	histogram kind = "histogram"
)

// The processes that have a metric. "drover serve" is a host with control, so it has both.
const (
	onHost    = "agent"
	onControl = "control"
	onAll     = "all"
)

// Family describes all series of one name. It does not change.
type Family struct {
	name   string
	kind   kind
	unit   string   // "" if the value is a number without a unit
	labels []string // in the order of the alphabet, as they are exposed
	help   string
	on     string
}

// Name returns the name of the metric.
func (f *Family) Name() string { return f.name }

// catalog lists all families that were declared.
var catalog []*Family

// declare adds a family to the catalog.
func declare(name string, k kind, unit, on, help string, labels ...string) *Family {
	f := &Family{name: "drover_" + name, kind: k, unit: unit, labels: labels, help: help, on: on}
	catalog = append(catalog, f)
	return f
}

// Pools.
var (
	poolBytes = declare("pool_bytes", gauge, "bytes", onAll,
		"Size of a pool in bytes, how much of it is free, and the sum of the sizes of its volumes (provisioned).",
		"node", "pool", "state")
	poolOnline = declare("pool_online", gauge, "", onAll, "1 while a pool is online.", "node", "pool")
	poolHeld   = declare("pool_held", gauge, "", onAll,
		"1 while a pool is held because its disk was restored from an older state.", "node", "pool")
)

// Volumes.
var (
	volumeMounted = declare("volume_mounted", gauge, "", onAll, "1 while a volume is mounted.", "node", "volume")
	volumeMounts  = declare("volume_mounts", gauge, "", onAll, "Number of mount IDs that use a volume.",
		"node", "volume")
	volumeUsed = declare("volume_used_bytes", gauge, "bytes", onAll,
		"Bytes that the files of a volume use, as df shows them in it; absent if that is not known, as for a volume "+
			"that was never mounted.", "node", "volume")
	volumeInPool = declare("volume_in_pool_bytes", gauge, "bytes", onAll,
		"Bytes that a volume occupies in its pool, including those that it shares with snapshots and clones; absent "+
			"if that is not known.", "node", "volume")
	volumeSize = declare("volume_size_bytes", gauge, "bytes", onAll,
		"Size limit of a volume in bytes; absent if there is none.", "node", "volume")
	volumeInodes = declare("volume_inodes", gauge, "", onAll,
		"Inodes of the filesystem of a volume; absent if its filesystem is that of the pool, or not known.",
		"node", "volume")
	volumeInodesUsed = declare("volume_inodes_used", gauge, "", onAll,
		"Used inodes of the filesystem of a volume; absent as drover_volume_inodes is.", "node", "volume")
	volumeFailing = declare("volume_failing", gauge, "", onAll,
		"1 while a volume has a problem that volume inspect describes.", "node", "volume")

	volumeIOBytes = declare("volume_io_bytes_total", counter, "bytes", onHost,
		"Bytes that were read from and written to the block device of a mounted volume. "+ofBlockLayer,
		"direction", "node", "volume")
	volumeIOOperations = declare("volume_io_operations_total", counter, "", onHost,
		"Completed read and write operations of the block device of a mounted volume. "+ofBlockLayer,
		"direction", "node", "volume")
	volumeIOSeconds = declare("volume_io_seconds_total", counter, "seconds", onHost,
		"Time that the read and write operations of the block device of a mounted volume took together; divided by "+
			"their number, it is their mean latency. "+ofBlockLayer, "direction", "node", "volume")

	snapshotAge = declare("volume_snapshot_age_seconds", gauge, "seconds", onControl,
		"Time since the last scheduled snapshot of a volume, or since its creation if there is none; only of volumes "+
			"whose profile has a schedule. "+ofHousekeeper, "volume")
	snapshotOverdue = declare("volume_snapshot_overdue_seconds", gauge, "seconds", onControl,
		"Time since a scheduled snapshot of a volume should have been taken; 0 if none is missing. "+ofHousekeeper,
		"volume")
	backupAge = declare("volume_backup_age_seconds", gauge, "seconds", onControl,
		"Time since the last good scheduled backup of a volume, or since the schedule applies if there is none; only "+
			"of volumes whose profile has scheduled backups. "+ofHousekeeper, "volume")
	backupOverdue = declare("volume_backup_overdue_seconds", gauge, "seconds", onControl,
		"Time since a scheduled backup of a volume became due; 0 if none is due. "+ofHousekeeper, "volume")
	backupFailures = declare("volume_backup_failures", gauge, "", onControl,
		"Scheduled backups of a volume that failed since the last good one. "+ofHousekeeper, "volume")
	verifyAge = declare("volume_backup_verified_age_seconds", gauge, "seconds", onControl,
		"Time since the last good scheduled verification of a volume's backups, or since the schedule applies if "+
			"there is none; only of volumes whose profile has scheduled verifications. "+ofHousekeeper, "volume")
	verifyOverdue = declare("volume_backup_verify_overdue_seconds", gauge, "seconds", onControl,
		"Time since a scheduled verification of a volume's backups became due; 0 if none is due. "+ofHousekeeper,
		"volume")
	verifyFailures = declare("volume_backup_verify_failures", gauge, "", onControl,
		"Scheduled verifications of a volume's backups that failed since the last good one. "+ofHousekeeper, "volume")
	exportAge = declare("records_export_age_seconds", gauge, "seconds", onControl,
		"Time since the records of control were last stored in a repository, or since the repository was added if "+
			"they never were. Records that do not change are stored once a day. "+ofHousekeeper, "repository")
	exportFailing = declare("records_export_failing_seconds", gauge, "seconds", onControl,
		"Time since the records of control cannot be stored in a repository; 0 if the last attempt succeeded. "+
			ofHousekeeper, "repository")
	snapshotFailures = declare("volume_snapshot_failures_total", counter, "", onHost,
		"Snapshots of a volume that failed since this process started.", "volume")
	trashUsed = declare("volume_trash_bytes", gauge, "bytes", onHost,
		"Bytes used by the deleted datasets of a volume that are in the trash of this node; absent if the backend "+
			"would have to walk through all files.", "volume")
)

const (
	ofBlockLayer = "From /proc/diskstats: only of backends with a block device for each volume (loop, lvm); absent " +
		"for the others, whose volumes share the device of the pool."
	ofHousekeeper = "Only the control replica that does the background work has it."
)

// Trash of a host. These have no series for each volume, so HideVolumes does not remove them.
var (
	trashBytes = declare("trash_bytes", gauge, "bytes", onHost,
		"Bytes used by the deleted datasets in the trash of this node, as far as they are known.")
	trashDatasets = declare("trash_datasets", gauge, "", onHost, "Number of datasets in the trash of this node.")
)

// Replicas and failover.
var (
	replicaAge = declare("replica_age_seconds", gauge, "seconds", onHost,
		"Maximum lag of the replica of a volume on this node behind its home.", "volume")
	replicaMaxLoss = declare("replica_max_loss_seconds", gauge, "seconds", onHost,
		"Maximum lag of a replica that may take over automatically, for a volume with failover auto.", "volume")
	replicaInterval = declare("replica_interval_seconds", gauge, "seconds", onHost,
		"Time between two refreshes of the replica of a volume on this node, according to the profile.", "volume")
	superseded = declare("copy_superseded", gauge, "", onHost,
		"1 for a superseded copy on this node, which a person must discard.", "volume")
	failoverHalted = declare("failover_halted", gauge, "", onControl,
		"1 while automatic failover is halted because too many nodes vanished together.")
)

// Leases and fencing.
var (
	leaseAge = declare("lease_renewal_age_seconds", gauge, "seconds", onHost,
		"Time since this node sent the last renewal of its session that control answered.")
	leaseTTL = declare("lease_ttl_seconds", gauge, "seconds", onHost,
		"How long the session of this node is valid after a renewal.")
	guardUp       = declare("guard_up", gauge, "", onHost, "1 while the guard responds; absent without a cluster.")
	guardDeadline = declare("guard_deadline_seconds", gauge, "seconds", onHost,
		"Time until the guard fences a volume; negative after the deadline.", "volume")
	guardFenced = declare("guard_fenced", gauge, "", onHost, "1 while a volume is fenced or being fenced.", "volume")
	fenceTime   = declare("guard_fence_seconds", gauge, "seconds", onHost,
		"Time from the deadline of a volume until its last fence was complete; absent if it was never fenced.",
		"volume")
	fenceBound = declare("guard_fence_bound_seconds", gauge, "seconds", onHost,
		"Longest time from the deadline of a volume until its fence is complete.", "volume")
)

// The cluster.
var (
	nodeUp = declare("node_up", gauge, "", onControl, "1 while control hears from the agent of a node.", "node")
	// A removed node has no series.
	nodeFindings = declare("node_findings", gauge, "", onControl,
		"Number of errors and warnings that the agent of a node found when it last examined its host (drover doctor).",
		"level", "node")
	controlReplicas = declare("control_replicas", gauge, "", onControl,
		"Number of control replicas that are alive; absent on a single host.")
	storeHalted = declare("store_halted", gauge, "", onControl,
		"1 while the store is inconsistent and changes are suspended.")
	storeLeader = declare("store_leader", gauge, "", onControl, "1 while Consul has a leader; absent without Consul.")
	storeServer = declare("store_server_healthy", gauge, "", onControl,
		"1 while a Consul server follows the leader closely; absent without Consul.", "server")
	certificateExpiry = declare("certificate_expiry_timestamp_seconds", gauge, "seconds", onAll,
		"When the certificate of this process expires, as a Unix time; absent without a cluster.")
	buildInfo = declare("build_info", gauge, "", onAll, "Always 1, with the version as a label.", "version")
)

// The store.
var (
	storeCommits = declare("store_commits_total", counter, "", onControl, "Flushed commits of a store in a file.")
	storeTxns    = declare("store_transactions_total", counter, "", onControl,
		"Transactions that this process committed.")
	storeConflicts = declare("store_conflicts_total", counter, "", onControl,
		"Transactions that the store refused because of a conflict.")
	storeEntries = declare("store_entries", gauge, "", onControl, "Keys in a store in a file.")
	storeReserve = declare("store_reserve_bytes", gauge, "bytes", onControl,
		"Bytes that a store in a file reserves so that volumes can be removed when the disk is full; 0 if reserving "+
			"is not possible.")
	storeUnknown = declare("store_unknown_total", counter, "", onControl,
		"Transactions with Consul that failed for another reason than a conflict; the outcome of most is unknown.")
	storeRequests = declare("store_requests_total", counter, "", onControl,
		"Requests of this process to Consul, without watches.")
	storeWakes = declare("store_watch_wakes_total", counter, "", onControl,
		"Responses of Consul to watches of this process.")
)

// Durations.
var (
	operationSeconds = declare("operation_duration_seconds", histogram, "seconds", onHost,
		"Duration of the operations that this node carried out, by kind. "+outcomes, "kind", "outcome")
	pluginSeconds = declare("plugin_call_duration_seconds", histogram, "seconds", onHost,
		"Duration of the calls of the container engine, by name. "+outcomes, "call", "outcome")
	apiSeconds = declare("api_request_duration_seconds", histogram, "seconds", onAll,
		"Duration of the requests that this process answered, by endpoint. Endpoints that wait for changes or "+
			"transfer data take as long as that. "+outcomes, "endpoint", "outcome")
	controlSeconds = declare("control_request_duration_seconds", histogram, "seconds", onHost,
		"Duration of the requests of this agent to control, by endpoint; absent on a single host, where they are "+
			"calls. "+outcomes, "endpoint", "outcome")
	storeSeconds = declare("store_request_duration_seconds", histogram, "seconds", onControl,
		"Duration of the requests of control to its store, which is Consul or a file, without watches. A conflict is "+
			"refused. "+outcomes, "operation", "outcome", "store")
)

const outcomes = "The outcome is ok, refused (the request cannot be carried out), failed, or cancelled."
