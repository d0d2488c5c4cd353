package recovery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// A store that was restored from an older backup is corrected from the reports of agents, in these steps:
//
// 1. A request for a recovery is recorded, so that the agents of all replicas learn of it.
// 2. Each agent reports to every replica, which keeps the report in memory.
// 3. The differences are shown. When an operator confirms them, they are corrected, one dataset in each transaction.
// 4. The last transaction ends the halt.
//
// Each transaction decides again what must be corrected. So after an interruption, a repeated request continues the
// recovery.

// reportCollection holds the reports of nodes for one recovery.
type reportCollection struct {
	mu       sync.Mutex
	recovery uuid.UUID
	began    time.Duration // by the service's steady clock
	holdings map[uuid.UUID]api.Holdings
	arrived  chan struct{}
}

// ConfirmTimeout is how long a person has to confirm the differences. After that, the collected reports of the agents
// are dropped from memory.
const ConfirmTimeout = time.Hour

func (g *reportCollection) begin(id uuid.UUID, now time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.recovery, g.began, g.holdings, g.arrived = id, now, map[uuid.UUID]api.Holdings{}, make(chan struct{}, 1)
}

// expire drops the collected reports if no operator confirmed the differences within ConfirmTimeout.
func (g *reportCollection) expire(now time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now-g.began >= ConfirmTimeout {
		g.recovery, g.holdings = uuid.Nil, nil
	}
}

func (g *reportCollection) put(node uuid.UUID, h api.Holdings) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.recovery != h.Recovery || g.holdings == nil {
		return // the report is for a recovery that another replica requested
	}
	g.holdings[node] = h
	select {
	case g.arrived <- struct{}{}:
	default:
	}
}

// end drops the reports for a recovery that has ended.
func (g *reportCollection) end(id uuid.UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.recovery == id {
		g.recovery, g.holdings = uuid.Nil, nil
	}
}

// current returns the present reports, and a channel that receives when another one arrives.
func (g *reportCollection) current() (of uuid.UUID, byNode map[uuid.UUID]api.Holdings, news <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	byNode = make(map[uuid.UUID]api.Holdings, len(g.holdings))
	for node, h := range g.holdings {
		byNode[node] = h
	}
	return g.recovery, byNode, g.arrived
}

// ReportHoldings receives a node's report for a recovery and keeps it in memory, if this service asked for it. A
// later report replaces an earlier one. It fails with dataset.ErrStale for an agent that is not the node's newest,
// and with ErrInvalid for a report that is too large.
func (rc *Recovery) ReportHoldings(ctx context.Context, node uuid.UUID, h api.Holdings) error {
	if err := reports.CheckHoldings(node.String(), h); err != nil {
		return err
	}
	if _, err := membership.FreshNode(record.NewTx(ctx, rc.Ledger.Store), node, h.Incarnation); err != nil {
		return err
	}
	rc.collection.put(node, h)
	return nil
}

// CheckCollecting fails with dataset.ErrConflict unless this service waits for reports for a recovery.
func (rc *Recovery) CheckCollecting() error {
	rc.collection.mu.Lock()
	defer rc.collection.mu.Unlock()
	if rc.collection.holdings == nil {
		return dataset.Errorf(dataset.ErrConflict,
			"this control replica is not recovering the store: it accepts no holdings")
	}
	return nil
}

// StateFor returns the state of the last recovery for a node; nil if there was none.
func StateFor(t *record.Tx, node uuid.UUID) (*api.RecoveryState, error) {
	var rec record.Recovery
	there, err := t.Get(record.RecoveryKey, &rec)
	if err != nil || !there {
		return nil, err
	}
	return &api.RecoveryState{ID: rec.ID, Done: rec.Done, ReportIncluded: slices.Contains(rec.ReportedNodes, node)}, nil
}

// gatherTimeout is how long a recovery waits for the reports of nodes that are alive. gatherPoll is the interval at
// which it examines again which nodes are alive.
const (
	gatherTimeout = 30 * time.Second
	gatherPoll    = time.Second
)

// Recover returns the differences between a store that was restored from a backup and the reports of agents. If the
// request has the digest of these differences, it corrects the store. An interrupted call can be repeated. It fails
// with dataset.ErrUnsupported for the store of a single host, and with ErrInvalid for a node that is not recorded. It
// fails with ErrConflict if the differences are not the confirmed ones, if a dataset is disputed, or if a node that
// does not trust the store has not reported.
//
// A dry run changes nothing: a request to the agents is a change of the store, and would replace the reports that an
// operator may be about to confirm. So a dry run compares the store with the reports that were collected before. It
// fails with ErrConflict if there are none, and as the confirmed request would.
func (rc *Recovery) Recover(ctx context.Context, r api.Recover) (out api.Recovery, err error) {
	if !rc.Ledger.Shared {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"the store belongs to this host only (drover store recover --from-pools updates it)")
	}
	var h record.Halt
	if there, err := record.NewTx(ctx, rc.Ledger.Store).Peek(record.HaltedKey, &h); err != nil || !there {
		none := []string{}
		return api.Recovery{ReportedNodes: none, SilentNodes: none, Differences: []api.RecordDifference{}}, err
	}
	switch collected, _ := rc.Collecting(); {
	case r.DryRun && collected == uuid.Nil:
		err = dataset.Errorf(dataset.ErrConflict,
			"recover: a dry run asks no agents, and this replica has no reports of them: list the differences first "+
				"(drover store recover, which asks before it writes anything)")
	case r.Digest == "" && !r.DryRun:
		err = rc.collectReports(ctx)
	}
	if err != nil {
		return out, err
	}
	c, err := rc.Compare(ctx, r.FencedNodes)
	if err != nil {
		return out, err
	}
	c.result.Halted = h.Err().Error()
	if r.Digest == "" && !r.DryRun {
		return c.result, nil
	}
	if r.Digest != c.result.Digest && r.Digest != "" {
		return out, dataset.Errorf(dataset.ErrConflict,
			"recover: the differences changed after the confirmation: start again (drover store recover)")
	}
	if r.DryRun {
		return c.result, c.checkCorrectable(ctx)
	}
	if err := c.Correct(ctx); err != nil {
		return out, err
	}
	c.result.Done = true
	return c.result, nil
}

// collectReports asks all agents for their reports, and waits for those that are alive.
func (rc *Recovery) collectReports(ctx context.Context) error {
	id := uuid.New()
	rc.collection.begin(id, rc.Ledger.Clock.Steady())
	if _, err := rc.Ledger.Update(ctx, func(t *record.Tx) error {
		if _, err := t.Get(record.RecoveryKey, &record.Recovery{}); err != nil {
			return err
		}
		t.Notice.All = true
		return t.Put(record.RecoveryKey, record.Recovery{ID: id})
	}); err != nil {
		return err
	}
	timeout := rc.Ledger.Clock.After(gatherTimeout)
	for {
		_, byNode, news := rc.collection.current()
		live, err := rc.members.LiveAgents(record.NewTx(ctx, rc.Ledger.Store))
		if err != nil {
			return err
		}
		missing := 0
		for node := range live {
			if _, heard := byNode[node]; !heard {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		select {
		case <-news:
		case <-rc.Ledger.Clock.After(gatherPoll): // a node may have been lost meanwhile
		case <-timeout:
			return nil
		case <-rc.quit:
			return record.Stopping()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Comparison has the differences between the store and the reports of the agents.
type Comparison struct {
	recovery *Recovery
	ID       uuid.UUID
	coverage coverage
	clock    uint64 // the highest store clock that a node has reported
	All      []Difference
	result   api.Recovery
}

// Difference is a dataset whose record differs from the reports of the agents.
type Difference struct {
	*Evidence
	Decision
	// Missing has the snapshots that only the home has, and Extra those that only the store has.
	Missing, Extra []dataset.Snapshot
}

// Compare compares the store with the reports that were collected. It ignores the claims of the nodes in fenced, which
// an operator confirms to be fenced. Compare fails with dataset.ErrConflict if this service has not collected the
// reports for the current recovery.
func (rc *Recovery) Compare(ctx context.Context, fenced []string) (*Comparison, error) {
	t := record.NewTx(ctx, rc.Ledger.Store)
	var rec record.Recovery
	if _, err := t.Peek(record.RecoveryKey, &rec); err != nil {
		return nil, err
	}
	of, byNode, _ := rc.collection.current()
	if of == uuid.Nil || rec.ID != of || rec.Done {
		return nil, dataset.Errorf(dataset.ErrConflict,
			"recover: another replica was asked meanwhile, or nothing was confirmed: start again (drover store "+
				"recover)")
	}
	c := &Comparison{
		recovery: rc,
		ID:       of,
		coverage: coverage{
			reported: map[uuid.UUID]bool{},
			fenced:   map[uuid.UUID]bool{},
			pools:    map[uuid.UUID]bool{},
		},
	}
	for node, h := range byNode {
		c.coverage.reported[node], c.clock = true, max(c.clock, h.StoreClock)
		for _, p := range h.ExaminedPools {
			c.coverage.pools[p] = true
		}
	}
	for _, ref := range fenced {
		n, err := t.FindNode(ref)
		if err != nil {
			return nil, err
		}
		c.coverage.fenced[n.ID] = true
	}
	if err := c.checkFencedUnreachable(t); err != nil {
		return nil, err
	}
	if err := c.listNodes(t); err != nil {
		return nil, err
	}
	list, err := collectEvidence(t, byNode)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if err := c.compareDataset(t, a); err != nil {
			return nil, err
		}
	}
	return c, c.computeDigest(t)
}

// listNodes names the nodes that reported and those that did not.
func (c *Comparison) listNodes(t *record.Tx) error {
	nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
	c.result.ReportedNodes, c.result.SilentNodes = []string{}, []string{}
	c.result.Differences = []api.RecordDifference{}
	for _, n := range nodes {
		if c.coverage.reported[n.ID] {
			c.result.ReportedNodes = append(c.result.ReportedNodes, n.Name)
		} else {
			c.result.SilentNodes = append(c.result.SilentNodes, n.Name)
			c.coverage.silent = c.coverage.silent || !c.coverage.fenced[n.ID]
		}
	}
	slices.Sort(c.result.ReportedNodes)
	slices.Sort(c.result.SilentNodes)
	return err
}

// compareDataset decides about one dataset, and adds it to the comparison if it differs.
func (c *Comparison) compareDataset(t *record.Tx, a *Evidence) error {
	j := Difference{Evidence: a, Decision: a.decide(c.coverage)}
	if j.Record.ID == uuid.Nil {
		return nil
	}
	if j.report != nil && j.report.present && j.action != api.RecordDisputed {
		if err := j.compareSnapshots(t); err != nil {
			return err
		}
		if j.action == "" && len(j.Missing)+len(j.Extra) > 0 {
			j.action = api.RecordSnapshots
		}
	}
	if j.action != "" {
		c.All = append(c.All, j)
	}
	return nil
}

// compareSnapshots compares the recorded snapshots with those at the home.
func (j *Difference) compareSnapshots(t *record.Tx) error {
	onRecord, err := record.ListAll[dataset.Snapshot](t, record.SnapshotPrefix(j.ID))
	if err != nil {
		return err
	}
	has := func(list []dataset.Snapshot, id uuid.UUID) bool {
		return slices.ContainsFunc(list, func(s dataset.Snapshot) bool { return s.ID == id })
	}
	for _, s := range j.report.Snapshots {
		if !has(onRecord, s.ID) {
			j.Missing = append(j.Missing, s)
		}
	}
	for _, s := range onRecord {
		if !has(j.report.Snapshots, s.ID) {
			j.Extra = append(j.Extra, s)
		}
	}
	return nil
}

// computeDigest formats the differences in the order in which they are corrected, and computes a digest of all of them.
func (c *Comparison) computeDigest(t *record.Tx) error {
	slices.SortFunc(c.All, func(x, y Difference) int {
		return cmp.Or(cmp.Compare(x.sortKey(), y.sortKey()), y.Record.Created.Compare(x.Record.Created),
			cmp.Compare(x.ID.String(), y.ID.String()))
	})
	for _, j := range c.All {
		d, err := j.describe(t)
		if err != nil {
			return err
		}
		c.result.Differences = append(c.result.Differences, d)
	}
	text, err := json.Marshal([]any{c.ID, c.result.ReportedNodes, c.result.SilentNodes, c.result.Differences,
		c.coverage.fenced})
	sum := sha256.Sum256(text)
	c.result.Digest = hex.EncodeToString(sum[:8])
	return err
}

// sortKey returns the sort key of a difference. A dataset that releases a name comes before the datasets that may take
// the name. Datasets that the store does not know come last. If two of these have the same name, the newer one comes
// first, because it owns the name.
func (j *Difference) sortKey() int {
	switch {
	case j.action == api.RecordForgotten:
		return 0
	case j.stored != nil && j.Record.State != dataset.StateReady:
		return 1
	case j.stored != nil:
		return 2
	}
	return 3
}

func (j *Difference) describe(t *record.Tx) (api.RecordDifference, error) {
	d := api.RecordDifference{Dataset: j.ID, Volume: j.Record.Volume, Action: j.action, Note: j.note}
	at := func(d dataset.Dataset) (string, error) {
		name, err := t.NodeName(d.Home)
		return fmt.Sprintf("%s, epoch %d on %s", d.State, d.Epoch, name), err
	}
	var err error
	if j.stored != nil {
		if d.InStore, err = at(*j.stored); err != nil {
			return d, err
		}
	}
	if j.action != api.RecordForgotten && j.action != api.RecordMissing {
		if d.OnAgents, err = at(j.Record); err != nil {
			return d, err
		}
	}
	if n, m := len(j.Missing), len(j.Extra); n+m > 0 {
		d.Note = fmt.Sprintf("%d snapshots are missing, %d no longer exist", n, m)
	}
	return d, nil
}
