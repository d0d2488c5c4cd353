// Package relocation decides on moves of volumes between nodes. A move gives a volume another home.
//
// There are three kinds of moves:
//
//   - A normal move (move.go): the home relinquishes its lease, and the target pulls the data from it.
//   - A move without the home, because the home is lost: a promotion that an operator confirms (promote.go), or an
//     automatic failover (failover.go). The volume continues from a copy.
//   - A move on a share (share.go), with or without the home: the target uses the data that is on the share already.
//
// The package keeps no state. The operation, the lease and the dataset in the store record the progress of a move. The
// transaction of each decision protects these records. When a copy may take over automatically is decided in
// failover.go. The target of a move is chosen in target.go (node) and move.go (pool).
package relocation

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Relocator decides on moves of volumes: see the package comment. It has no state. Its methods are safe for concurrent
// use.
type Relocator struct {
	Members *membership.Members
	Copies  *placement.CopyKeeper
	Placer  *placement.Placer
	Reports *reports.Latest
	Views   *view.Views
	Vetted  *reports.Profiles
	Uptime  *record.Uptime
	Timing  membership.Timing
	Clock   clock.Clock
	end     func(*record.Tx, dataset.Operation) error
}

// New returns a Relocator. end records the end of an operation.
func New(k *placement.CopyKeeper, views *view.Views, vetted *reports.Profiles,
	end func(*record.Tx, dataset.Operation) error) *Relocator {
	m := k.Placer.Members
	return &Relocator{m, k, k.Placer, k.Reports, views, vetted, k.Uptime, m.Timing, k.Ledger.Clock, end}
}

// Plan decides to give a volume another home, whose agent pulls the data. If the volume already has that home, it
// returns the dataset and no operation.
func (r *Relocator) Plan(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	target, err := r.moveTarget(t, d, req)
	if err != nil {
		return nil, nil, err
	}
	if req.Force != (req.Fenced != "") {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"move of volume %s: --force and --fenced NODE require each other: they confirm that the home writes "+
				"no more", d.Volume)
	}
	if d.Home == target.ID {
		return nil, &d, nil
	}
	if req.Failover {
		return r.planFailover(t, d, target)
	}
	if target.Cordoned {
		return nil, nil, dataset.Errorf(dataset.ErrOffline,
			"move of volume %s: node %s is cordoned (choose another, or drover node cordon --off %s)", d.Volume,
			target.Name, target.Name)
	}
	if err := r.checkReachable(t, d, target, req.Force); err != nil {
		return nil, nil, err
	}
	if !req.Force {
		if err := r.Views.CheckNoSharedMounts(t, d, "move"); err != nil {
			return nil, nil, err
		}
	}
	next := d
	next.Home, next.Epoch, next.Move, next.TakenOver = target.ID, d.Epoch+1, uuid.Nil, nil
	op := &dataset.Operation{
		Node:          target.ID,
		OtherNode:     d.Home,
		Volume:        d.Volume,
		DatasetID:     d.ID,
		Epoch:         d.Epoch,
		DatasetRecord: &next,
	}
	if op.Change, err = describeTarget(t, op); err != nil {
		return nil, nil, err
	}
	if req.Force {
		err = r.planPromotion(t, d, target, req.Fenced, op)
	} else {
		err = r.planPull(t, d, target, op)
	}
	return op, nil, err
}

// planPull chooses the pool on the target, and how the data gets into it.
func (r *Relocator) planPull(t *record.Tx, d dataset.Dataset, target dataset.Node, op *dataset.Operation) error {
	from, err := t.Pool(d)
	if err != nil {
		return err
	}
	if why := r.Reports.WhyQuarantined(from.ID); why != "" {
		return dataset.Errorf(dataset.ErrOffline, "move of volume %s: its pool %s is held: %s",
			d.Volume, from.Name, why)
	}
	cands, err := r.Placer.Candidates(t, target.ID)
	if err != nil {
		return err
	}
	cands, why := placement.OtherPools(cands, from, target)
	if why != "" {
		return dataset.Errorf(dataset.ErrConflict, "move of volume %s: %s", d.Volume, why)
	}
	had := r.Placer.Oversize(d)
	var kept dataset.Copy
	if there, err := t.Get(record.CopyKey(target.ID, d.ID), &kept); err != nil {
		return err
	} else if there {
		cands = slices.DeleteFunc(cands, func(c placement.Candidate) bool { return c.ID != kept.Pool })
		had = d.Size
	}
	// Prefer a pool of the same kind, because only changes are sent to it. Then prefer a pool of the same name,
	// because an operator expects that.
	slices.SortStableFunc(cands, func(x, y placement.Candidate) int {
		return placement.Likeness(from, y.Pool) - placement.Likeness(from, x.Pool)
	})
	wanted := d.Profile
	if wanted.Pool != "" && wanted.Pool != from.Name {
		wanted.Pool = "" // a pool may get another name when a node adopts it
	}
	if shared := slices.DeleteFunc(slices.Clone(cands),
		func(c placement.Candidate) bool { return !placement.OnSameShare(from, c.Pool) }); len(shared) > 0 {
		cands = shared // if the target has a pool on the share, the volume stays on the share
	}
	for i, c := range cands {
		cands[i] = c.ReceivingFrom(from)
	}
	what := "move of volume " + d.Volume + " to node " + target.Name
	o := placement.Requirement{Subject: what, Profile: wanted, CurrentSize: had, Size: d.Size}
	pool, err := placement.Choose(cands, o)
	if err != nil {
		return r.suggestPools(t, err, from, cands, o)
	}
	if _, err := t.Get(record.PoolKey(pool.ID), &dataset.Pool{}); err != nil {
		return err
	}
	if op.SameShare = placement.OnSameShare(from, pool.Pool); op.SameShare {
		op.DatasetRecord.Pool = pool.ID
		return nil
	}
	if st := r.Reports.Dataset(d.ID, d.Home); st != nil && st.InPool != nil && pool.Status != nil &&
		pool.Status.Free < *st.InPool && kept.Snapshot == uuid.Nil {
		return dataset.Errorf(dataset.ErrNoSpace,
			"move of volume %s: pool %s of node %s has %s free, and the volume needs "+
				"%s", d.Volume, pool.Name, target.Name,
			pool.Status.Free.Human(), st.InPool.Human())
	}
	op.DatasetRecord.Pool = pool.ID
	if op.FileCopy = pool.FileCopy; op.FileCopy {
		if fs := &op.DatasetRecord.Profile.Filesystem; fs.Chosen {
			fs.Type, fs.Chosen = "", false // the pool there chooses the filesystem
		}
		return checkNoSnapshots(t, d, from, pool.Pool, target)
	}
	return nil
}

// suggestPools adds a hint to the error that no pool of the target suits a volume. The hint names the suitable pools
// of other nodes, and says how to create one.
func (r *Relocator) suggestPools(t *record.Tx, refusal error, from dataset.Pool, cands []placement.Candidate,
	o placement.Requirement) error {
	if dataset.KindOf(refusal) != dataset.ErrUnsupported {
		return refusal
	}
	sites, err := r.Placer.Sites(t)
	if err != nil {
		return err
	}
	sites = receivingSites(sites, from)
	for i, st := range sites {
		// its snapshots would be lost
		sites[i].Pools = slices.DeleteFunc(st.Pools,
			func(c placement.Candidate) bool { return c.FileCopy && from.Capabilities.Delta })
	}
	o.Profile.Placement = "" // the operator names the node
	who, _ := placement.SuggestPools([]placement.Site{{Pools: cands}}, sites, o)
	if who != "" {
		who += "; or "
	}
	return fmt.Errorf("%w (%screate a suitable pool there: drover pool create NAME --backend %s)", refusal, who,
		from.Backend)
}

// receivingSites returns the sites that could receive the data of a pool. Each of their pools is marked with how the
// data would be copied to it.
func receivingSites(sites []placement.Site, from dataset.Pool) []placement.Site {
	sites = slices.DeleteFunc(sites, func(st placement.Site) bool { return st.ID == from.Node })
	for _, st := range sites {
		for i, c := range st.Pools {
			st.Pools[i] = c.ReceivingFrom(from)
		}
	}
	return sites
}

// checkNoSnapshots refuses to copy a dataset with snapshots file by file, because the snapshots would be lost.
func checkNoSnapshots(t *record.Tx, d dataset.Dataset, from, to dataset.Pool, target dataset.Node) error {
	some, err := t.List(record.SnapshotPrefix(d.ID), "", 1)
	if err == nil && len(some) > 0 {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"move of volume %s: its snapshots cannot go from pool %s (%s) to pool %s of node %s (%s) "+
				"(drover clone it there, or remove them)", d.Volume, from.Name, from.Backend, to.Name, target.Name,
			to.Backend)
	}
	return err
}

// Join returns the recorded move of a dataset if it matches the request. It fails with dataset.ErrConflict if the
// recorded move has another target.
func Join(t *record.Tx, req api.Request) (*dataset.Operation, error) {
	if req.Kind != dataset.OpMove || req.Force {
		return nil, nil
	}
	d, err := t.Volume(req.Volume)
	if err != nil || d.Move == uuid.Nil {
		return nil, err
	}
	var op dataset.Operation
	there, err := t.Get(record.OperationKey(d.Move), &op)
	if err == nil && !there {
		err = record.Inconsistent("%s is missing, but %s names it", record.OperationKey(d.Move),
			record.DatasetKey(d.ID))
	}
	if err != nil {
		return nil, err
	}
	if req.Failover && op.Loss == nil {
		return nil, nil // if the home is lost, a move without the home replaces the recorded move
	}
	if req.Node == "" || req.Failover {
		return &op, nil
	}
	target, err := t.FindNode(req.Node)
	if err != nil {
		return nil, err
	}
	if op.Node == target.ID {
		return &op, nil
	}
	to, err := t.NodeName(op.Node)
	if err == nil {
		err = dataset.Errorf(dataset.ErrConflict,
			"volume %s is already being moved to node %s (operation %s; drover operation cancel %s stops it)",
			d.Volume, to, op.ID.String()[:8], op.ID.String()[:8])
	}
	return nil, err
}

// Begin records in the dataset that a move is in progress. A move without the home replaces any other.
func (r *Relocator) Begin(t *record.Tx, op *dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	if d.Move != uuid.Nil && d.Move != op.ID {
		var other dataset.Operation
		if there, err := t.Get(record.OperationKey(d.Move), &other); err != nil {
			return err
		} else if there && !other.State.Final() {
			other.State, other.Ended = dataset.OpCancelled, r.Clock.Now()
			other.Problem = &dataset.Problem{Code: dataset.ErrCancelled.Code,
				Message: "replaced by a move without the home"}
			if err := r.end(t, other); err != nil {
				return err
			}
			if d, err = t.Dataset(d.ID); err != nil {
				return err
			}
			op.Epoch, op.DatasetRecord.Epoch = d.Epoch, d.Epoch+1
		}
	}
	d.Move = op.ID
	if op.Loss != nil && op.Loss.UnreachableIndex == 0 { // an automatic failover ends if the home returns
		// With this state of the lease, the home opens no epoch if it is reachable again before the move is done: see
		// checkStillLost.
		lease, err := t.Lease(d)
		if err != nil {
			return err
		}
		lease.State, lease.WantedBy = dataset.LeaseMoving, op.Node
		if err := t.Put(record.LeaseKey(d.ID), lease); err != nil {
			return err
		}
	}
	return t.PutDataset(d)
}

// putMovedLease writes the lease of a dataset at its new home.
func putMovedLease(t *record.Tx, d dataset.Dataset, incarnation uuid.UUID) error {
	return t.Put(record.LeaseKey(d.ID), dataset.Lease{
		Dataset:     d.ID,
		Node:        d.Home,
		Incarnation: incarnation,
		Epoch:       d.Epoch,
		State:       dataset.LeaseHeld,
	})
}

// Commit records that the target has pulled the data, and opens the next epoch there. The recorded operation contains
// the manifest of the home or, for a move without the home, the loss. Commit fails as ReadMove does. It fails with
// dataset.ErrConflict if the home has not relinquished the lease, if the pulled data differs from the manifest, or if a
// move without the home is no longer justified.
func (r *Relocator) Commit(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	rec, d, lease, err := ReadMove(t, op.ID)
	if err != nil {
		return err
	}
	switch {
	case rec.Loss != nil:
		if !rec.SameShare {
			err = checkCopyUnchanged(t, rec, op)
		}
		if err == nil {
			err = checkStillLost(t, rec, d)
		}
	case lease.State != dataset.LeaseMoving || rec.Manifest == nil:
		err = dataset.Errorf(dataset.ErrConflict, "move of volume %s: its home has not relinquished it", d.Volume)
	case op.Manifest == nil || *op.Manifest != *rec.Manifest:
		err = dataset.Errorf(dataset.ErrConflict, "move of volume %s: the transferred data differs from the data "+
			"that its home relinquished", d.Volume)
	}
	if err != nil {
		return err
	}
	next := d
	next.Home, next.Pool, next.Epoch = rec.Node, rec.DatasetRecord.Pool, d.Epoch+1
	next.Request, next.Move, next.TakenOver = op.ID, uuid.Nil, takeoverSource(rec, op, d)
	record.EndContent(t, &next)
	if rec.FileCopy && op.DatasetRecord != nil { // the pool chose the filesystem, if the profile names none
		made := op.DatasetRecord.Profile.Filesystem
		next.Size, next.Profile.Filesystem.Type, next.Profile.Filesystem.Chosen = op.DatasetRecord.Size, made.Type,
			made.Chosen
	}
	record.RemoveCopyNode(&next, rec.Node)
	t.Delete(record.HomeKey(d.Home, d.ID))
	t.Delete(record.CopyKey(rec.Node, d.ID))
	if err := r.carrySharedMounts(t, d, rec, &next); err != nil {
		return err
	}
	if err := r.recordLeftCopy(t, d, rec, &next); err != nil {
		return err
	}
	if err := t.Put(record.HomeKey(next.Home, d.ID), record.Claim{ID: d.ID}); err != nil {
		return err
	}
	if err := putMovedLease(t, next, op.Incarnation); err != nil {
		return err
	}
	if rec.Loss != nil && !rec.SameShare {
		loss := *op.Loss
		loss.EndedEpoch, loss.SnapshotsForgotten, rec.Loss = d.Epoch, false, &loss
		if err := placement.AddLoss(t, &next, loss); err != nil {
			return err
		}
	}
	detail, err := describeMove(t, rec)
	if err != nil {
		return err
	}
	t.Event(api.EventVolumeMove, next, detail)
	for _, node := range next.Copies { // the previous home, and the nodes whose copies are refreshed from the home
		t.NotifyDataset(d.ID, node)
	}
	out.Dataset = &next
	if err := t.PutDataset(next); err != nil || next.Profile.Replicas.Count == 0 {
		return err
	}
	_, err = r.Copies.Decide(t, next) // the new home may have been a replica, which a copy that a move left can replace
	return err
}

// recordLeftCopy records the copy that the previous home keeps. After a move on a share, the previous home keeps no
// copy.
func (r *Relocator) recordLeftCopy(t *record.Tx, d dataset.Dataset, op dataset.Operation, next *dataset.Dataset) error {
	if op.SameShare {
		t.NotifyDataset(d.ID, d.Home)
		return nil
	}
	c := dataset.Copy{Dataset: d.ID, Node: d.Home, Pool: d.Pool, Epoch: d.Epoch, Kind: dataset.CopySuperseded}
	if op.Loss != nil {
		return record.PutCopyIn(t, next, c)
	}
	ran, err := r.Uptime.RunTime(t)
	if err != nil {
		return err
	}
	c.Kind, c.Snapshot = dataset.CopyLeft, op.Manifest.Snapshot
	c.Taken, c.OrderTime = op.Manifest.Taken, op.Manifest.OrderTime
	c.Expires, c.RunTime = r.Clock.Now().Add(placement.LeftCopyRetention), dataset.Duration(ran)
	return record.PutCopyIn(t, next, c)
}

// describeTarget returns what a move changes, for the list of operations.
func describeTarget(t *record.Tx, op *dataset.Operation) (string, error) {
	from, err := t.NodeName(op.OtherNode)
	if err != nil {
		return "", err
	}
	to, err := t.NodeName(op.Node)
	return "from node " + from + " to node " + to, err
}

func describeMove(t *record.Tx, op dataset.Operation) (string, error) {
	text, err := describeTarget(t, &op)
	switch {
	case op.Loss != nil && op.SameShare:
		text += ", without its consent (" + op.Loss.Reason + ")"
	case op.Loss != nil:
		text += ", without the data written since " + op.Loss.Taken.UTC().Format(time.RFC3339) + " (" +
			op.Loss.Reason + ")"
	}
	return text, err
}
