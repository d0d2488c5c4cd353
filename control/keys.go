package control

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
)

func nameKey(name string) string       { return "names/" + name }
func datasetKey(id uuid.UUID) string   { return "datasets/" + id.String() }
func leaseKey(id uuid.UUID) string     { return "leases/" + id.String() }
func nodeKey(id uuid.UUID) string      { return "nodes/" + id.String() }
func poolKey(id uuid.UUID) string      { return "pools/" + id.String() }
func operationKey(id uuid.UUID) string { return "operations/" + id.String() }
func trashKey(id uuid.UUID) string     { return "trash/" + id.String() }
func uuidKey(id uuid.UUID) string      { return "by-uuid/" + id.String() }

func snapshotPrefix(ds uuid.UUID) string { return "snapshots/" + ds.String() + "/" }
func snapshotKey(ds, id uuid.UUID) string {
	return snapshotPrefix(ds) + id.String()
}
func snapnameKey(ds uuid.UUID, name string) string {
	return "snapnames/" + ds.String() + "/" + name
}
func homePrefix(node uuid.UUID) string { return "home/" + node.String() + "/" }
func homeKey(node, ds uuid.UUID) string {
	return homePrefix(node) + ds.String()
}
func workPrefix(node uuid.UUID) string { return "work/" + node.String() + "/" }
func workKey(node, op uuid.UUID) string {
	return workPrefix(node) + op.String()
}

// claim is the value of names/ and snapnames/: what the name points at.
type claim struct {
	ID uuid.UUID `json:"id"`
}

// pointer is the value of by-uuid/: the dataset itself, or the snapshot's.
type pointer struct {
	Dataset  uuid.UUID `json:"dataset"`
	Snapshot bool      `json:"snapshot,omitempty"`
}

// decode reads a value of the store. A value that cannot be read is damage, and
// named: it must not look like absence.
func decode(key string, value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("store: value of %s is damaged: %w", key, err)
	}
	return nil
}
