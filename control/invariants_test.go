package control

import (
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// state is everything in a store, by kind, with what is derived from it.
type state struct {
	datasets   map[uuid.UUID]dataset.Dataset
	snapshots  map[uuid.UUID]dataset.Snapshot
	operations map[uuid.UUID]dataset.Operation
	leases     map[uuid.UUID]dataset.Lease
}

// check holds the store to what must be true between any two transactions: a
// name and its dataset point at each other, every index has exactly what it is
// of, leases agree with their datasets, and no key is left over.
func (e *env) check() state {
	e.Helper()
	entries, err := e.spy.Store.List(e.ctx, "", "", 0)
	if err != nil {
		e.Fatalf("%v", err)
	}
	st := state{map[uuid.UUID]dataset.Dataset{}, map[uuid.UUID]dataset.Snapshot{}, map[uuid.UUID]dataset.Operation{}, map[uuid.UUID]dataset.Lease{}}
	got, want := map[string]any{}, map[string]any{}
	spent := map[uuid.UUID]map[uuid.UUID]bool{}
	for _, en := range entries {
		family, _, _ := strings.Cut(en.Key, "/")
		switch family {
		case "datasets":
			d := read[dataset.Dataset](e, en.Key, en.Value)
			st.datasets[d.ID] = d
			indexDataset(want, d)
		case "snapshots":
			s := read[dataset.Snapshot](e, en.Key, en.Value)
			st.snapshots[s.ID] = s
			indexSnapshot(want, s)
		case "operations":
			op := read[dataset.Operation](e, en.Key, en.Value)
			st.operations[op.ID] = op
			if !op.State.Final() {
				want[record.WorkKey(op.Node, op.ID)] = record.Claim{ID: op.ID}
			}
			if op.State.Final() == op.Ended.IsZero() {
				e.Errorf("operation %s is %s and ended at %v", op.ID, op.State, op.Ended)
			}
		case "names", "snapnames", "home", "work", "guests":
			got[en.Key] = read[record.Claim](e, en.Key, en.Value)
		case "by-uuid":
			got[en.Key] = read[record.UUIDPointer](e, en.Key, en.Value)
		case "leases":
			l := read[dataset.Lease](e, en.Key, en.Value)
			st.leases[l.Dataset] = l
			l.Incarnation = uuid.Nil
			if d := st.datasets[l.Dataset]; d.Move != uuid.Nil && l.State != dataset.LeaseHeld {
				l.State, l.Wanted, l.InUse = dataset.LeaseHeld, uuid.Nil, false
			}
			got[en.Key] = l
		case "copies":
			c := read[dataset.Copy](e, en.Key, en.Value)
			got[en.Key] = record.CopyKey(c.Node, c.Dataset)
			if spent[c.Dataset] == nil {
				spent[c.Dataset] = map[uuid.UUID]bool{}
			}
			spent[c.Dataset][c.Node] = c.Spent()
		case "trash":
			got[en.Key] = read[dataset.Trash](e, en.Key, en.Value)
		case "nodes", "pools", "facts", "cluster", "house", "tokens", "revoked", "rev", "live", "away":
		default:
			e.Errorf("nobody knows key %s", en.Key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("the indexes are not those of the objects (- should be, + is):\n%s", diff)
	}
	for _, d := range st.datasets {
		for _, n := range append(slices.Clone(d.Copies), d.Spent...) {
			if slices.Contains(d.Followers(), n) == spent[d.ID][n] {
				e.Fatalf("dataset %s says that of its copies %v those on %v are spent", d.ID, d.Copies, d.Spent)
			}
		}
		if op := st.operations[d.Move]; d.Move != uuid.Nil && (op.State.Final() || op.DatasetID != d.ID || op.Epoch != d.Epoch) {
			e.Fatalf("dataset %s names move %+v, which is none of its epoch that goes on", d.ID, op)
		}
	}
	for _, s := range st.snapshots {
		if _, ok := st.datasets[s.Dataset]; !ok {
			e.Fatalf("snapshot %s of a dataset that is gone", s.ID)
		}
		for _, l := range st.datasets[s.Dataset].Losses {
			if l.Forgotten && l.Of(s) {
				e.Fatalf("snapshot %s is lost, and on record", s.ID)
			}
		}
	}
	return st
}

func read[T any](e *env, key string, value []byte) T {
	e.Helper()
	var v T
	if err := record.Decode(key, value, &v); err != nil {
		e.Fatalf("%v", err)
	}
	return v
}

func indexDataset(want map[string]any, d dataset.Dataset) {
	want[record.UUIDKey(d.ID)] = record.UUIDPointer{Dataset: d.ID}
	if d.Home != uuid.Nil {
		want[record.HomeKey(d.Home, d.ID)] = record.Claim{ID: d.ID}
	}
	for _, n := range d.Copies {
		want[record.CopyKey(n, d.ID)] = record.CopyKey(n, d.ID)
	}
	for _, g := range d.Guests {
		want[record.GuestKey(g.Node, d.ID)] = record.Claim{ID: d.ID}
	}
	if d.Home != uuid.Nil || d.State != dataset.StatePurging {
		want[record.LeaseKey(d.ID)] = dataset.Lease{Dataset: d.ID, Node: d.Home, Epoch: d.Epoch, State: dataset.LeaseHeld}
	}
	switch d.State {
	case dataset.StateReady:
		want[record.NameKey(d.Volume)] = record.Claim{ID: d.ID}
	case dataset.StateTrashed:
		want[record.TrashKey(d.ID)] = *d.Trash
	}
}

func indexSnapshot(want map[string]any, s dataset.Snapshot) {
	want[record.UUIDKey(s.ID)] = record.UUIDPointer{Dataset: s.Dataset, Snapshot: true}
	if s.Name != "" {
		want[record.SnapshotNameKey(s.Dataset, s.Name)] = record.Claim{ID: s.ID}
	}
}
