package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/cmd/drover/internal/volumes"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The limits of time from which on something needs attention.
const (
	// LongRunning is how long an operation may run.
	LongRunning = time.Hour
	// RecentFailure is how long a failed operation is shown. Control keeps ended operations for a day.
	RecentFailure = 24 * time.Hour
	// minimumStale is how old a replica may always be: a node reports each 15 s, and a transfer takes time.
	minimumStale = 5 * time.Minute
)

// The levels of findings that need attention, as in api.Finding.
const (
	levelError   = "error"
	levelWarning = "warning"
)

// levelInfo is the level of a state that an operator chose, and that is easily forgotten. It needs no attention: the
// report stays healthy.
const levelInfo = "info"

// Cluster contains the lists that the server returned. They are fetched one after the other, so they can contradict
// each other.
type Cluster struct {
	Local      string // name of the node that answers; empty if the server is not a node
	Nodes      []api.Node
	Pools      []api.Pool
	Volumes    []api.Volume
	Operations []dataset.Operation
	Doctor     []api.Finding // of the server's host
}

// Report is the result of an assessment.
type Report struct {
	Healthy  bool          `json:"healthy"` // nothing needs attention
	Nodes    int           `json:"nodes"`   // number of nodes
	Pools    int           `json:"pools"`   // number of pools
	Volumes  int           `json:"volumes"` // number of volumes
	Findings []api.Finding `json:"findings"`
}

// Assess lists what needs attention: errors first, then by subject. If the doctor has an error about a pool or volume
// whose state is a problem too, only the doctor's is listed, because it knows the cause.
func Assess(c Cluster, now time.Time) Report {
	found := &findings{diagnosed: map[string]bool{}}
	for _, f := range c.Doctor {
		if f.Level == levelError || f.Level == levelWarning {
			found.list = append(found.list, f)
		}
		if f.Level == levelError {
			found.diagnosed[f.Subject] = true
		}
	}
	found.nodes(c, now)
	found.pools(c)
	for _, v := range c.Volumes {
		found.volume(v, now)
	}
	found.operations(c.Operations, now)
	return NewReport(c, found.list)
}

// NewReport sorts the findings and leaves out repeated ones.
func NewReport(c Cluster, list []api.Finding) Report {
	slices.SortStableFunc(list, func(x, y api.Finding) int {
		return cmp.Or(cmp.Compare(severity(x), severity(y)), cmp.Compare(x.Subject, y.Subject),
			cmp.Compare(x.Text, y.Text), cmp.Compare(x.Fix, y.Fix))
	})
	list = slices.Compact(list)
	return Report{
		Healthy: needAttention(list) == 0, Nodes: len(c.Nodes), Pools: len(c.Pools), Volumes: len(c.Volumes),
		Findings: append([]api.Finding{}, list...),
	}
}

// severity orders findings: errors first, then warnings.
func severity(f api.Finding) int {
	return slices.Index([]string{levelError, levelWarning, levelInfo}, f.Level)
}

// needAttention returns how many findings need attention: all but those of levelInfo.
func needAttention(list []api.Finding) (n int) {
	for _, f := range list {
		if f.Level != levelInfo {
			n++
		}
	}
	return n
}

type findings struct {
	list      []api.Finding
	diagnosed map[string]bool // subjects about which the doctor has an error
}

func (f *findings) add(level, subject, fix, format string, args ...any) {
	f.list = append(f.list, api.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Fix: fix})
}

func (f *findings) nodes(c Cluster, now time.Time) {
	homes := map[uuid.UUID][]string{}
	for _, v := range c.Volumes {
		homes[v.Home] = append(homes[v.Home], cli.ShortName(v.Volume))
	}
	versions := map[string][]string{}
	for _, n := range c.Nodes {
		if n.Removed.IsZero() {
			versions[n.Version] = append(versions[n.Version], n.Name)
		}
		if n.Cordoned && n.Removed.IsZero() {
			word := "cordoned"
			if n.Draining {
				word = "draining"
			}
			f.add(levelInfo, "node "+n.Name, "drover node uncordon "+n.Name, "%s: nothing new is placed on it", word)
		}
		if n.Live {
			continue
		}
		since := ""
		if !n.StatusSince.IsZero() {
			since = " for " + strings.TrimSuffix(show.Ago(now, n.StatusSince), " ago")
		}
		level, text := levelWarning, "no volume has its home there"
		if at := homes[n.ID]; len(at) > 0 {
			level, text = levelError, fmt.Sprintf("home of %s: %s", count(len(at), "volume"), few(at))
		}
		f.add(level, "node "+n.Name, "drover node inspect "+n.Name, "unreachable%s; %s", since, text)
	}
	if len(versions) > 1 {
		var lines []string
		for _, v := range slices.Sorted(maps.Keys(versions)) {
			lines = append(lines, fmt.Sprintf("%s on %s", v, few(versions[v])))
		}
		f.add(levelWarning, "versions", "", "the nodes run different versions: %s", strings.Join(lines, ", "))
	}
}

func (f *findings) pools(c Cluster) {
	live := map[uuid.UUID]bool{}
	for _, n := range c.Nodes {
		live[n.ID] = n.Live
	}
	for _, p := range c.Pools {
		inspect := "drover pool inspect " + p.Name
		subject := "pool " + p.Name
		diagnosed := p.NodeName == c.Local && f.diagnosed[subject]
		if p.NodeName != c.Local {
			subject += " on " + p.NodeName
		}
		switch st := p.Status; {
		case !live[p.Node]: // the finding about the node is enough
		case diagnosed:
		case st == nil:
			f.add(levelWarning, subject, inspect, "the node has not reported the pool")
		case st.Held:
			f.add(levelError, subject, inspect, "held: %s", st.Reason)
		case !st.Online:
			f.add(levelError, subject, inspect, "offline: %s", st.Reason)
		case st.Size > 0 && (p.NodeName != c.Local || c.Doctor == nil): // doctor examines the pools of its host
			percent := volumes.Percent(st.Size-st.Free, st.Size)
			if word := volumes.Fullness(percent); word != "" {
				f.add(levelOf(word), subject, inspect, "%s: %d%% of %s used", word, percent, st.Size.Human())
			}
		}
	}
}

func (f *findings) volume(v api.Volume, now time.Time) {
	subject, name := "volume "+cli.ShortName(v.Volume), v.Volume
	inspect := "drover volume inspect " + name
	if st := v.Status; st != nil {
		if st.Problem != "" && !f.diagnosed[subject] && !f.diagnosed["dataset "+v.ID.String()] {
			f.add(levelError, subject, inspect, "%s", st.Problem)
		}
		if word, grow := volumes.FullnessOf(v); word != "" {
			percent, _ := volumes.PercentUsed(v)
			f.add(levelOf(word), subject, grow, "%s: %d%% of %s used", word, percent, v.Size.Human())
		}
	}
	whole := 0
	for _, k := range v.CopyDetails {
		switch {
		case k.Kind == dataset.CopySuperseded:
			f.add(levelWarning, subject, "drover volume superseded ls",
				"node %s keeps a superseded copy, with data that the volume does not have", k.NodeName)
		case k.Problem != "":
			f.add(levelWarning, subject, inspect, "copy on node %s: %s", k.NodeName, k.Problem)
		case k.Kind == dataset.CopyReplica && k.Snapshot != uuid.Nil:
			whole++
			allowed := max(3*time.Duration(v.Profile.Replicas.Every), minimumStale)
			upToDate := k.Taken // a copy that just became a replica was not verified yet
			if k.VerifiedAt.After(upToDate) {
				upToDate = k.VerifiedAt
			}
			if now.Sub(upToDate) > allowed {
				f.add(levelWarning, subject, inspect, "replica on node %s is stale: last verified %s", k.NodeName,
					show.Ago(now, upToDate))
			}
		}
	}
	if want := v.Profile.Replicas.Count; whole < want && now.Sub(v.Created) > minimumStale {
		f.add(levelWarning, subject, inspect, "degraded: %d of %s complete", whole, count(want, "replica"))
	}
}

// operations reports operations that take long, and those that failed and were not repeated with success.
func (f *findings) operations(ops []dataset.Operation, now time.Time) {
	type work struct {
		kind   dataset.OpKind
		volume string
	}
	newest := map[work]dataset.Operation{}
	for _, op := range ops {
		k := work{op.Kind, op.Volume}
		if !op.State.Final() && now.Sub(op.Created) > LongRunning {
			f.add(levelWarning, "operation "+op.ID.String(), "drover operation watch "+op.ID.String(),
				"%s of %s started %s and still runs", op.Kind, cli.ShortName(op.Volume), show.Ago(now, op.Created))
		}
		if op.State.Final() && !newest[k].Created.After(op.Created) {
			newest[k] = op
		}
	}
	for _, op := range newest {
		if op.State != dataset.OpFailed || now.Sub(op.Created) > RecentFailure {
			continue
		}
		why := "the reason is not recorded"
		if op.Problem != nil {
			why = op.Problem.Message
		}
		f.add(levelWarning, "operation "+op.ID.String(), "", "%s of %s failed %s: %s", op.Kind,
			cli.ShortName(op.Volume), show.Ago(now, op.Created), why)
	}
}

// levelOf returns the level of a finding about a full or nearly full volume or pool.
func levelOf(fullness string) string {
	if fullness == volumes.Full {
		return levelError
	}
	return levelWarning
}

// few returns at most three of the names, and how many more there are.
func few(names []string) string {
	slices.Sort(names)
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}

// count returns a number with its noun: "1 volume", "2 volumes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
