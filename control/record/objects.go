package record

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// ListAll reads every object under a prefix with few keys.
func ListAll[T any](t *Tx, prefix string) ([]T, error) {
	entries, err := t.List(prefix, "", 0)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(entries))
	for i, e := range entries {
		if err := Decode(e.Key, e.Value, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// FindNode finds a node by its name or by a unique prefix of its UUID. If no node matches, it fails with
// dataset.ErrInvalid, and the error lists the existing nodes. If several match, it fails with dataset.ErrAmbiguous.
func (t *Tx) FindNode(ref string) (n dataset.Node, err error) {
	nodes, err := ListAll[dataset.Node](t, NodesPrefix)
	if err != nil {
		return n, err
	}
	var names []string
	var found []dataset.Node
	for _, o := range nodes {
		names = append(names, o.Name)
		if o.Name == ref || IsPrefixOf(strings.ToLower(ref), o.ID) {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 1:
		_, err := t.Get(NodeKey(found[0].ID), &n) // read with Get, so that the decision depends on the node
		return n, err
	case 0:
		return n, dataset.Errorf(dataset.ErrInvalid, "unknown node %q (available: %s)%s", dataset.Clip(ref),
			dataset.FormatChoices(names), dataset.Suggestion(ref, names))
	}
	return n, dataset.Errorf(dataset.ErrAmbiguous, "%q matches several nodes (use the UUID): for example %s and %s",
		dataset.Clip(ref), found[0].ID, found[1].ID)
}

// NodeName returns the name of a node, or its UUID if it is not known.
func (t *Tx) NodeName(id uuid.UUID) (string, error) {
	var n dataset.Node
	ok, err := t.Get(NodeKey(id), &n)
	if err == nil && !ok {
		return id.String(), nil
	}
	return n.Name, err
}

// IsPrefixOf reports whether prefix has the form of an abbreviated UUID, and id begins with it.
func IsPrefixOf(prefix string, id uuid.UUID) bool {
	return dataset.CheckPrefix(prefix) == nil && strings.HasPrefix(id.String(), prefix)
}

// Lease reads the lease of a dataset. Every dataset has one.
func (t *Tx) Lease(d dataset.Dataset) (l dataset.Lease, err error) {
	ok, err := t.Get(LeaseKey(d.ID), &l)
	if err == nil && !ok {
		err = Inconsistent("%s is missing, but %s is there", LeaseKey(d.ID), DatasetKey(d.ID))
	}
	return l, err
}

// RaisesClock reports whether a transaction raises the store clock: it changes the home or the lease of a dataset.
func (t *Tx) RaisesClock() bool {
	return slices.ContainsFunc(t.writes, func(w store.Write) bool {
		return strings.HasPrefix(w.Key, LeasesPrefix) || strings.HasPrefix(w.Key, HomesPrefix)
	})
}

// OpenWork returns the operations of a node that have not ended.
func OpenWork(t *Tx, node uuid.UUID) (open []dataset.Operation, err error) {
	claims, err := ListAll[Claim](t, WorkPrefix(node))
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(claims))
	for i, c := range claims {
		keys[i] = OperationKey(c.ID)
	}
	if err := t.Prefetch(keys); err != nil {
		return nil, err
	}
	for _, c := range claims {
		var op dataset.Operation
		if ok, err := t.Get(OperationKey(c.ID), &op); err != nil {
			return nil, err
		} else if ok && !op.State.Final() {
			open = append(open, op)
		}
	}
	return open, nil
}

// PutSnapshot writes the record of a snapshot, the claim of its name, and its entry under by-uuid/.
func PutSnapshot(t *Tx, snap dataset.Snapshot) error {
	if snap.Name != "" {
		if err := t.Put(SnapshotNameKey(snap.Dataset, snap.Name), Claim{ID: snap.ID}); err != nil {
			return err
		}
	}
	if err := PutUUIDPointer(t, snap.ID, UUIDPointer{Dataset: snap.Dataset, Snapshot: true}); err != nil {
		return err
	}
	return t.Put(SnapshotKey(snap.Dataset, snap.ID), snap)
}

// DeleteSnapshot deletes the keys that PutSnapshot writes.
func DeleteSnapshot(t *Tx, snap dataset.Snapshot) {
	t.Delete(SnapshotKey(snap.Dataset, snap.ID))
	t.Delete(UUIDKey(snap.ID))
	if snap.Name != "" {
		t.Delete(SnapshotNameKey(snap.Dataset, snap.Name))
	}
}

// EachSnapshot calls look for each recorded snapshot of a dataset. The commit does not check them.
func EachSnapshot(t *Tx, id uuid.UUID, look func(dataset.Snapshot)) error {
	entries, err := t.List(SnapshotPrefix(id), "", 0)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var s dataset.Snapshot
		if err := Decode(e.Key, e.Value, &s); err != nil {
			return err
		}
		look(s)
	}
	return nil
}

// Halted fails with dataset.ErrConflict while the store is inconsistent. HaltedKey hardly ever exists, so a
// transaction does not read it: it assumes that the key is absent, and its commit checks that. A plan does not check
// the key, because the transaction that follows the plan does.
func (t *Tx) Halted() error {
	if t.ReadOnly {
		return nil
	}
	t.UseCached(store.Entry{Key: HaltedKey})
	var h Halt
	there, err := t.Get(HaltedKey, &h)
	if err != nil || !there {
		return err
	}
	return h.Err()
}

// GetRepository reads a repository, so that the decision depends on it. It fails with dataset.ErrNotFound.
func GetRepository(t *Tx, name string) (repo dataset.Repository, err error) {
	if err := dataset.CheckRepositoryName(name); err != nil {
		return repo, err
	}
	known, err := t.Get(RepositoryKey(name), &repo)
	if err != nil || known {
		return repo, err
	}
	all, err := ListAll[dataset.Repository](t, RepositoriesPrefix)
	if err != nil {
		return repo, err
	}
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.Name
	}
	return repo, dataset.Errorf(dataset.ErrNotFound, "no such repository: %q (available: %s)%s", name,
		dataset.FormatChoices(names), dataset.Suggestion(name, names))
}

// LoadAssignedCopy returns a copy of a node in the form in which control sends it to the agent.
func LoadAssignedCopy(t *Tx, node, id uuid.UUID) (k api.AssignedCopy, there bool, err error) {
	key := CopyKey(node, id)
	if there, err = t.Get(key, &k.Copy); err != nil || !there {
		return k, false, err
	}
	k.Index = t.Index(key)
	var d dataset.Dataset
	known, err := t.Get(DatasetKey(id), &d)
	if known {
		k.Record = &d
	}
	return k, true, err
}

// SharedMountDatasets appends to ids the datasets with a shared mount on a node, each once.
func SharedMountDatasets(t *Tx, node uuid.UUID, ids []uuid.UUID) ([]uuid.UUID, error) {
	claims, err := ListAll[Claim](t, SharedMountPrefix(node))
	for _, c := range claims {
		if !slices.Contains(ids, c.ID) {
			ids = append(ids, c.ID)
		}
	}
	return ids, err
}

// RefTo returns a reference to a dataset that a user can type. For a dataset in the trash, RefTo returns the UUID
// instead of the name, because another dataset may have taken that name.
func RefTo(d dataset.Dataset) string {
	if d.State == dataset.StateReady {
		return d.Volume
	}
	return d.ID.String()
}

// Alive is the value of a node's key under live/. The key exists while the agent renews the session. The value has the
// ID of the session, because the agent can renew the session through any service.
type Alive struct {
	Node        uuid.UUID `json:"node"`
	Incarnation uuid.UUID `json:"incarnation"`
	Boot        string    `json:"boot"`
	Since       time.Time `json:"since"`
	Session     string    `json:"session"`
}

// Unreachable is the value of a node's key under away/: since when the node is unreachable. The key is deleted in the
// transaction in which its agent registers again. As long as the key has the same index, the node was unreachable
// without interruption.
type Unreachable struct {
	Since    time.Time        `json:"since"`
	RunTime  dataset.Duration `json:"ran,omitempty"`     // running time of services (RunMark) at that moment
	Clock    time.Time        `json:"clock,omitzero"`    // the node's own clock when it was last heard; zero: not known
	ClockAge dataset.Duration `json:"old,omitempty"`     // how old Clock was when the record was written
	Guarded  bool             `json:"guarded,omitempty"` // the node's guard answered when the node was last heard
}

// Fenced is the value of a node's key under fenced/.
type Fenced struct {
	At time.Time `json:"at"`
	By string    `json:"by"` // who confirmed it
}

// TrashEntry is the value of a key of the trash. RunTime is the running time of services (RunMark) when the dataset
// was put in the trash.
type TrashEntry struct {
	dataset.Trash
	RunTime dataset.Duration `json:"ran,omitempty"`
}

// IsFor reports whether the entry belongs to the present stay of the dataset in the trash, and not to an earlier one.
func (tr TrashEntry) IsFor(d dataset.Dataset) bool {
	return d.Trash.At.Equal(tr.At) && d.Trash.Expires.Equal(tr.Expires)
}

// Remaining returns how much of its time in the trash a dataset still has.
func (tr TrashEntry) Remaining(ran time.Duration) time.Duration {
	return tr.Expires.Sub(tr.At) - (ran - time.Duration(tr.RunTime))
}

// FailoverHalt is the value of FailoverKey. It exists while automatic failover is suspended.
type FailoverHalt struct {
	Since time.Time   `json:"since"`
	Nodes []uuid.UUID `json:"nodes"` // the nodes that vanished
}
