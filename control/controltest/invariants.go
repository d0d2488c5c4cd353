package controltest

import (
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Records is everything in a store, by kind.
type Records struct {
	Datasets      map[uuid.UUID]dataset.Dataset
	Snapshots     map[uuid.UUID]dataset.Snapshot
	Operations    map[uuid.UUID]dataset.Operation
	Backups       []record.Backups
	Verifications []record.Verifications
	Damaged       []record.DamagedBackups
}

// CheckInvariants checks what must be true between any two transactions: a name and its dataset refer to each other,
// each index has exactly the objects that it must have, leases agree with their datasets, and no key is left over.
func (e *Control) CheckInvariants() Records {
	e.Helper()
	entries, err := e.Spy.Store.List(e.Ctx, "", "", 0)
	e.OK(err)
	st := Records{
		Datasets:   map[uuid.UUID]dataset.Dataset{},
		Snapshots:  map[uuid.UUID]dataset.Snapshot{},
		Operations: map[uuid.UUID]dataset.Operation{},
	}
	got, want, spent := map[string]any{}, map[string]any{}, map[uuid.UUID]map[uuid.UUID]bool{}
	for _, en := range entries {
		switch family, _, _ := strings.Cut(en.Key, "/"); family {
		case "datasets":
			d := read[dataset.Dataset](e, en.Key, en.Value)
			st.Datasets[d.ID] = d
			indexDataset(want, d)
		case "snapshots":
			s := read[dataset.Snapshot](e, en.Key, en.Value)
			st.Snapshots[s.ID] = s
			indexSnapshot(want, s)
		case "operations":
			op := read[dataset.Operation](e, en.Key, en.Value)
			st.Operations[op.ID] = op
			if !op.State.Final() {
				want[record.WorkKey(op.Node, op.ID)] = record.Claim{ID: op.ID}
			}
			if op.State.Final() == op.Ended.IsZero() {
				e.Errorf("operation %s: got state %s, ended %v", op.ID, op.State, op.Ended)
			}
		case "names", "snapnames", "home", "work", "guests":
			got[en.Key] = read[record.Claim](e, en.Key, en.Value)
		case "by-uuid":
			got[en.Key] = read[record.UUIDPointer](e, en.Key, en.Value)
		case "leases":
			l := read[dataset.Lease](e, en.Key, en.Value)
			l.Incarnation = uuid.Nil
			if d := st.Datasets[l.Dataset]; d.Move != uuid.Nil && l.State != dataset.LeaseHeld {
				l.State, l.WantedBy, l.InUse = dataset.LeaseHeld, uuid.Nil, false
			}
			got[en.Key] = l
		case "copies":
			c := read[dataset.Copy](e, en.Key, en.Value)
			got[en.Key] = record.CopyKey(c.Node, c.Dataset)
			addSpent(spent, c)
		case "trash":
			got[en.Key] = read[dataset.Trash](e, en.Key, en.Value)
		case "backups":
			st.Backups = append(st.Backups, read[record.Backups](e, en.Key, en.Value))
		case "verifications":
			st.Verifications = append(st.Verifications, read[record.Verifications](e, en.Key, en.Value))
		case "damaged-backups":
			st.Damaged = append(st.Damaged, read[record.DamagedBackups](e, en.Key, en.Value))
		case "repositories":
			read[dataset.Repository](e, en.Key, en.Value)
		case "exports":
			read[record.Export](e, en.Key, en.Value)
		case "nodes", "pools", "generations", "facts", "cluster", "house", "tokens", "revoked", "rev", "live", "away",
			"fenced", "left", "returned", "failover":
		default:
			e.Errorf("key %s is of no known kind", en.Key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("the indexes differ from the objects (-want +got):\n%s", diff)
	}
	e.checkReferences(st, spent)
	return st
}

// addSpent adds whether a copy is superseded for good, by dataset and node.
func addSpent(spent map[uuid.UUID]map[uuid.UUID]bool, c dataset.Copy) {
	if spent[c.Dataset] == nil {
		spent[c.Dataset] = map[uuid.UUID]bool{}
	}
	spent[c.Dataset][c.Node] = c.SupersededForGood()
}

// checkReferences checks that datasets agree with their copies, moves and snapshots. spent has the copies that are
// superseded for good, by dataset and node.
func (e *Control) checkReferences(st Records, spent map[uuid.UUID]map[uuid.UUID]bool) {
	e.Helper()
	for _, d := range st.Datasets {
		if d.State != dataset.StateReady && d.Aliases != nil {
			e.Fatalf("dataset %s: got state %s, aliases %v", d.ID, d.State, d.Aliases)
		}
		for _, n := range append(slices.Clone(d.Copies), d.SupersededCopies...) {
			if slices.Contains(d.Followers(), n) == spent[d.ID][n] {
				e.Fatalf("dataset %s: copies %v, spent %v; the copy on node %s is spent: %t",
					d.ID, d.Copies, d.SupersededCopies, n, spent[d.ID][n])
			}
		}
		op := st.Operations[d.Move]
		if d.Move != uuid.Nil && (op.State.Final() || op.DatasetID != d.ID || op.Epoch != d.Epoch) {
			e.Fatalf("dataset %s: got move %+v, want a running move of its epoch %d", d.ID, op, d.Epoch)
		}
	}
	for _, b := range st.Backups {
		if _, ok := st.Datasets[b.Dataset]; !ok {
			e.Fatalf("backups of dataset %s: it is not recorded", b.Dataset)
		}
		if op, ok := st.Operations[b.Running]; ok && (op.State.Final() || op.DatasetID != b.Dataset || !op.Scheduled) {
			e.Fatalf("backups of dataset %s: got operation %+v, want one that runs", b.Dataset, op)
		}
	}
	for _, is := range st.Damaged {
		if _, ok := st.Datasets[is.Dataset]; !ok {
			e.Fatalf("damaged backup of dataset %s: it is not recorded", is.Dataset)
		}
	}
	for _, v := range st.Verifications {
		if _, ok := st.Datasets[v.Dataset]; !ok {
			e.Fatalf("verifications of dataset %s: it is not recorded", v.Dataset)
		}
		if op, ok := st.Operations[v.Running]; ok && (op.State.Final() || op.BackupOf != v.Dataset || !op.Scheduled) {
			e.Fatalf("verifications of dataset %s: got operation %+v, want one that runs", v.Dataset, op)
		}
	}
	for _, s := range st.Snapshots {
		if _, ok := st.Datasets[s.Dataset]; !ok {
			e.Fatalf("snapshot %s: dataset %s is not recorded", s.ID, s.Dataset)
		}
		for _, l := range st.Datasets[s.Dataset].Losses {
			if l.SnapshotsForgotten && l.Includes(s) {
				e.Fatalf("snapshot %s is recorded, but dataset %s has lost it", s.ID, s.Dataset)
			}
		}
	}
}

// Dump returns everything in the store, to check that nothing was changed.
func (e *Control) Dump() map[string]string {
	e.Helper()
	entries, err := e.Spy.Store.List(e.Ctx, "", "", 0)
	e.OK(err)
	all := map[string]string{}
	for _, en := range entries {
		all[en.Key] = string(en.Value)
	}
	return all
}

// read decodes a record.
func read[T any](e *Control, key string, value []byte) T {
	e.Helper()
	var v T
	e.OK(record.Decode(key, value, &v))
	return v
}

// indexDataset adds the keys that the store must have for a dataset.
func indexDataset(want map[string]any, d dataset.Dataset) {
	want[record.UUIDKey(d.ID)] = record.UUIDPointer{Dataset: d.ID}
	if d.Home != uuid.Nil {
		want[record.HomeKey(d.Home, d.ID)] = record.Claim{ID: d.ID}
	}
	for _, n := range d.Copies {
		want[record.CopyKey(n, d.ID)] = record.CopyKey(n, d.ID)
	}
	for _, g := range d.SharedMounts {
		want[record.SharedMountKey(g.Node, d.ID)] = record.Claim{ID: d.ID}
	}
	if d.Home != uuid.Nil || d.State != dataset.StatePurging {
		want[record.LeaseKey(d.ID)] = dataset.Lease{
			Dataset: d.ID, Node: d.Home, Epoch: d.Epoch, State: dataset.LeaseHeld,
		}
	}
	switch d.State {
	case dataset.StateReady:
		for _, name := range d.Names() {
			want[record.NameKey(name)] = record.Claim{ID: d.ID}
		}
	case dataset.StateTrashed:
		want[record.TrashKey(d.ID)] = *d.Trash
	case dataset.StatePurging:
		if d.Home != uuid.Nil {
			want[record.TrashKey(d.ID)] = *d.Trash
		}
	}
}

// indexSnapshot adds the keys that the store must have for a snapshot.
func indexSnapshot(want map[string]any, s dataset.Snapshot) {
	want[record.UUIDKey(s.ID)] = record.UUIDPointer{Dataset: s.Dataset, Snapshot: true}
	if s.Name != "" {
		want[record.SnapshotNameKey(s.Dataset, s.Name)] = record.Claim{ID: s.ID}
	}
}
