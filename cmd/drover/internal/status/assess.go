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
	list      []api.Finding
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
				!c.VolumesUnknown && (isFullVolume(finding) || isListedReplica(c, node, finding)) {
				continue
			}
			list = append(list, cli.OfNode{Node: node, Finding: finding})
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
	isStore := func(is cli.OfNode) bool { return is.Subject == "store" }
	if c.Health != nil && c.Health.Store.Halted != "" && !slices.ContainsFunc(list, isStore) {
		f.add(api.LevelError, "store", "", "%s", c.Health.Store.Halted) // the text ends with the next command
	}
}

// isFullVolume reports whether a finding of a doctor says that a volume is full. The list of volumes says that too, and
// is more recent.
func isFullVolume(is api.Finding) bool {
	word, _, _ := strings.Cut(is.Text, ":")
	return strings.HasPrefix(is.Subject, "volume ") &&
		(word == dataset.Full.String() || word == dataset.NearlyFull.String())
}

// isListedReplica reports whether a finding of a node's doctor says that a replica cannot be refreshed, and the list of
// volumes has the reason too.
func isListedReplica(c Cluster, node string, is api.Finding) bool {
	return strings.HasPrefix(is.Text, "cannot refresh its replica here") &&
		slices.ContainsFunc(c.Volumes, func(v api.VolumeSummary) bool {
			return is.Subject == "volume "+v.Volume && slices.ContainsFunc(v.CopyDetails, func(k api.CopyDetail) bool {
				return k.NodeName == node && k.Problem != ""
			})
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

func (f *collector) add(level, subject, fix, format string, args ...any) {
	f.list = append(f.list, api.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Fix: fix})
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
			f.add(api.LevelInfo, "node "+n.Name, "drover node cordon --off "+n.Name,
				"%s: nothing new is placed on it", word)
		}
		if n.Live {
			f.addHomes(n.Name, homes[n.ID])
			continue
		}
		since := ""
		if !n.StatusSince.IsZero() {
			since = " for " + strings.TrimSuffix(cli.Ago(now, n.StatusSince), " ago")
		}
		level, text := api.LevelWarning, "no volume has its home there"
		if c.VolumesUnknown {
			level, text = api.LevelError, "the volumes that have their home there cannot be read"
		}
		if at := homes[n.ID]; len(at) > 0 {
			level, text = api.LevelError, describeHomes(at)
		}
		f.add(level, "node "+n.Name, "drover node inspect "+n.Name, "unreachable%s; %s", since, text)
	}
}

// addHomes adds the volumes whose home a node is to control's finding that the node does not report. If there is no
// such finding, or no volume, addHomes does nothing.
func (f *collector) addHomes(node string, volumes []string) {
	for i, is := range f.list {
		if len(volumes) > 0 && is.Subject == "node "+node && strings.HasPrefix(is.Text, api.SilentPrefix) {
			f.list[i].Text += "; " + describeHomes(volumes)
		}
	}
}

// describeHomes says that a node is the home of volumes.
func describeHomes(volumes []string) string {
	return fmt.Sprintf("home of %s: %s", count(len(volumes), "volume"), cli.Few(volumes))
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
	f.add(api.LevelWarning, "versions", "restart what runs an older one: first the control replicas, one after the "+
		"other, then the guard and agent of each host", "different versions run: %s", strings.Join(lines, "; "))
}

func (f *collector) pools(c Cluster) {
	live := map[uuid.UUID]bool{}
	for _, n := range c.Nodes {
		live[n.ID] = n.Live
	}
	for _, p := range c.Pools {
		inspect := "drover pool inspect " + cli.UniquePoolName(p, c.Pools)
		subject := "pool " + p.Name
		diagnosed := f.diagnosed[about{p.NodeName, subject}]
		if p.NodeName != c.Local {
			subject += " on " + p.NodeName
		}
		if st := p.Status; live[p.Node] && st != nil && st.Overcommit == 0 && st.OvercommitRatio() > 1 {
			f.add(api.LevelInfo, subject, "drover pool set "+p.Name+" --overcommit 1 refuses more",
				"its volumes may become %s large, and it has %s: overcommit %s", st.Provisioned.Human(),
				st.Size.Human(), dataset.FormatRatio(st.OvercommitRatio()))
		}
		switch st := p.Status; {
		case !live[p.Node]: // the finding about the node is enough
		case diagnosed:
		case st == nil:
			f.add(api.LevelWarning, subject, inspect, "the node has not reported the pool")
		case st.Quarantined:
			f.add(api.LevelError, subject, inspect, "held: %s", st.Reason)
		case !st.Online:
			f.add(api.LevelError, subject, inspect, "offline: %s", st.Reason)
		case st.Size > 0 && !f.examined[p.NodeName]: // doctor examines the pools of its host
			if is := st.Fullness(); is != dataset.NotFull {
				f.add(levelOf(is), subject, inspect, "%s: %s", is, st.Usage().Describe(st.Size))
			}
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
			len(v.SharedMountDetails) == 0 && strings.HasPrefix(st.Problem, "pool "+v.PoolName+" is offline")
		// The finding about an unreachable home is enough too.
		if st.Problem != "" && !v.Unreachable && !unusedOffline &&
			!f.isDiagnosed(subject) && !f.isDiagnosed("dataset "+v.ID.String()) {
			f.add(api.LevelError, subject, inspect, "%s", st.Problem)
		}
		if is, text := volumes.Fullness(v.Status, v.Size); is != dataset.NotFull {
			sized := dataset.Dataset{Volume: v.Volume, Size: v.Size}
			sized.Profile.Filesystem = v.Profile.Filesystem
			room := sized.RoomIn(v.PoolName, in.Capabilities, pool, st)
			f.add(levelOf(is), subject, sized.SpaceHint(room, *st.Usage), "%s", text)
		}
	}
	complete := 0
	for _, k := range v.CopyDetails {
		switch {
		case k.Kind == dataset.CopySuperseded:
			f.add(api.LevelWarning, subject, "drover copy ls",
				"node %s keeps a superseded copy, with data that the volume does not have", k.NodeName)
		case volumes.IsWholeReplica(k):
			complete++
			if text := describeReplica(v, k, now); text != "" {
				f.add(api.LevelWarning, subject, inspect, "replica on node %s %s", k.NodeName, text)
			}
		case k.Problem != "":
			f.add(api.LevelWarning, subject, inspect, "copy on node %s: %s", k.NodeName, k.Problem)
		}
	}
	isOld := now.Sub(v.Created) > volumes.MinimumStale
	if want := v.Profile.Replicas.Count; complete < want && (isOld || v.ReplicaShortage != "") {
		next := inspect
		if v.ReplicaShortage != "" {
			next = "drover node ls; drover pool ls; or drover volume set-profile " + name +
				" PROFILE, with fewer replicas"
		}
		f.add(api.LevelWarning, subject, next, "degraded: %d of %s complete%s", complete, count(want, "replica"),
			volumes.DescribeShortage(v.CopyDetails, v.ReplicaShortage))
	}
}

// describeReplica says that a complete replica of a volume is stale or cannot be refreshed. It returns "" for a healthy
// replica.
func describeReplica(v *api.VolumeSummary, k api.CopyDetail, now time.Time) string {
	text := ""
	if verified, stale := volumes.IsStale(v.Profile.Replicas, k, now); stale {
		text = "is stale: last verified " + cli.Ago(now, verified)
	}
	switch {
	case k.Problem == "", v.Unreachable: // the finding about the home says why
	case text == "":
		text = "cannot be refreshed, retrying: " + k.Problem
	default:
		text += "; it cannot be refreshed: " + k.Problem
	}
	return text
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
			f.add(api.LevelWarning, "volume "+cli.ShortName(op.Volume), watch, "a snapshot is late: it was due %s",
				cli.Ago(now, op.Created))
		case age > LongRunning:
			f.add(api.LevelWarning, "operation "+op.ID.String(), watch, "%s of %s started %s and still runs",
				op.Action(), cli.ShortName(op.Volume), cli.Ago(now, op.Created))
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
		f.add(api.LevelWarning, "operation "+op.ID.String(), fix,
			"%s of %s failed %s: %s", op.Action(), cli.ShortName(op.Volume), cli.Ago(now, op.Created), reason)
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
		if is.Subject == "volume "+volume && strings.HasPrefix(is.Text, "its scheduled backup ") {
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

// levelOf returns the level of a finding about a full or nearly full volume or pool.
func levelOf(is dataset.Fullness) string {
	if is == dataset.Full {
		return api.LevelError
	}
	return api.LevelWarning
}

// count returns a number with its noun: "1 volume", "2 volumes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Fine returns findings of level ok: the nodes, pools, control replicas and volumes without a warning or error in list,
// the operations in progress, and what the doctor of the server's host found to work.
func Fine(c Cluster, list []api.Finding, now time.Time) []api.Finding {
	var out []api.Finding
	add := func(subject, format string, args ...any) {
		hasFinding := slices.ContainsFunc(list, func(f api.Finding) bool {
			return f.Subject == subject && f.NeedsAttention()
		})
		if !hasFinding {
			out = append(out, api.Finding{Level: api.LevelOK, Subject: subject, Text: fmt.Sprintf(format, args...)})
		}
	}
	for _, n := range c.Nodes {
		if n.Live && n.Removed.IsZero() {
			add("node "+n.Name, "reachable, version %s", n.Version)
		}
	}
	for _, p := range c.Pools {
		subject := "pool " + p.Name
		if p.NodeName != c.Local {
			subject += " on " + p.NodeName
		}
		if st := p.Status; st != nil && st.Online && !p.Unreachable {
			add(subject, "online, %s of %s is free", st.Free.Human(), st.Size.Human())
		}
	}
	if h := c.Health; h != nil {
		for _, r := range h.Replicas {
			work := ""
			if r.Housekeeper {
				work = "; does the background work"
			}
			add("control "+r.Name, "at %s, running since %s, version %s%s", r.Address, cli.When(now, r.Since),
				r.Version, work)
		}
		if h.Store.Leader != "" {
			add("store", "%s, its leader is %s", h.Store.Kind, h.Store.Leader)
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
		add("volumes", "without a problem: %d of %d", well, len(c.Volumes))
	}
	pending := 0
	for _, op := range c.Operations {
		if !op.State.Final() && op.Kind != dataset.OpPurge {
			pending++
		}
	}
	add("operations", "in progress: %d", pending)
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
