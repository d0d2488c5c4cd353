package relocation

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// CheckFailover refuses a profile with automatic failover in the store of a single host, where no other node can take
// over.
func (r *Relocator) CheckFailover(d dataset.Dataset) error {
	if r.Copies.Ledger.Shared || !d.Profile.Failover.Auto {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s: profile %s has failover auto, and no other host can take over: this one works alone "+
			"(docs/cluster.md: from one host to more)", d.Volume, d.Profile.Name)
}

// planFailover decides to continue from the freshest copy of a volume whose home is lost. If the home is alive, it
// returns the dataset and no operation. It fails with dataset.ErrPending while it is not certain that the home is lost,
// so that the caller retries. It fails with dataset.ErrOffline, which gives the reason, if the volume cannot fail over.
func (r *Relocator) planFailover(t *record.Tx, d dataset.Dataset, target dataset.Node) (*dataset.Operation,
	*dataset.Dataset, error) {
	since, there, err := membership.LivingSession(t, d.Home)
	if err != nil || there || !r.Copies.Ledger.Shared {
		return nil, &d, err
	}
	home, err := t.NodeName(d.Home)
	if err != nil {
		return nil, nil, err
	}
	if !d.Profile.Failover.Auto {
		return nil, nil, r.homeUnreachable(t, d, target, home, since, "")
	}
	because, unfenced, err := r.confirmLost(t, d, home)
	if err != nil {
		return nil, nil, err
	}
	to, why, err := r.findSuccessor(t, d, target)
	if err != nil {
		return nil, nil, err
	}
	if why = cmp.Or(unfenced, why); why == "" {
		if why, err = whyOutdated(t, d, home); err != nil {
			return nil, nil, err
		}
	}
	next := d
	next.Profile = r.Vetted.WithKnownCommand(d.Profile, d.Profile)
	if why == "" && next.Profile.Failover.Fence.Unknown() {
		why = "profiles.yaml has no fence command for profile " + d.Profile.Name +
			", and the one in the record beside its data is not run"
	}
	if why == "" {
		why, err = membership.FailoverSuspended(t)
	}
	if err != nil || why != "" {
		return nil, nil, cmp.Or(err, r.homeUnreachable(t, d, target, home, since, ", and no copy takes over "+
			"automatically: "+why))
	}
	next.Home, next.Pool, next.Epoch, next.Move, next.TakenOver = to.node.ID, to.pool, d.Epoch+1, uuid.Nil, nil
	loss := to.loss
	loss.PreviousHome, loss.Reason, loss.UnreachableIndex = d.Home, because, t.Index(record.UnreachableKey(d.Home))
	op := &dataset.Operation{
		Node:          to.node.ID,
		OtherNode:     d.Home,
		Volume:        d.Volume,
		DatasetID:     d.ID,
		Epoch:         d.Epoch,
		DatasetRecord: &next,
		Loss:          &loss,
		SameShare:     to.share,
	}
	op.Change, err = describeTarget(t, op)
	return op, nil, err
}

// whyOutdated returns why the record of a dataset may be older than what its home has; "" if it is not. After the store
// was restored from a backup, a profile with failover auto proves nothing: the home may have got a profile with
// failover manual since, and may have the volume open without a bounded lease. The home's registration after the
// recovery, its report to the recovery, or the confirmation that it is fenced removes the doubt.
func whyOutdated(t *record.Tx, d dataset.Dataset, home string) (string, error) {
	if returned, err := membership.HasReturned(t, d.Home); err != nil || returned {
		return "", err
	}
	return fmt.Sprintf("node %s has not reported since the store was recovered, so the record of the volume may be "+
		"outdated (once that node is off: drover node fence %s)", home, home), nil
}

// confirmLost returns the reason why a dataset may continue without its home, as a text for operators. It fails with
// dataset.ErrPending as long as the home may still be using the dataset. If the home may use it without end, because
// nothing fences the home, unfenced is the reason; otherwise "".
func (r *Relocator) confirmLost(t *record.Tx, d dataset.Dataset, home string) (because, unfenced string, err error) {
	key := record.UnreachableKey(d.Home)
	known, err := t.Get(key, &record.Unreachable{})
	if err != nil {
		return "", "", err
	}
	var confirmation record.Fenced
	if _, err := t.Get(record.FencedKey(d.Home), &confirmation); err != nil {
		return "", "", err
	}
	confirmed, err := membership.IsFencedSinceRecovery(t, d.Home)
	if err != nil {
		return "", "", err
	}
	lease, err := t.Lease(d)
	if err != nil {
		return "", "", err
	}
	left := r.Timing.Session
	if known {
		left -= r.Members.UnreachableFor(key, t.Index(key))
	}
	if steps.Off("margin") {
		left = 0
	}
	switch {
	case lease.State == dataset.LeaseMoving:
		return "", "", dataset.PendingOn(d.Move,
			"volume %s was relinquished by node %s, which is unreachable: the move in progress must end first "+
				"(drover operation ls)", d.Volume, home)
	case known && confirmed:
		return "confirmed by " + confirmation.By + ": drover node fence " + home, "", nil
	case !known || left > 0:
		return "", "", dataset.Errorf(dataset.ErrPending,
			"volume %s is on node %s, which is unreachable: a copy takes over in %s, unless the node returns",
			d.Volume, home, max(left, time.Second).Round(time.Second))
	}
	fence := "its guard has fenced it by now"
	if d.Profile.Failover.Fence.Kind == dataset.FenceExec {
		fence = "a fence command excludes it first"
	} else if last, err := r.lastReport(t, d.Home); err != nil || !last.guarded {
		return "", "the guard of node " + home + " did not respond when control last heard of the node, so its " +
			"containers may still write", err
	}
	return fmt.Sprintf("automatically: node %s is unreachable, and %s", home, fence), "", nil
}

// successor returns the freshest copy of a dataset that can take over, and the node that keeps the copy. Among equally
// fresh copies it prefers the copy on target. If no copy can take over, why is the reason.
func (r *Relocator) successor(t *record.Tx, d dataset.Dataset, target dataset.Node) (best dataset.Copy, on dataset.Node,
	why string, err error) {
	var not []string
	for _, id := range d.Copies {
		c, n, reason, err := r.checkSuccessor(t, d, id)
		switch {
		case err != nil:
			return best, on, "", err
		case reason != "":
			not = append(not, reason)
			continue
		}
		later := cmp.Or(c.At().Compare(best.At()), c.VerifiedAtHome.Compare(best.VerifiedAtHome))
		if on.ID == uuid.Nil || later > 0 || later == 0 && id == target.ID {
			best, on = c, n
		}
	}
	if on.ID == uuid.Nil {
		if len(not) == 0 {
			not = []string{"no other node has a copy"}
		}
		return best, on, strings.Join(not, "; "), nil
	}
	why, err = r.whyTooOld(t, d, best, on)
	return best, on, why, err
}

// checkSuccessor returns the copy of a dataset on a node, and the reason why that copy cannot take over; "" if it can.
func (r *Relocator) checkSuccessor(t *record.Tx, d dataset.Dataset, id uuid.UUID) (c dataset.Copy, n dataset.Node,
	why string, err error) {
	c, kept, err := r.Reports.CurrentCopy(t, id, d.ID)
	if err != nil {
		return c, n, "", err
	}
	if _, err := t.Get(record.NodeKey(id), &n); err != nil {
		return c, n, "", err
	}
	_, lives, err := membership.LivingSession(t, id)
	switch {
	case err != nil:
		return c, n, "", err
	case !kept || !c.Promotable():
		why = "has no complete copy"
	case n.Cordoned:
		why = "is cordoned"
	case !lives:
		why = "is unreachable"
	case !r.Reports.Heartbeat(id).Heard:
		err = dataset.Errorf(dataset.ErrPending,
			"volume %s: node %s has a copy, and has not reported its state yet", d.Volume, n.Name)
	case !r.Reports.Heartbeat(id).Guard:
		why = "has no guard that responds (systemctl start drover-guard there)"
	default:
		why = r.Reports.WhyPoolUnusable(c.Pool)
	}
	if why != "" {
		why = "node " + n.Name + " " + why
	}
	return c, n, why, err
}

// whyTooOld returns why a copy is too old to take over automatically; "" if it is not. Its age is measured by the
// clock of the home only. If that clock was set back since the copy was reported, the age is not known.
func (r *Relocator) whyTooOld(t *record.Tx, d dataset.Dataset, c dataset.Copy, on dataset.Node) (string, error) {
	last, err := r.lastReport(t, d.Home)
	if err != nil {
		return "", err
	}
	most := time.Duration(d.Profile.Failover.MaxLoss)
	switch age := last.Sub(c.VerifiedAtHome); {
	case last.IsZero() || c.VerifiedAtHome.IsZero():
		return "it is not known how old the copy on node " + on.Name +
			" is, because control was unreachable then or has restarted since", nil
	case last.late:
		return "it is not known how old the copy on node " + on.Name +
			" is, because its home had not reported its clock for more than " + r.Timing.MaxClockAge().String() +
			" when it was lost", nil
	case r.Reports.CopyAhead(last.ReportedClock, c, r.Clock.Steady()) > r.Timing.Session: // more than a lost heartbeat
		return "it is not known how old the copy on node " + on.Name + " is, because the clock of the home was set", nil
	case age > most:
		return fmt.Sprintf("the copy on node %s is %s old, and max_loss of profile %s is %s", on.Name,
			age.Round(time.Second), d.Profile.Name, most), nil
	}
	return "", nil
}

// lastReport is the last heartbeat of an unreachable node.
type lastReport struct {
	reports.ReportedClock
	// late is true if too much time passed between the heartbeat and the moment when the node became unreachable. The
	// node may then have written for an unknown time after the heartbeat.
	late    bool
	guarded bool // the guard of the node answered
}

// lastReport returns the last heartbeat of an unreachable node. Either this service received it, or the service that
// recorded the node as unreachable.
func (r *Relocator) lastReport(t *record.Tx, node uuid.UUID) (last lastReport, err error) {
	var gone record.Unreachable
	if _, err := t.Get(record.UnreachableKey(node), &gone); err != nil {
		return last, err
	}
	lost, seen := r.Members.UnreachableSince(record.UnreachableKey(node))
	if !seen {
		lost = r.Clock.Steady()
	}
	age := time.Duration(gone.ClockAge)
	last.Time, last.At, last.guarded = gone.Clock, lost-age, gone.Guarded
	last.late = gone.Clock.IsZero() || age > r.Timing.MaxClockAge()
	own := r.Reports.Heartbeat(node).Clock
	if own.IsZero() || !own.After(last.Time) && own.At <= last.At {
		return last, nil
	}
	last.ReportedClock, last.guarded = own, r.Reports.Heartbeat(node).Guard
	last.late = last.late && lost-own.At > r.Timing.MaxClockAge()
	return last, nil
}

// checkStillLost fails if the previous home of a promotion is reachable again, because the operator could not know
// this when confirming that the node is fenced. An automatic promotion also fails if the node was reachable for a
// while since the plan, if automatic failover is suspended, or if the profile of the dataset d has failover manual now:
// its lease may not be bounded any more.
func checkStillLost(t *record.Tx, rec dataset.Operation, d dataset.Dataset) error {
	if rec.Loss == nil {
		return nil
	}
	_, there, err := membership.LivingSession(t, rec.Loss.PreviousHome)
	if err != nil {
		return err
	}
	byItself := rec.Loss.UnreachableIndex != 0
	if there || byItself && t.Index(record.UnreachableKey(rec.Loss.PreviousHome)) != rec.Loss.UnreachableIndex {
		home, err := t.NodeName(rec.Loss.PreviousHome)
		return cmp.Or(err, dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: its home, node %s, is reachable again (stop its containers there and move it without "+
				"--force)", rec.Volume, home))
	}
	if !byItself {
		return nil
	}
	if !d.Profile.Failover.Auto {
		return dataset.Errorf(dataset.ErrConflict, "move of volume %s: its profile %s has failover manual now",
			rec.Volume, d.Profile.Name)
	}
	why, err := membership.FailoverSuspended(t)
	if err == nil && why != "" {
		err = dataset.Errorf(dataset.ErrConflict, "move of volume %s: %s", rec.Volume, why)
	}
	return err
}

// AnnounceLoss publishes an event that describes the data that a promotion loses.
func AnnounceLoss(t *record.Tx, op dataset.Operation) error {
	if op.Loss == nil {
		return nil
	}
	text, err := describeMove(t, op)
	t.Event(api.EventVolumeFailover, *op.DatasetRecord, text)
	return err
}
