// Package health reports the state of the parts of a cluster: the servers of the store, the control replicas, and the
// nodes with the findings of their agents.
//
// Package control embeds a Reader in its Service, so the API calls it directly. Its answer is used by drover status and
// drover backup ls, by the ls commands, which warn if the store is halted, and by the metrics of cmd/drover. It changes
// nothing, and has no state: reports.Latest has the reports of nodes. If the store cannot be read, the answer still
// contains the other parts. A new part of the answer gets a field of api.ClusterHealth and is filled in here. So is a
// finding that compares a node with control, such as a clock that differs.
package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Reader reads the state of the cluster. Its methods are safe for concurrent use.
type Reader struct {
	members *membership.Members
	store   store.Store // as it was opened, which may be a store.HealthReporter
	kind    string      // of the store: "bolt", "consul"
	own     func() []api.Finding
	exports Source
	late    Source
}

// Source returns findings.
type Source func(context.Context) ([]api.Finding, error)

// New returns a Reader. s is the store as it was opened. own returns the findings about the host of this service; if
// nil, there are none. exports and late return those about exports of the records, and about scheduled backups.
func New(m *membership.Members, s store.Store, kind string, own func() []api.Finding, exports, late Source) *Reader {
	return &Reader{m, s, kind, own, exports, late}
}

// readTime bounds the reading of records: if Consul has no leader, a read waits for the next one.
const readTime = 5 * time.Second

// backupTime bounds the reading of the scheduled backups.
const backupTime = 3 * time.Second

// ClusterHealth returns the state of the store, the control replicas and the nodes. It fails only if ctx ends.
// Anything else that cannot be read becomes a finding.
func (r *Reader) ClusterHealth(ctx context.Context) (api.ClusterHealth, error) {
	out := api.ClusterHealth{Store: r.storeHealth(ctx), Nodes: []api.NodeHealth{}}
	if r.own != nil {
		out.Findings = append(out.Findings, r.own()...)
	}
	reading, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	isNamed := slices.ContainsFunc(out.Store.Findings, condition.StoreUnavailable.Is)
	unreadable := func(what string, err error) {
		// the deadline: readTime has passed. A damaged record, in contrast, needs a finding in any case.
		if errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			if isNamed {
				return
			}
			isNamed = true
		}
		out.Findings = append(out.Findings, condition.StoreUnreadable.Finding("store", "", what, err))
	}
	var halt record.Halt
	switch there, err := record.NewTx(reading, r.members.Ledger.Store).Peek(record.HaltedKey, &halt); {
	case err != nil:
		unreadable("whether changes are suspended", err)
	case there:
		out.Store.Halted = halt.Err().Error()
	}
	halted, err := r.failoverFindings(reading, !isNamed)
	if err != nil {
		unreadable("whether failover is halted", err)
	}
	out.Findings = append(out.Findings, halted...)
	if r.members.Ledger.Shared {
		replicas, err := r.replicas(reading)
		if err != nil {
			unreadable("the list of control replicas", err)
		}
		out.Replicas = replicas
	}
	nodes, err := r.members.NodeList(reading, "")
	if err != nil {
		unreadable("the list of nodes", err)
	}
	for _, n := range nodes {
		out.Nodes = append(out.Nodes, r.node(n))
		if n.Live {
			out.Findings = append(out.Findings, r.nodeFindings(n)...)
		}
	}
	slices.SortFunc(out.Nodes, func(a, b api.NodeHealth) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node.String(), b.Node.String()))
	})
	if !isNamed {
		failing, err := r.exports(reading)
		if err != nil {
			unreadable("what became of the exports of the records", err)
		}
		out.Findings = append(out.Findings, failing...)
	}
	if !isNamed {
		out.Findings = append(out.Findings, r.lateBackups(ctx)...)
	}
	return out, ctx.Err()
}

// lateBackups returns the findings about scheduled backups. Reading them can need the records of all volumes, so it is
// the last part of ClusterHealth, and has its own time: whatever fails here hides no other part.
func (r *Reader) lateBackups(ctx context.Context) []api.Finding {
	ctx, cancel := context.WithTimeout(ctx, backupTime)
	defer cancel()
	late, err := r.late(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("reading the records takes longer than %s", backupTime)
	}
	if err != nil {
		late = append(late, condition.BackupsUnknown.Finding("scheduled backups", "", err))
	}
	return late
}

// node returns the last report of a node.
func (r *Reader) node(n api.Node) api.NodeHealth {
	last, clock := r.members.Reports.Heartbeat(n.ID), r.members.Ledger.Clock
	out := api.NodeHealth{Node: n.ID, Name: n.Name, Live: n.Live, Found: last.Found}
	if last.Heard {
		out.Reported = clock.Now().Add(last.At - clock.Steady())
	}
	return out
}

// nodeFindings warns of a live node whose clock is wrong by more than maxClockError, or whose last report is older than
// reports.MaxSilence.
func (r *Reader) nodeFindings(n api.Node) (out condition.List) {
	subject := "node " + n.Name
	if ahead := r.clockAhead(n.ID); ahead.Abs() > maxClockError {
		word := "ahead of"
		if ahead < 0 {
			word = "behind"
		}
		out.Add(condition.ClockWrong, subject, "", ahead.Abs().Round(time.Second), word)
	}
	if now := r.members.Ledger.Clock.Steady(); r.members.Reports.IsSilent(n.ID, now) {
		silence := now - r.members.Reports.Heartbeat(n.ID).At
		out.Add(condition.NodeSilent, subject, "drover node inspect "+n.Name+"; on that host: drover doctor",
			silence.Round(time.Second))
	}
	return out
}

// failoverFindings returns the finding that failover is halted because many nodes vanished together. If that is not
// recorded yet and soon is true, the finding says that failover will be halted: the background work records a halt,
// which takes up to Timing.Housekeeping.
func (r *Reader) failoverFindings(ctx context.Context, soon bool) (condition.List, error) {
	halted, err := membership.FailoverSuspended(record.NewTx(ctx, r.members.Ledger.Store))
	switch {
	case err != nil:
		return nil, err
	case halted != "":
		text, fix, _ := strings.Cut(halted, ": ")
		return condition.List{condition.FailoverHalted.Finding("failover", fix, text)}, nil
	case soon:
		return r.members.MassLossSoon(ctx)
	}
	return nil, nil
}

// maxClockError is the largest difference between the clocks of a node and of control that is not reported. Times in
// records are then close enough to each other for schedules and for the age of replicas. It is well below pki.Skew, so
// that a difference is reported before certificates are refused because of it.
const maxClockError = time.Minute

// clockAhead returns how far the clock of a node was ahead of the clock of this service at the node's last heartbeat.
// It is negative if the clock was behind, and 0 if it is not known.
func (r *Reader) clockAhead(node uuid.UUID) time.Duration {
	reported := r.members.Reports.Heartbeat(node).Clock
	if reported.IsZero() {
		return 0
	}
	clock := r.members.Ledger.Clock
	return reported.Sub(clock.Now().Add(reported.At - clock.Steady()))
}

// replicas lists the control replicas with a session, by name.
func (r *Reader) replicas(ctx context.Context) ([]api.ControlReplica, error) {
	t := record.NewTx(ctx, r.members.Ledger.Store)
	list, err := record.ListAll[membership.Replica](t, record.LiveServicesPrefix)
	if err != nil {
		return nil, err
	}
	var keeper record.HousekeeperLock
	if _, err := t.Get(record.HousekeeperKey, &keeper); err != nil {
		return nil, err
	}
	var out []api.ControlReplica
	for _, c := range list {
		out = append(out, api.ControlReplica{
			ID: c.ID, Name: c.Name, Address: c.Address, Version: c.Version, Since: c.Since,
			Housekeeper: c.ID != uuid.Nil && c.ID == keeper.Replica,
		})
	}
	slices.SortFunc(out, func(a, b api.ControlReplica) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	return out, nil
}

// storeHealth returns the state of the store. A store in a file has no servers.
func (r *Reader) storeHealth(ctx context.Context) api.StoreHealth {
	out := api.StoreHealth{Kind: r.kind}
	reporter, ok := r.store.(store.HealthReporter)
	if !ok {
		return out
	}
	h := reporter.Health(ctx)
	out.Leader = h.Leader
	for _, s := range h.Servers {
		out.Servers = append(out.Servers, api.StoreServer{
			Name: s.Name, Address: s.Address, Healthy: s.Healthy, Leader: s.Leader,
			LastContact: dataset.Duration(max(s.LastContact, 0)),
		})
	}
	out.Findings = StoreFindings(h)
	return out
}

// minConsulServers is the smallest number of Consul servers that tolerates the failure of one. A single server is a
// deliberate choice, and causes no warning. Two servers cause a warning, because they stop when either of them fails.
// They are what remains of three after autopilot removed a failed server, which it does by default within about ten
// seconds (https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file/bootstrap,
// cleanup_dead_servers).
const minConsulServers = 3

// StoreFindings returns what needs attention about the servers of a store. It is a pure function.
func StoreFindings(h store.Health) []api.Finding {
	var out condition.List
	if h.Problem != "" {
		out.Add(condition.StoreUnavailable, "store", "", h.Problem)
		return out
	}
	for _, s := range h.Servers {
		if s.Healthy {
			continue
		}
		more := ""
		if h.FailureTolerance == 0 {
			more = "; if one more server fails, nothing can be created, moved or deleted"
		}
		out.Add(condition.StoreServerDown, "store", "", s.Name, s.Address, more)
	}
	if len(out) == 0 && len(h.Servers) == minConsulServers-1 {
		out.Add(condition.StoreServersFew, "store", "", len(h.Servers))
	}
	return out
}
