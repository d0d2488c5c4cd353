package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// The durations after which something needs attention.
const (
	// LongRunning is how long an operation may run.
	LongRunning = time.Hour
	// LateSnapshot is how long a snapshot may wait to be taken.
	LateSnapshot = 10 * time.Minute
	// RecentFailure is how long a failed operation is shown. Control keeps ended operations for a day.
	RecentFailure = 24 * time.Hour
)

// Cluster contains the lists that the server returned. They are fetched one after the other, so they can contradict
// each other.
type Cluster struct {
	Local      string // name of the node that answers; empty if the server is not a node
	Nodes      []api.Node
	Pools      []api.Pool
	Volumes    []api.VolumeSummary // with the fields of api.Page.Health
	Operations []dataset.Operation
	// Trash has the datasets in the trash, with those that are pending deletion. If it is nil, they are not known.
	Trash  map[uuid.UUID]bool
	Doctor []api.Finding      // of the server's host
	Health *api.ClusterHealth // nil if it cannot be read
	// VolumesUnknown reports that control did not answer the request for the volumes. Volumes then has at most those of
	// the server's host.
	VolumesUnknown bool
}

// Report is the result of an assessment.
type Report struct {
	Healthy  bool          `json:"healthy"` // nothing needs attention
	Nodes    int           `json:"nodes"`   // number of nodes
	Pools    int           `json:"pools"`   // number of pools
	Volumes  int           `json:"volumes"` // number of volumes
	Findings []api.Finding `json:"findings"`
}

// Assess lists what needs attention: errors first, then by subject. A problem that follows from the state of a pool or
// volume is not listed if the doctor of a node has an error about the same pool or volume, because that error names the
// cause.
func Assess(c Cluster, now time.Time) Report {
	found := &collector{diagnosed: map[about]bool{}, examined: map[string]bool{}}
	found.reports(c)
	found.nodes(c, now)
	found.versions(c)
	found.pools(c)
	pools := map[uuid.UUID]api.Pool{}
	for _, p := range c.Pools {
		pools[p.ID] = p
	}
	for _, v := range c.Volumes {
		if c.VolumesUnknown { // a host without control does not know the copies on other hosts
			v.CopyDetails, v.Profile.Replicas.Count = nil, 0
		}
		found.volume(&v, pools[v.Pool], now)
	}
	found.operations(c, now)
	return NewReport(c, found.list)
}

// NewReport sorts the findings and leaves out repeated ones.
func NewReport(c Cluster, list []api.Finding) Report {
	cli.Sort(list)
	list = slices.Compact(list)
	return Report{
		Healthy: cli.Attention(list) == 0, Nodes: len(c.Nodes), Pools: len(c.Pools), Volumes: len(c.Volumes),
		Findings: append([]api.Finding{}, list...),
	}
}

type collector struct {
	list      condition.List
	diagnosed map[about]bool  // the subjects of the errors that doctors reported
	examined  map[string]bool // nodes whose doctor has reported
}

// about is a subject on a node.
type about struct{ node, subject string }

// reports adds the warnings and errors of all doctors, of the control replicas and of the store.
func (f *collector) reports(c Cluster) {
	var list []cli.OfNode
	report := func(node string, all []api.Finding) {
		f.examined[node] = true
		for _, finding := range all {
			if !finding.NeedsAttention() ||
				condition.ReplicaBehind.Is(finding) && isHomeUnreachable(c, finding.Subject) {
				continue
			}
			at := node
			if condition.VolumeFull.Is(finding) || condition.VolumeFilling.Is(finding) { // only the home reports it
				at = c.Local
			}
			list = append(list, cli.OfNode{Node: at, Finding: finding})
			if finding.Level == api.LevelError {
				f.diagnosed[about{node, finding.Subject}] = true
			}
		}
	}
	if c.Doctor != nil {
		report(c.Local, c.Doctor)
	}
	if c.Health != nil {
		f.list = append(append(f.list, c.Health.Findings...), c.Health.Store.Findings...)
		for _, n := range c.Health.Nodes {
			if n.Live && n.Found != nil && !f.examined[n.Name] { // nodes reports those that do not answer
				report(n.Name, cli.Reported(*n.Found))
			}
		}
	}
	f.list = append(f.list, cli.Merge(list, c.Local)...)
	isStore := func(is cli.OfNode) bool { return condition.StoreHalted.Is(is.Finding) }
	if c.Health != nil && c.Health.Store.Halted != "" && !slices.ContainsFunc(list, isStore) {
		f.list.Add(condition.StoreHalted, "store", "", c.Health.Store.Halted) // the text ends with the next command
	}
}

// isHomeUnreachable reports whether a finding is about a volume whose home is unreachable. The finding about the home
// then says why its replicas cannot be refreshed.
func isHomeUnreachable(c Cluster, subject string) bool {
	return slices.ContainsFunc(c.Volumes, func(v api.VolumeSummary) bool {
		return v.Unreachable && subject == "volume "+v.Volume
	})
}

// isDiagnosed reports whether the doctor of any node has an error about a subject.
func (f *collector) isDiagnosed(subject string) bool {
	for d := range f.diagnosed {
		if d.subject == subject {
			return true
		}
	}
	return false
}

func (f *collector) nodes(c Cluster, now time.Time) {
	homes := map[uuid.UUID][]string{}
	for i := range c.Volumes {
		v := &c.Volumes[i]
		homes[v.Home] = append(homes[v.Home], cli.ShortName(v.Volume))
	}
	for _, n := range c.Nodes {
		if n.Cordoned && n.Removed.IsZero() {
			word := "cordoned"
			switch {
			case n.Drained:
				word = "drained"
			case n.Draining:
				word = "draining"
			}
			f.list.Add(condition.NodeCordoned, "node "+n.Name, "drover node cordon --off "+n.Name, word)
		}
		if n.Live {
			f.addHomes(n.Name, homes[n.ID])
			continue
		}
		since := ""
		if !n.StatusSince.IsZero() {
			since = " for " + strings.TrimSuffix(cli.Ago(now, n.StatusSince), " ago")
		}
		subject, inspect := "node "+n.Name, "drover node inspect "+n.Name
		switch at := homes[n.ID]; {
		case len(at) > 0:
			f.list.Add(condition.NodeDown, subject, inspect, since, describeHomes(at))
		case c.VolumesUnknown:
			f.list.Add(condition.NodeDown, subject, inspect, since,
				"the volumes that have their home there cannot be read")
		default:
			f.list.Add(condition.NodeDownUnused, subject, inspect, since)
		}
	}
}

// addHomes adds the volumes whose home a node is to control's finding that the node does not report. If there is no
// such finding, or no volume, addHomes does nothing.
func (f *collector) addHomes(node string, volumes []string) {
	for i, is := range f.list {
		if len(volumes) > 0 && is.Subject == "node "+node && condition.NodeSilent.Is(is) {
			f.list[i].Text += "; " + describeHomes(volumes)
		}
	}
}

// describeHomes says that a node is the home of volumes.
func describeHomes(volumes []string) string {
	return fmt.Sprintf("home of %s: %s", cli.Count(len(volumes), "volume"), cli.Few(volumes))
}

// versions reports nodes and control replicas that run different versions.
func (f *collector) versions(c Cluster) {
	versions := map[string][]string{}
	if c.Health != nil {
		for _, r := range c.Health.Replicas {
			versions[r.Version] = append(versions[r.Version], "control replica "+r.Name)
		}
	}
	for _, n := range c.Nodes {
		if n.Removed.IsZero() {
			versions[n.Version] = append(versions[n.Version], n.Name)
		}
	}
	if len(versions) < 2 {
		return
	}
	var lines []string
	for _, v := range slices.Sorted(maps.Keys(versions)) {
		lines = append(lines, fmt.Sprintf("%s on %s", v, cli.Few(versions[v])))
	}
	f.list.Add(condition.VersionsDiffer, "versions", "", strings.Join(lines, "; "))
}

func (f *collector) pools(c Cluster) {
	live := map[uuid.UUID]bool{}
	for _, n := range c.Nodes {
		live[n.ID] = n.Live
	}
	for _, p := range c.Pools {
		subject := "pool " + p.Name
		diagnosed := f.diagnosed[about{p.NodeName, subject}]
		if p.NodeName != c.Local {
			subject += " on " + p.NodeName
		}
		if st := p.Status; live[p.Node] && st != nil && st.Overcommit == 0 && st.OvercommitRatio() > 1 {
			f.list.Add(condition.PoolOvercommitted, subject, "drover pool set "+p.Name+" --overcommit 1 refuses more",
				st.Provisioned.Human(), st.Size.Human(), dataset.FormatRatio(st.OvercommitRatio()))
		}
		if live[p.Node] && p.Status == nil && !diagnosed { // if the node is unreachable, the finding about it is enough
			f.list.Add(condition.PoolUnreported, subject, "drover pool inspect "+cli.UniquePoolName(p, c.Pools))
		}
	}
}

// volume reports the problems of a volume. in is its pool, which is empty if it is not known.
func (f *collector) volume(v *api.VolumeSummary, in api.Pool, now time.Time) {
	pool := in.Status
	subject, name := "volume "+cli.ShortName(v.Volume), v.Volume
	inspect := "drover volume inspect " + name
	if st := v.Status; st != nil {
		// The finding about an offline pool is enough for the volumes that nobody uses.
		unusedOffline := pool != nil && !pool.Online && !st.Mounted && len(st.Mounts) == 0 &&
			len(v.SharedMountDetails) == 0
		// The finding about an unreachable home is enough too.
		if st.Problem != "" && !v.Unreachable && !unusedOffline &&
			!f.isDiagnosed(subject) && !f.isDiagnosed("dataset "+v.ID.String()) {
			f.list.Add(condition.VolumeFailing, subject, inspect, st.Problem)
		}
	}
	complete := 0
	for _, k := range v.CopyDetails {
		switch {
		case k.Kind == dataset.CopySuperseded:
			f.list.Add(condition.CopySuperseded, subject, "", k.NodeName)
		case volumes.IsWholeReplica(k):
			complete++
			if verified, stale := volumes.IsStale(v.Profile.Replicas, k, now); stale {
				f.list.Add(condition.ReplicaStale, subject, inspect, k.NodeName, cli.Ago(now, verified))
			}
		case k.Problem != "":
			f.list.Add(condition.CopyFailing, subject, inspect, k.NodeName, k.Problem)
		}
	}
	isOld := now.Sub(v.Created) > volumes.MinimumStale
	if want := v.Profile.Replicas.Count; complete < want && (isOld || v.ReplicaShortage != "") {
		next := inspect
		if v.ReplicaShortage != "" {
			next = "drover node ls; drover pool ls; or drover volume set-profile " + name +
				" PROFILE, with fewer replicas"
		}
		f.list.Add(condition.VolumeDegraded, subject, next, complete, cli.Count(want, "replica"),
			volumes.DescribeShortage(v.CopyDetails, v.ReplicaShortage))
	}
}

// operations reports operations that take long, and those that failed and were not repeated with success. A failed
// purge is repeated by the node, which does not record the repetition: it succeeded if the dataset is not in the trash.
func (f *collector) operations(c Cluster, now time.Time) {
	type work struct {
		kind   dataset.OpKind
		volume string
		purged uuid.UUID // several datasets in the trash can have the name of one volume
	}
	newest := map[work]dataset.Operation{}
	for _, op := range c.Operations {
		k := work{kind: op.Kind, volume: op.Volume}
		if op.Kind == dataset.OpPurge {
			k.purged = op.DatasetID
		}
		watch := "drover operation inspect --wait " + op.ID.String()
		switch age := now.Sub(op.Created); {
		case op.State.Final():
		case op.Kind == dataset.OpSnapshot && age > LateSnapshot:
			f.list.Add(condition.SnapshotLate, "volume "+cli.ShortName(op.Volume), watch, cli.Ago(now, op.Created))
		case age > LongRunning:
			f.list.Add(condition.OperationSlow, "operation "+op.ID.String(), watch, op.Action(),
				cli.ShortName(op.Volume), cli.Ago(now, op.Created))
		}
		if op.State.Final() && !wasRefused(op) && !newest[k].Created.After(op.Created) {
			newest[k] = op
		}
	}
	for _, op := range newest {
		isRepeated := op.Kind == dataset.OpPurge && c.Trash != nil && !c.Trash[op.DatasetID]
		if op.State != dataset.OpFailed || now.Sub(op.Created) > RecentFailure || isRepeated ||
			isDamageOf(op, c.Volumes) {
			continue
		}
		reason := "the reason is not recorded"
		if op.Problem != nil {
			reason = op.Problem.Message
		}
		fix := remedy(op)
		if op.Kind == dataset.OpBackup && op.Scheduled && f.explainBackup(op.Volume, fix) {
			continue
		}
		f.list.Add(condition.OperationFailed, "operation "+op.ID.String(), fix, op.Action(), cli.ShortName(op.Volume),
			cli.Ago(now, op.Created), reason)
	}
}

// isDamageOf reports whether a verification found a damaged backup of an existing volume. Control has a finding about
// the backup, which stays until a later backup or verification is good.
func isDamageOf(op dataset.Operation, list []api.VolumeSummary) bool {
	if op.Kind != dataset.OpVerify || op.Problem == nil {
		return false
	}
	is := dataset.KindByCode(op.Problem.Code)
	return (is == dataset.ErrCorrupt || is == dataset.ErrNotFound) &&
		slices.ContainsFunc(list, func(v api.VolumeSummary) bool { return v.ID == op.BackupOf })
}

// remedy returns the next command after an operation failed: it examines the repository or the pool if the error is
// about one, or repeats the backup or snapshot. A success ends the finding. For other operations it shows the details.
func remedy(op dataset.Operation) string {
	is, volume := (*dataset.Kind)(nil), cli.ShortName(op.Volume)
	if op.Problem != nil {
		is = dataset.KindByCode(op.Problem.Code)
	}
	switch {
	case op.Kind == dataset.OpBackup && op.Repository != "":
		again := "drover backup create " + volume + " --to " + op.Repository
		switch is {
		case dataset.ErrForbidden, dataset.ErrOffline, dataset.ErrNotFound, dataset.ErrCorrupt, dataset.ErrExists:
			return "drover repository check " + op.Repository + ", then " + again
		}
		return again
	case op.Kind == dataset.OpSnapshot && is == dataset.ErrNoSpace:
		return "drover volume ls --sort -in_pool"
	case op.Kind == dataset.OpSnapshot:
		return "drover snapshot create " + volume
	}
	return "drover operation inspect " + op.ID.String()
}

// explainBackup sets the remedy of control's finding about the failed scheduled backups of a volume. Control does not
// name the operation that failed. explainBackup returns false if there is no such finding: control only reports
// repeated failures.
func (f *collector) explainBackup(volume, fix string) bool {
	for i, is := range f.list {
		if is.Subject == "volume "+volume && (condition.BackupFailing.Is(is) || condition.BackupLate.Is(is)) {
			f.list[i].Fix = fix
			return true
		}
	}
	return false
}

// wasRefused reports whether an operation failed because its request was refused: it was invalid, or impossible in the
// state of the cluster at that time. The person who made the request has received the error, so nothing needs
// attention. Nobody has received the error of a backup or verification that a schedule requested.
func wasRefused(op dataset.Operation) bool {
	if op.State != dataset.OpFailed || op.Problem == nil || op.Scheduled {
		return false
	}
	kind := dataset.KindByCode(op.Problem.Code)
	switch kind {
	case dataset.ErrInvalid, dataset.ErrUnsupported, dataset.ErrExists, dataset.ErrInUse, dataset.ErrProtected,
		dataset.ErrForbidden, dataset.ErrNoSpace:
		switch op.Kind {
		case dataset.OpSnapshot: // schedules make such requests too
			return op.Snapshot != nil && op.Snapshot.Kind == dataset.SnapshotManual
		case dataset.OpSnapshotDelete, dataset.OpPurge:
			return false // retention and expiry make such requests too
		case dataset.OpMove:
			return kind == dataset.ErrInUse // also requested by a failover, which does not wait for users
		}
		return true
	}
	return false
}

// Fine returns findings of level ok: the nodes, pools, control replicas and volumes without a warning or error in list,
// the operations in progress, and what the doctor of the server's host found to work.
func Fine(c Cluster, list []api.Finding, now time.Time) []api.Finding {
	var out condition.List
	add := func(row *condition.Condition, subject string, values ...any) {
		hasFinding := slices.ContainsFunc(list, func(f api.Finding) bool {
			return f.Subject == subject && f.NeedsAttention()
		})
		if !hasFinding {
			out.Add(row, subject, "", values...)
		}
	}
	for _, n := range c.Nodes {
		if n.Live && n.Removed.IsZero() {
			add(condition.NodeWorks, "node "+n.Name, n.Version)
		}
	}
	for _, p := range c.Pools {
		subject := "pool " + p.Name
		if p.NodeName != c.Local {
			subject += " on " + p.NodeName
		}
		if st := p.Status; st != nil && st.Online && !p.Unreachable {
			add(condition.PoolOnline, subject, st.Free.Human(), st.Size.Human())
		}
	}
	if h := c.Health; h != nil {
		for _, r := range h.Replicas {
			work := ""
			if r.Housekeeper {
				work = "; does the background work"
			}
			add(condition.ReplicaWorks, "control "+r.Name, r.Address, cli.When(now, r.Since), r.Version, work)
		}
		if h.Store.Leader != "" {
			add(condition.StoreWorks, "store", h.Store.Kind, h.Store.Leader)
		}
	}
	if !c.VolumesUnknown {
		withFinding := map[string]bool{}
		for _, f := range list {
			if f.NeedsAttention() {
				withFinding[f.Subject] = true
			}
		}
		well := 0
		for i := range c.Volumes {
			if !withFinding["volume "+cli.ShortName(c.Volumes[i].Volume)] {
				well++
			}
		}
		add(condition.VolumesWork, "volumes", well, len(c.Volumes))
	}
	pending := 0
	for _, op := range c.Operations {
		if !op.State.Final() && op.Kind != dataset.OpPurge {
			pending++
		}
	}
	add(condition.OperationsPending, "operations", pending)
	for _, f := range c.Doctor {
		known := slices.ContainsFunc(out, func(o api.Finding) bool {
			return o.Subject == f.Subject || strings.HasPrefix(f.Subject, "volume ")
		})
		if f.Level == api.LevelOK && !known {
			out = append(out, f)
		}
	}
	return out
}
