package record

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// AddDataset records a new dataset, with the lease for its home.
func AddDataset(t *Tx, d dataset.Dataset, incarnation uuid.UUID) error {
	lease := dataset.Lease{
		Dataset:     d.ID,
		Node:        d.Home,
		Incarnation: incarnation,
		Epoch:       d.Epoch,
		State:       dataset.LeaseHeld,
	}
	if incarnation == uuid.Nil { // a recovery found the dataset, and nothing is known about its content
		EndContent(t, &d)
	}
	if err := PutUUIDPointer(t, d.ID, UUIDPointer{Dataset: d.ID}); err != nil {
		return err
	}
	if err := t.Put(LeaseKey(d.ID), lease); err != nil {
		return err
	}
	if err := t.Put(HomeKey(d.Home, d.ID), Claim{ID: d.ID}); err != nil {
		return err
	}
	return t.PutDataset(d)
}

// PutUUIDPointer makes an object findable by a prefix of its UUID. It fails with dataset.ErrExists if the UUID belongs
// to another object, because agents choose the UUIDs of the objects that they make. The first attempt does not read
// the key: it assumes that the key is absent, and the commit checks that.
func PutUUIDPointer(t *Tx, id uuid.UUID, to UUIDPointer) error {
	key := UUIDKey(id)
	t.UseCached(store.Entry{Key: key})
	var is UUIDPointer
	there, err := t.Get(key, &is)
	if err == nil && there && is != to {
		err = dataset.Errorf(dataset.ErrExists,
			"UUID %s already belongs to something else, of dataset %s (use a new UUID)", id, is.Dataset)
	}
	if err != nil {
		return err
	}
	return t.Put(key, to)
}

// PutPending records that the data of a condemned dataset still exists at its home. The entry is in the trash, without
// a time at which it expires.
func PutPending(t *Tx, d dataset.Dataset) error {
	return t.Put(TrashKey(d.ID), TrashEntry{Trash: dataset.Trash{At: d.Trash.At}})
}

// ForgetDataset removes all records of a dataset. It is called when no node has data of the dataset any more.
func ForgetDataset(t *Tx, d dataset.Dataset) {
	RemoveSharedMounts(t, &d)
	for _, k := range []string{DatasetKey(d.ID), UUIDKey(d.ID), LeaseKey(d.ID),
		TrashKey(d.ID), BackupsKey(d.ID), VerificationsKey(d.ID), ParentsKey(d.ID), DamagedKey(d.ID)} {
		t.Delete(k)
	}
}

// PutCopy records a copy that a node must have, or the new state of a copy. It also updates the lists of copies in the
// record of the dataset, from which the home learns whether the volume can continue from the copy.
func PutCopy(t *Tx, d *dataset.Dataset, c dataset.Copy) error {
	if err := PutCopyIn(t, d, c); err != nil {
		return err
	}
	return t.PutDataset(*d)
}

// PutCopyIn is PutCopy for a caller that writes the record of the dataset itself.
func PutCopyIn(t *Tx, d *dataset.Dataset, c dataset.Copy) error {
	if !slices.Contains(d.Copies, c.Node) {
		d.Copies = append(slices.Clone(d.Copies), c.Node)
	}
	d.SupersededCopies = WithoutNode(d.SupersededCopies, c.Node)
	if c.SupersededForGood() {
		d.SupersededCopies = append(d.SupersededCopies, c.Node)
	}
	t.NotifyDataset(d.ID, c.Node)
	return t.Put(CopyKey(c.Node, d.ID), c)
}

// RemoveCopyNode removes a node from the nodes with a copy of a dataset, in a record that the caller writes.
func RemoveCopyNode(d *dataset.Dataset, node uuid.UUID) {
	d.Copies, d.SupersededCopies = WithoutNode(d.Copies, node), WithoutNode(d.SupersededCopies, node)
}

// WithoutNode returns the given nodes except node.
func WithoutNode(nodes []uuid.UUID, node uuid.UUID) []uuid.UUID {
	return slices.DeleteFunc(slices.Clone(nodes), func(n uuid.UUID) bool { return n == node })
}

// DropCopy removes the record of a copy that is destroyed. If it was the last copy of a condemned dataset without a
// home, DropCopy removes the record of the dataset too.
func DropCopy(t *Tx, node, id uuid.UUID) error {
	t.Delete(CopyKey(node, id))
	var d dataset.Dataset
	there, err := t.Get(DatasetKey(id), &d)
	if err != nil || !there {
		return err
	}
	RemoveCopyNode(&d, node)
	if d.State == dataset.StatePurging && d.Home == uuid.Nil && len(d.Copies) == 0 {
		ForgetDataset(t, d)
		return nil
	}
	return t.PutDataset(d)
}

// CondemnCopies condemns every copy of a dataset: their nodes destroy them.
func CondemnCopies(t *Tx, d dataset.Dataset) error {
	for _, node := range d.Copies {
		if err := CondemnCopy(t, node, d.ID); err != nil {
			return err
		}
	}
	return nil
}

// CondemnCopy condemns the copy of a dataset on a node, which then destroys it.
func CondemnCopy(t *Tx, node, id uuid.UUID) error {
	var c dataset.Copy
	there, err := t.Get(CopyKey(node, id), &c)
	if err != nil || !there {
		return err
	}
	if c.Kind != dataset.CopyCondemned {
		c.Kind, c.PreviousKind = dataset.CopyCondemned, c.Kind
	}
	t.NotifyDataset(id, node)
	return t.Put(CopyKey(node, id), c)
}

// AddSharedMount adds a shared mount to the record of a dataset, which the caller writes.
func AddSharedMount(t *Tx, d *dataset.Dataset, g dataset.SharedMount) error {
	d.SharedMounts = append(otherSharedMounts(d.SharedMounts, g.Node), g)
	t.NotifyDataset(d.ID, g.Node)
	return t.Put(SharedMountKey(g.Node, d.ID), Claim{ID: d.ID})
}

// RemoveSharedMount removes the shared mount of a node from the record of a dataset, which the caller writes.
func RemoveSharedMount(t *Tx, d *dataset.Dataset, node uuid.UUID) {
	if _, stays := d.SharedMountOf(node); !stays {
		return
	}
	if d.SharedMounts = otherSharedMounts(d.SharedMounts, node); len(d.SharedMounts) == 0 {
		d.SharedMounts = nil
	}
	t.NotifyDataset(d.ID, node)
	t.Delete(SharedMountKey(node, d.ID))
}

// RemoveSharedMounts removes all shared mounts from the record of a dataset, which the caller writes.
func RemoveSharedMounts(t *Tx, d *dataset.Dataset) {
	for _, g := range d.SharedMounts {
		RemoveSharedMount(t, d, g.Node)
	}
}

func otherSharedMounts(all []dataset.SharedMount, node uuid.UUID) []dataset.SharedMount {
	return slices.DeleteFunc(slices.Clone(all), func(g dataset.SharedMount) bool { return g.Node == node })
}

// CheckNameClaim fails with dataset.ErrCorrupt unless a name or alias of a dataset is claimed by the dataset.
func CheckNameClaim(t *Tx, name string, ds uuid.UUID) error {
	var c Claim
	ok, err := t.Get(NameKey(name), &c)
	if err == nil && (!ok || c.ID != ds) {
		err = Inconsistent("%s does not point at %s, which has that name", NameKey(name), DatasetKey(ds))
	}
	return err
}

// CheckSnapshotName fails unless the name is empty, or free for a snapshot of d.
func CheckSnapshotName(t *Tx, d dataset.Dataset, name string) error {
	if name == "" {
		return nil
	}
	if dataset.CheckName(name) != nil {
		return dataset.Errorf(dataset.ErrInvalid,
			"bad snapshot name %q: expected 2 to 128 letters, digits, '_', '.' or '-', with a letter or digit "+
				"first", dataset.Clip(name))
	}
	var c Claim
	ok, err := t.Get(SnapshotNameKey(d.ID, name), &c)
	if err == nil && ok {
		err = dataset.Errorf(dataset.ErrExists, "volume %s already has a snapshot named %q: %s", d.Volume, name, c.ID)
	}
	return err
}

// SnapshotsAtOnce is the maximum number of snapshots that one transaction removes or restores. A snapshot takes up to
// six operations, because it has up to three keys, each of which is read and written. 25 operations are left for the
// other keys of the transaction.
const SnapshotsAtOnce = (store.MaxOps - 25) / 6

// CurrentDataset reads the dataset of an operation. It fails with dataset.ErrStale unless the dataset still has the
// epoch and the home that the operation was planned for. It fails with ErrConflict if the home has relinquished the
// dataset for a move.
func CurrentDataset(t *Tx, op dataset.Operation) (dataset.Dataset, error) {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return d, err
	}
	if (d.Home != op.Node || d.Epoch != op.Epoch) && !steps.Off("epoch") {
		return d, dataset.Errorf(dataset.ErrStale,
			"dataset %s: report of epoch %d from node %s, but the dataset is at epoch %d on node %s", d.ID, op.Epoch,
			op.Node, d.Epoch, d.Home)
	}
	if d.Move == uuid.Nil {
		return d, nil
	}
	// After the home has relinquished the dataset, nothing may change the dataset there.
	lease, err := t.Lease(d)
	if err == nil && lease.State == dataset.LeaseMoving {
		err = dataset.Errorf(dataset.ErrConflict, "volume %s is being moved to another node (operation %s)",
			d.Volume, d.Move)
	}
	return d, err
}

// NewOperation makes an operation for the home of an existing dataset.
func NewOperation(d dataset.Dataset) *dataset.Operation {
	return &dataset.Operation{Node: d.Home, Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch}
}
