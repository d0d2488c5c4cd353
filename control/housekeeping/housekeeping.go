// Package housekeeping does the background work of control: it requests the snapshots, backups and verifications that
// are due, removes the snapshots that retention does not keep, empties the trash, maintains the number of copies,
// updates the records of unreachable members, and removes old records of operations.
//
// Only the service that holds the lock under record.HousekeeperKey does the work, and each of its transactions checks
// the lock. Run keeps a Memory between rounds, which only its goroutine uses. All goroutines can read three other
// states in memory: schedules (of snapshots, as Run has seen them), backupRecords (the scheduled backups, as they were
// read from the store in the last minute) and refused (why verifications could not be requested). The first and the
// last are sync.Maps, and backupRecords has a turn, a channel; packages view and repositories read them. An atomic flag
// says whether this service does the work. All other state is in the store.
//
// To add a periodic task, call it in Round. Schedules of snapshots are in schedule.go, those of backups in backups.go,
// verifications.go and latebackups.go. The trash is in trash.go, and the removal of old operations in forget.go. Which
// snapshots retention keeps is in schedule.go (expired).
package housekeeping

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

const (
	// FullInterval is the time between two rounds that examine everything. Other services change records too, and their
	// notices can be missed.
	FullInterval = record.LanesKept
	// ReportInterval is the time between two reports of the same failure.
	ReportInterval = time.Hour
)

// Memory is the state that the background work keeps between rounds. With it, a round without changes reads no
// datasets. In a shared store, each round still reads the nodes and their sessions. Only one goroutine uses a Memory.
type Memory struct {
	rev           uint64                // revision of the feed up to which changes were examined
	FullDue       time.Time             // when the next round that examines everything is due
	trashDue      time.Time             // when the next dataset in the trash expires; zero if none does
	ForgetDue     time.Time             // when old operations are removed again
	operations    uint64                // changes of operations in the feed at the last ForgetOperations
	Plans         map[uuid.UUID]duePlan // when each dataset gets its next snapshot
	backups       map[uuid.UUID]backupPlan
	verifications map[uuid.UUID]backupPlan
	shortage      shortage
	catalogDenied bool              // the right to write the catalog is missing
	lanes         map[string]uint64 // index of each lane of a service in the last round that examined everything

	failed       func(what string, err error)
	reported     map[string]time.Time // reported failures, by text
	Now          time.Time            // time of the present round
	wall         time.Time            // time of the last round
	steady       time.Duration        // time of the last round by the steady clock
	clockAdvance time.Duration        // by how much the clock advanced more than the steady clock; 0 once reported
}

// Requests makes requests as the API does.
type Requests interface {
	Submit(ctx context.Context, req api.Request) (api.Outcome, error)
	CancelOperation(ctx context.Context, ref string) (dataset.Operation, error)
}

// Housekeeper does the background work: trash, schedules, retention, replicas, members that are unreachable, old
// operations. Between two rounds, Run keeps a Memory, which only its goroutine uses. Other goroutines may call only
// IsActive, Schedules, BackupSchedules and LateBackups.
type Housekeeper struct {
	Ledger        *record.Ledger
	Reported      *reports.Latest
	Uptime        *record.Uptime
	CopyKeeper    *placement.CopyKeeper
	Placer        *placement.Placer
	Members       *membership.Members
	requests      Requests
	schedules     sync.Map // plannedSnapshot by the UUID of the dataset, for each volume with a schedule; Run writes it
	backupRecords backupRecords
	refused       sync.Map    // why the next verification of a dataset could not be requested, by its UUID
	active        atomic.Bool // this service does the background work
}

// New returns a Housekeeper that has done no round.
func New(k *placement.CopyKeeper, r Requests) *Housekeeper {
	return &Housekeeper{
		Ledger: k.Ledger, Reported: k.Reports, Uptime: k.Uptime, CopyKeeper: k, Placer: k.Placer,
		Members: k.Placer.Members, requests: r, backupRecords: backupRecords{turn: make(chan struct{}, 1)},
	}
}

// IsActive reports whether this service did the background work in the last round.
func (k *Housekeeper) IsActive() bool { return k.active.Load() }

// NewMemory returns an empty Memory, so that the next round examines everything.
func (k *Housekeeper) NewMemory() *Memory {
	return &Memory{
		Plans:         map[uuid.UUID]duePlan{},
		backups:       map[uuid.UUID]backupPlan{},
		verifications: map[uuid.UUID]backupPlan{},
		shortage:      shortage{reported: map[uuid.UUID]bool{}},
		failed:        k.Ledger.Failed,
		reported:      map[string]time.Time{},
	}
}

// reportFailure reports a failure, unless the same one was reported lately.
func (h *Memory) reportFailure(what string, err error) {
	text := what + ": " + err.Error()
	if at, ok := h.reported[text]; ok && h.Now.Sub(at) < ReportInterval {
		return
	}
	if len(h.reported) >= 1000 {
		clear(h.reported)
	}
	h.reported[text] = h.Now
	h.failed(what, err)
}

// check reports the failure of a part of the background work, unless the work is ending.
func (h *Memory) check(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		h.reportFailure(what, err)
	}
}

// Run does the background work until ctx ends. While this service holds the lock, it calls Round once in each interval.
// It waits for one interval before the first round, so that agents can report before anything is removed: an agent may
// know that the store was restored from a backup.
func (k *Housekeeper) Run(ctx context.Context) {
	h, reported := k.NewMemory(), false
	// Read the count of running time, so that it counts from now on. If this read fails, the first use of the count
	// reads it again.
	_, _ = k.Uptime.RunTime(record.NewTx(ctx, k.Ledger.Store))
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.Ledger.Clock.After(k.Members.Timing.Housekeeping):
		}
		mine, err := k.Members.AcquireHousekeeping(ctx)
		if err != nil && ctx.Err() == nil && !reported {
			k.Ledger.Failed("take over the background work", err)
		}
		reported = err != nil
		k.active.Store(mine)
		switch {
		case !mine:
			h = nil // another replica does the work, so this memory gets out of date
			k.schedules.Clear()
			k.refused.Clear()
			continue
		case h == nil:
			h = k.NewMemory()
		}
		k.Round(record.AsHousekeeper(ctx), h, k.Ledger.Clock.Now())
	}
}

// Round does the work that is due. A failure does not stop the rest, and is retried.
func (k *Housekeeper) Round(ctx context.Context, h *Memory, now time.Time) {
	if now.Before(h.Now) { // the clock was set back: these plans are for a later time
		clear(h.Plans)
		clear(h.backups)
		clear(h.verifications)
		clear(h.reported)
		h.FullDue, h.ForgetDue = time.Time{}, time.Time{}
	}
	h.Now = now
	changes := k.Ledger.Feed.Since(uuid.Nil, h.rev)
	everything := changes.Full || !now.Before(h.FullDue)
	h.check(ctx, "count the time that drover runs", k.Uptime.Mark(ctx, changes.Any || everything))
	if over := k.clockJump(h); over > 0 {
		h.FullDue = time.Time{}
		h.clockAdvance += over
		everything = true
	}
	if changes.Any || everything || (!h.trashDue.IsZero() && !now.Before(h.trashDue)) {
		k.ExpireTrash(ctx, h)
	}
	short, err := k.due(ctx, &h.shortage)
	h.check(ctx, "find nodes that can take a replica", err)
	examined := k.examineChanges(ctx, h, slices.Concat(changes.Datasets, short), everything)
	if examined == nil {
		h.rev = changes.Rev
		if everything {
			h.FullDue = now.Add(FullInterval)
		}
	} else {
		h.shortage.nodes = ""
		h.check(ctx, "examine the datasets that changed", examined)
	}
	k.requestDueSnapshots(ctx, h, now)
	k.requestDueBackups(ctx, h)
	k.requestDueVerifications(ctx, h)
	if k.Ledger.Shared {
		k.updateMembers(ctx, h, everything)
	}
	if changes := k.Ledger.Feed.Operations(); !now.Before(h.ForgetDue) || changes-h.operations >= ForgetAfter {
		h.ForgetDue, h.operations = now.Add(ForgetInterval), changes
		for _, err := range []error{k.ForgetOperations(ctx), k.CopyKeeper.Expire(ctx)} {
			if err == nil {
				continue
			}
			h.ForgetDue = time.Time{} // the next round calls both functions again
			h.check(ctx, "forget old operations and copies", err)
		}
	}
}

// examineChanges examines the datasets that changed, or all of them. If it fails, the datasets must be examined again.
// A problem with a single dataset is reported, but is not returned as an error.
func (k *Housekeeper) examineChanges(ctx context.Context, h *Memory, changed []uuid.UUID, everything bool) error {
	if !everything {
		for some := range slices.Chunk(changed, store.MaxOps) {
			if err := k.examineBatch(ctx, h, some); err != nil {
				return err
			}
		}
		return nil
	}
	t := record.NewTx(ctx, k.Ledger.Store)
	live := map[uuid.UUID]bool{}
	for e, err := range record.Entries(t, record.DatasetsPrefix, api.MaxPage) {
		if err != nil {
			return err
		}
		var d dataset.Dataset
		err = record.Decode(e.Key, e.Value, &d)
		if err := k.examineDataset(ctx, h, e.Key, d, e.Index, err); err != nil {
			return err
		}
		live[d.ID] = true
	}
	for id := range h.Plans {
		if !live[id] {
			delete(h.Plans, id)
			k.schedules.Delete(id)
		}
	}
	for id := range h.backups {
		if !live[id] {
			delete(h.backups, id)
			delete(h.verifications, id)
			k.refused.Delete(id)
		}
	}
	return nil
}

func (k *Housekeeper) examineBatch(ctx context.Context, h *Memory, changed []uuid.UUID) error {
	t, keys := record.NewTx(ctx, k.Ledger.Store), make([]string, len(changed))
	for i, id := range changed {
		keys[i] = record.DatasetKey(id)
	}
	if err := t.Prefetch(keys); err != nil {
		return err
	}
	for _, id := range changed {
		var d dataset.Dataset
		there, err := t.Get(record.DatasetKey(id), &d)
		if err == nil && !there {
			delete(h.Plans, id)
			delete(h.backups, id)
			delete(h.verifications, id)
			k.refused.Delete(id)
			k.schedules.Delete(id)
			h.shortage.record(id, nil)
			continue
		}
		if err := k.examineDataset(ctx, h, id.String(), d, t.Index(record.DatasetKey(id)), err); err != nil {
			return err
		}
	}
	return nil
}

// examineDataset examines one dataset. It returns only errors that concern all datasets.
func (k *Housekeeper) examineDataset(ctx context.Context, h *Memory, what string, d dataset.Dataset, index uint64,
	err error) error {
	if err == nil {
		short := k.CopyKeeper.Maintain(ctx, d)
		h.shortage.record(d.ID, short)
		k.scheduleBackup(h, d, index)
		k.scheduleVerification(h, d, index)
		err = errors.Join(k.scheduleDataset(ctx, h, d, index), short, k.CopyKeeper.ForgetLost(ctx, d))
	}
	if err != nil && (ctx.Err() != nil || dataset.KindOf(err) == dataset.ErrUnavailable) {
		return err
	}
	if err != nil {
		h.reportFailure("schedule, retention, replicas and losses of "+what, err)
	}
	return nil
}

// updateMembers updates the records of nodes and services that are unreachable or no longer exist.
func (k *Housekeeper) updateMembers(ctx context.Context, h *Memory, everything bool) {
	h.check(ctx, "record which nodes are unreachable", k.Members.RecordUnreachable(ctx))
	h.check(ctx, "check whether too many nodes are unreachable", k.Members.CheckMassLoss(ctx))
	h.check(ctx, "return the leases that moves to lost nodes have recalled", k.EndLostMoves(ctx))
	h.check(ctx, "show replicas and agents in the catalog", k.Members.PublishMembers(ctx, &h.catalogDenied, everything))
	if everything {
		h.check(ctx, "delete the records of services that have ended", k.ForgetServices(ctx, h))
	}
}

// ForgetServices removes the lanes of services that no longer exist. It removes a lane only if the lane has not changed
// since the last full round, so that the other services had the time to read it. A lane is a key through which a
// service notifies the others: see record.Ledger.
func (k *Housekeeper) ForgetServices(ctx context.Context, h *Memory) error {
	lanes, err := k.Ledger.Store.List(ctx, record.RevPrefix, "", 0)
	if err != nil {
		return record.ReadError(ctx, err)
	}
	services, err := record.ListAll[membership.Replica](record.NewTx(ctx, k.Ledger.Store), record.LiveServicesPrefix)
	if err != nil {
		return err
	}
	live, before := map[string]bool{}, h.lanes
	for _, r := range services {
		live[r.ID.String()] = true
	}
	h.lanes = map[string]uint64{}
	var unused []string
	for _, e := range lanes {
		h.lanes[e.Key] = e.Index
		of, _, _ := strings.Cut(strings.TrimPrefix(e.Key, record.RevPrefix), "/")
		if e.Key != record.RemovedLanesKey && !live[of] && before[e.Key] == e.Index && len(unused) < dropBatch {
			unused = append(unused, e.Key)
		}
	}
	if len(unused) == 0 {
		return nil
	}
	_, err = k.Ledger.Update(ctx, func(t *record.Tx) error { return dropUnusedLanes(t, unused) })
	return err
}

// dropBatch is how many lanes one transaction removes at most. The transaction checks each of them too.
const dropBatch = 50

// dropUnusedLanes removes unused lanes, and keeps their counts.
func dropUnusedLanes(t *record.Tx, keys []string) error {
	var dropped record.LaneValue
	if _, err := t.Get(record.RemovedLanesKey, &dropped); err != nil {
		return err
	}
	for _, key := range keys {
		var last record.LaneValue
		if there, err := t.Get(key, &last); err != nil {
			return err
		} else if there {
			dropped.Count += last.Count
			t.Delete(key)
		}
	}
	return t.Put(record.RemovedLanesKey, dropped)
}

// LostMoveTimeout is how long the target of a move may be unreachable before the lease goes back to the home. It is
// longer than a host takes to restart its agent.
const LostMoveTimeout = time.Minute

// EndLostMoves gives the lease back to the home if the target of a move has been unreachable for LostMoveTimeout.
// Otherwise the lease could stay recalled, because it is the target that withdraws a recall. The data that the target
// has pulled stays on the target.
func (k *Housekeeper) EndLostMoves(ctx context.Context) error {
	if !k.Ledger.Shared {
		return nil
	}
	t := record.NewTx(ctx, k.Ledger.Store)
	entries, err := t.List(record.UnreachablePrefix, "", 0)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if k.Members.UnreachableFor(e.Key, e.Index) < LostMoveTimeout {
			continue
		}
		node, err := record.ParseKey(e.Key, record.UnreachablePrefix)
		if err != nil {
			return err
		}
		open, err := record.OpenWork(t, node)
		if err != nil {
			return err
		}
		for _, op := range open {
			if op.Kind != dataset.OpMove {
				continue
			}
			if _, err := k.requests.CancelOperation(ctx, op.ID.String()); err != nil &&
				dataset.KindOf(err) != dataset.ErrConflict {
				return err
			}
		}
	}
	return nil
}

// shortage lists the volumes with fewer replicas than their profiles require. They get the missing replicas when a
// node can take one. Rounds examine only changed records, and a change of a node does not change the records of these
// volumes. So they are remembered here.
type shortage struct {
	reported map[uuid.UUID]bool // the datasets that lack replicas
	nodes    string             // the state of nodes and pools at the last attempt
}

// record remembers the outcome of an attempt to give a dataset its replicas.
func (s *shortage) record(id uuid.UUID, err error) {
	if err == nil {
		delete(s.reported, id)
		return
	}
	s.reported[id] = true
}

// due returns the datasets that lack replicas, if a node or a pool has changed since the last attempt. If no dataset
// lacks replicas, it reads nothing.
func (k *Housekeeper) due(ctx context.Context, short *shortage) ([]uuid.UUID, error) {
	if len(short.reported) == 0 {
		return nil, nil
	}
	sites, err := k.Placer.Sites(record.NewTx(ctx, k.Ledger.Store))
	if err != nil {
		return nil, err
	}
	var now strings.Builder
	for _, st := range sites {
		for _, c := range st.Pools {
			fmt.Fprintf(&now, "%s %t %t %t %t %s\n",
				c.ID, c.Cordoned, c.Unreported, c.Unreachable, c.Guarded, c.WhyOffline())
		}
	}
	if now.String() == short.nodes {
		return nil, nil
	}
	short.nodes = now.String()
	return slices.Collect(maps.Keys(short.reported)), nil
}
