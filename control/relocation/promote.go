package relocation

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// checkReachable fails unless the nodes that carry out a move are alive. A forced move also fails if the home is
// alive, because the person who confirmed that it is fenced cannot know that it is reachable again.
func (r *Relocator) checkReachable(t *record.Tx, d dataset.Dataset, target dataset.Node, force bool) error {
	if !r.Copies.Ledger.Shared { // there are no other nodes
		return nil
	}
	_, there, err := membership.LivingSession(t, target.ID)
	if err != nil {
		return err
	}
	if !there {
		return dataset.Errorf(dataset.ErrOffline, "move of volume %s: node %s is unreachable (drover node "+
			"ls)", d.Volume,
			target.Name)
	}
	since, there, err := membership.LivingSession(t, d.Home)
	if err != nil || there != force {
		return err
	}
	home, err := t.NodeName(d.Home)
	switch {
	case err != nil:
		return err
	case force:
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: its home, node %s, is alive: move it without --force, or stop drover and its "+
				"containers there first", d.Volume, home)
	}
	return r.homeUnreachable(t, d, target, home, since, "")
}

// FormatUnreachable returns the part of an error that says that a node is unreachable, and since when, if that is
// known.
func FormatUnreachable(since time.Time) string {
	if since.IsZero() {
		return "is unreachable"
	}
	return "is unreachable since " + since.UTC().Format(time.RFC3339)
}

// homeUnreachable returns the error for a volume whose home is unreachable. If a copy exists from which the volume can
// continue, the error contains the command for a promotion from that copy. why is the reason why control does not fail
// over automatically. It is "" if the profile does not ask for automatic failover.
func (r *Relocator) homeUnreachable(t *record.Tx, d dataset.Dataset, target dataset.Node, home string, since time.Time,
	why string) error {
	best, found, err := r.freshest(t, d, false)
	if err != nil {
		return err
	}
	cordoned, isCordoned, err := r.freshest(t, d, true)
	if err != nil {
		return err
	}
	remedy := "wait for it: no other node has a complete copy"
	if isCordoned {
		remedy = fmt.Sprintf("wait for it: node %s has a complete copy and is cordoned: drover node cordon --off %s",
			cordoned.Name, cordoned.Name)
	}
	if from, err := t.Pool(d); err == nil && from.Share != uuid.Nil {
		remedy = fmt.Sprintf("wait for it, or when it certainly writes no more: drover volume move %s %s --force "+
			"--fenced %s, which continues with the data on the share", d.Volume, target.Name, home)
	}
	if found {
		if c, there, err := r.Reports.CurrentCopy(t, target.ID, d.ID); err != nil {
			return err
		} else if there && c.Promotable() {
			best = target
		}
		c, _, err := r.Reports.CurrentCopy(t, best.ID, d.ID)
		if err != nil {
			return err
		}
		remedy = fmt.Sprintf("wait for it, or when it certainly writes no more: drover volume move %s %s --force "+
			"--fenced %s, without the data written since %s", d.Volume, best.Name, home,
			c.Taken.UTC().Format(time.RFC3339))
	}
	return dataset.Errorf(dataset.ErrOffline, "volume %s is on node %s, which %s%s (%s)", d.Volume, home,
		FormatUnreachable(since), why, remedy)
}

// planPromotion decides that the copy on a node becomes the volume, without its home.
func (r *Relocator) planPromotion(t *record.Tx, d dataset.Dataset, target dataset.Node, fenced string,
	op *dataset.Operation) error {
	home, err := CheckFencedHome(t, d, fenced, "move of volume "+d.Volume)
	if err != nil {
		return err
	}
	if shared, err := r.planTakeover(t, d, target, home, op); shared || err != nil {
		return err
	}
	kept, there, err := r.Reports.CurrentCopy(t, target.ID, d.ID)
	if err != nil {
		return err
	}
	if !there || !kept.Promotable() {
		return noCopyError(t, d, target)
	}
	if why := r.Reports.WhyPoolUnusable(kept.Pool); why != "" {
		return dataset.Errorf(dataset.ErrOffline, "move of volume %s: node %s %s", d.Volume, target.Name, why)
	}
	if err := r.checkNoFresher(t, d, target, kept); err != nil {
		return err
	}
	op.DatasetRecord.Pool = kept.Pool
	op.Loss = &dataset.Loss{
		Snapshot:     kept.Snapshot,
		Epoch:        kept.Epoch,
		Taken:        kept.Taken,
		OrderTime:    kept.OrderTime,
		PreviousHome: d.Home,
		Reason:       "confirmed: --fenced " + home.Name,
	}
	return nil
}

// CheckFencedHome returns the node that a person confirms to be fenced. It fails with dataset.ErrInvalid if that node
// is not the home of the dataset.
func CheckFencedHome(t *record.Tx, d dataset.Dataset, fenced, what string) (home dataset.Node, err error) {
	if home, err = t.FindNode(fenced); err != nil || home.ID == d.Home {
		return home, err
	}
	name, err := t.NodeName(d.Home)
	if err == nil {
		err = dataset.Errorf(dataset.ErrInvalid,
			"%s: its home is node %s, not %s (--fenced %s, once that node writes no more)", what, name, home.Name,
			name)
	}
	return home, err
}

// checkNoFresher fails if a node that is alive has a later copy than the one from which the volume would continue. The
// later copy would be overwritten, and its newer data would be lost.
func (r *Relocator) checkNoFresher(t *record.Tx, d dataset.Dataset, target dataset.Node, kept dataset.Copy) error {
	for _, node := range d.Copies {
		c, there, err := r.Reports.CurrentCopy(t, node, d.ID)
		if err != nil {
			return err
		}
		if !there || node == target.ID || !c.Promotable() || c.At().Compare(kept.At()) <= 0 ||
			r.Reports.WhyQuarantined(c.Pool) != "" {
			continue
		}
		if r.Copies.Ledger.Shared {
			if _, alive, err := membership.LivingSession(t, node); err != nil {
				return err
			} else if !alive {
				continue
			}
		}
		name, err := t.NodeName(node)
		if err != nil {
			return err
		}
		var n dataset.Node
		if _, err := t.Get(record.NodeKey(node), &n); err != nil {
			return err
		}
		first := "move it there first"
		if n.Cordoned {
			first += fmt.Sprintf(" (node %s is cordoned: drover node cordon --off %s)", name, name)
		}
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: the copy on node %s is of %s, newer than that of node %s of %s: %s", d.Volume, name,
			c.Taken.UTC().Format(time.RFC3339), target.Name, kept.Taken.UTC().Format(time.RFC3339), first)
	}
	return nil
}

// noCopyError returns the error for a node without a copy. It names the nodes that have one.
func noCopyError(t *record.Tx, d dataset.Dataset, target dataset.Node) error {
	var have []string
	for _, id := range d.Copies {
		name, err := t.NodeName(id)
		if err != nil {
			return err
		}
		have = append(have, name)
	}
	if len(have) == 0 {
		have = []string{"none"}
	}
	return dataset.Errorf(dataset.ErrNotFound,
		"move of volume %s: node %s has no complete copy of it (nodes with a copy: %s)", d.Volume, target.Name,
		dataset.FormatChoices(have))
}

// checkCopyUnchanged fails unless the copy from which the volume continues is still recorded and complete, and the
// loss is not larger than announced.
func checkCopyUnchanged(t *record.Tx, rec, op dataset.Operation) error {
	var kept dataset.Copy
	there, err := t.Get(record.CopyKey(rec.Node, rec.DatasetID), &kept)
	switch {
	case err != nil:
		return err
	case !there || !kept.Promotable(): // the home needs no promise from the node of an unusable copy
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: its copy can no longer be used (try again: the error then lists the "+
				"copies)", rec.Volume)
	case op.Loss == nil || op.Loss.At().Compare(rec.Loss.At()) < 0 || op.Loss.PreviousHome != rec.Loss.PreviousHome:
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: more data would be lost than confirmed (try again to see what is lost)", rec.Volume)
	}
	return nil
}
