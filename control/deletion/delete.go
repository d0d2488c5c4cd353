// Package deletion decides on deletes, the trash, purges, superseded copies of datasets, and the removal of nodes.
//
// A Plan function decides on a request. The matching Commit function records the result that the agent reports, or, for
// a decision that needs no agent, a Settle function. NodeRemover removes a node, with the records that concern only it.
//
// The package keeps no state. Each decision reads and writes one record.Tx, whose commit checks every record that Get
// has read. ForgetSnapshots and the removal of a node take several transactions, and continue after the last committed
// one when they are called again.
//
// Whether a delete is allowed, and whether and for how long the data goes to the trash, is decided in delete.go. A
// dataset in the trash keeps its replicas until Condemn. Restoring from the trash and purging are in trash.go, and
// superseded copies in discard.go. When a node may be removed is decided in remove.go (checkRemovable) and,
// for the only copy of some data, in package placement. A new kind of record about a node must be removed in clearNode,
// or belongs in record.NodeKeys.
package deletion

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/control/view"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Deleter decides on deletes, on datasets in the trash, and on superseded copies. It has no state. Its methods are safe
// for concurrent use.
type Deleter struct {
	Views  *view.Views
	Ledger *record.Ledger
	Uptime *record.Uptime
	Clock  clock.Clock
	end    func(*record.Tx, dataset.Operation) error
}

// New returns a Deleter. end records the end of an operation.
func New(v *view.Views, u *record.Uptime, end func(*record.Tx, dataset.Operation) error) *Deleter {
	return &Deleter{v, v.Ledger, u, v.Ledger.Clock, end}
}

// PlanDelete decides to delete a volume. The home deletes it when the dataset is not in use. If the home is
// unreachable, control itself deletes the volume, but only if a person confirms that the home is fenced. node is the
// node whose agent asks for the plan; uuid.Nil if a user made the request.
//
// If the request has a name, and the volume has another name, PlanDelete fails with dataset.ErrConflict. So an engine
// cannot delete a renamed volume by the former name. CommitDelete checks the name again. If the request names the
// volume by an alias, PlanDelete fails with dataset.ErrInvalid: the caller may not know that the volume is in use under
// another name.
func (r *Deleter) PlanDelete(t *record.Tx, node uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset,
	error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	if req.Name != "" && req.Name != d.Volume {
		return nil, nil, renamedError(req.Name, d)
	}
	alias, _, _ := strings.Cut(req.Volume, "@")
	if req.Volume != d.ID.String() && slices.Contains(d.Aliases, alias) {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"delete of volume %s: it is an alias of volume %s (drover volume rm %s --dry-run shows what a deletion of "+
				"the volume does; drover volume rename --drop-alias %s %s only ends the alias)", alias, d.Volume,
			d.Volume, alias, d.Volume)
	}
	if err := r.Views.CheckNoSharedMounts(t, d, "delete"); err != nil {
		return nil, nil, err
	}
	op := record.NewOperation(d)
	if req.Fenced != "" {
		op.OtherNode = d.Home
		return op, nil, r.checkDeletableWithoutHome(t, d, req)
	}
	if node != d.Home {
		if err := r.checkDeletable(t, d); err != nil {
			return nil, nil, err
		}
	}
	if req.Force { // with Protected unset, CommitDelete ignores a protection that is set meanwhile
		next := d
		next.Protected = false
		op.DatasetRecord = &next
		return op, nil, nil
	}
	return op, nil, protected(d)
}

// renamedError returns the error of a delete that was requested for a former name of a volume.
func renamedError(former string, d dataset.Dataset) error {
	return dataset.Errorf(dataset.ErrConflict,
		"delete of volume %s: it was renamed to %s meanwhile, and nothing was deleted (drover volume rm %s --dry-run "+
			"shows what a deletion does; to end only an engine's use of the former name, repeat docker volume rm)",
		former, d.Volume, d.Volume)
}

// IsWithoutHome reports whether an operation is a delete that control carries out itself because the home is
// unreachable.
func IsWithoutHome(op dataset.Operation) bool {
	return op.Kind == dataset.OpDelete && op.OtherNode != uuid.Nil
}

// checkDeletable fails if the home of a volume is unreachable, because the volume may be in use there.
func (r *Deleter) checkDeletable(t *record.Tx, d dataset.Dataset) error {
	if !r.Ledger.Shared {
		return nil
	}
	since, there, err := membership.LivingSession(t, d.Home)
	if err != nil || there {
		return err
	}
	home, err := t.NodeName(d.Home)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrOffline,
		"delete of volume %s: it is on node %s, which %s (wait for it, or when it certainly writes no more: "+
			"drover volume rm %s --force --fenced %s --dry-run)", d.Volume, home, relocation.FormatUnreachable(since),
		d.Volume, home)
}

// checkDeletableWithoutHome fails unless a volume may be deleted without its home: the home must be unreachable, and a
// person must confirm that it is fenced.
func (r *Deleter) checkDeletableWithoutHome(t *record.Tx, d dataset.Dataset, req api.Request) error {
	what := "delete of volume " + d.Volume
	switch {
	case !req.Force:
		return dataset.Errorf(dataset.ErrInvalid, "%s: --fenced NODE requires --force", what)
	case !r.Ledger.Shared:
		return dataset.Errorf(dataset.ErrUnsupported, "%s: there is no other node (omit --fenced)", what)
	}
	home, err := relocation.CheckFencedHome(t, d, req.Fenced, what)
	if err != nil {
		return err
	}
	_, there, err := membership.LivingSession(t, home.ID)
	if err == nil && there {
		err = dataset.Errorf(dataset.ErrConflict, "%s: its home, node %s, is alive (omit --fenced)", what, home.Name)
	}
	return err
}

// SettleDelete deletes a volume whose home is unreachable. The volume goes to the trash even if the profile says that
// data is destroyed, because no one has examined the data on the home. Home and epoch stay unchanged. When the home
// is reachable again, it learns that the volume is in the trash, and does not open it.
func (r *Deleter) SettleDelete(t *record.Tx, op dataset.Operation) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	home, err := t.NodeName(d.Home)
	if err != nil {
		return err
	}
	if err := r.endPendingDeletes(t, d); err != nil {
		return err
	}
	if err := releaseName(t, &d, op.ID); err != nil {
		return err
	}
	return r.moveToTrash(t, &d, "in the trash, without node "+home+": --fenced "+home)
}

// endPendingDeletes ends the pending deletes of a dataset's home. Suppose that a user restores the volume from the
// trash while the home is unreachable. The home would execute a pending delete when it is reachable again, and delete
// the restored volume.
func (r *Deleter) endPendingDeletes(t *record.Tx, d dataset.Dataset) error {
	work, err := record.OpenWork(t, d.Home)
	if err != nil {
		return err
	}
	for _, o := range work {
		if o.Kind != dataset.OpDelete || o.DatasetID != d.ID {
			continue
		}
		o.State, o.Ended = dataset.OpCancelled, r.Clock.Now()
		o.Problem = &dataset.Problem{Code: dataset.ErrCancelled.Code,
			Message: "replaced by a delete without the home"}
		if err := r.end(t, o); err != nil {
			return err
		}
	}
	return nil
}

func protected(d dataset.Dataset) error {
	if !d.Protected {
		return nil
	}
	return dataset.Errorf(dataset.ErrProtected, "volume %s is protected (drover volume protect --off %s)", d.Volume,
		d.Volume)
}

// CommitDelete removes the name. The profile says whether the data goes to the trash or is destroyed. If the volume was
// deleted since the plan, CommitDelete fails with dataset.ErrNotFound. If the volume was renamed since the plan, it
// fails with ErrConflict: the name in the request is an alias by now, and the containers under the new name need the
// data.
func (r *Deleter) CommitDelete(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if d.State != dataset.StateReady {
		return dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted meanwhile", d.Volume)
	}
	if d.Volume != op.Volume {
		return renamedError(op.Volume, d)
	}
	if op.DatasetRecord == nil || op.DatasetRecord.Protected {
		if err := protected(d); err != nil {
			return err
		}
	}
	if err := r.Views.CheckNoSharedMounts(t, d, "delete"); err != nil {
		return err
	}
	if err := releaseName(t, &d, op.ID); err != nil {
		return err
	}
	if d.Profile.OnDelete.Mode == dataset.DeletePurge {
		return Condemn(t, &d, r.Clock.Now(), api.EventVolumeDelete)
	}
	return r.moveToTrash(t, &d, "in the trash")
}

// releaseName removes the claims of a volume's name and of its aliases. In the trash, a volume has no aliases. op is
// the operation that deletes the volume.
func releaseName(t *record.Tx, d *dataset.Dataset, op uuid.UUID) error {
	for _, name := range d.Names() {
		if err := record.CheckNameClaim(t, name, d.ID); err != nil {
			return err
		}
		t.Delete(record.NameKey(name))
	}
	d.Aliases = nil
	d.Request, d.Protected = op, false
	return nil
}

// moveToTrash puts a dataset in the trash for the time that its profile says. If the profile says no time, the dataset
// stays there until a person purges it.
func (r *Deleter) moveToTrash(t *record.Tx, d *dataset.Dataset, detail string) error {
	now := r.Clock.Now()
	record.RemoveSharedMounts(t, d) // a person confirmed that the nodes that still have one are fenced
	d.State, d.Trash = dataset.StateTrashed, &dataset.Trash{At: now}
	if d.Profile.OnDelete.Mode == dataset.DeleteTrash {
		d.Trash.Expires = now.Add(time.Duration(d.Profile.OnDelete.Trash))
	}
	if err := r.Uptime.PutInTrash(t, d.ID, *d.Trash); err != nil {
		return err
	}
	t.Event(api.EventVolumeDelete, *d, detail)
	record.NotifyCopies(t, *d)
	return t.PutDataset(*d)
}

// Condemn marks a dataset for destruction: the agent of its home destroys it, and it cannot be restored. Until the
// agent reports that the data is destroyed, the dataset is pending deletion, and the trash lists it. now is recorded as
// the time of the deletion, unless the dataset is in the trash already.
func Condemn(t *record.Tx, d *dataset.Dataset, now time.Time, event api.EventType) error {
	record.RemoveSharedMounts(t, d)
	if d.Trash != nil {
		now = d.Trash.At
	}
	d.State, d.Trash = dataset.StatePurging, &dataset.Trash{At: now}
	if err := record.PutPending(t, *d); err != nil {
		return err
	}
	if err := record.CondemnCopies(t, *d); err != nil {
		return err
	}
	t.Event(event, *d, "pending deletion")
	return t.PutDataset(*d)
}
