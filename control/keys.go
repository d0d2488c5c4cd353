package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// The families of keys; doc.go says what lies in each.
const (
	namesPrefix      = "names/"
	datasetsPrefix   = "datasets/"
	snapshotsPrefix  = "snapshots/"
	snapnamesPrefix  = "snapnames/"
	nodesPrefix      = "nodes/"
	poolsPrefix      = "pools/"
	operationsPrefix = "operations/"
	trashPrefix      = "trash/"
	uuidPrefix       = "by-uuid/"
	revPrefix        = "rev/"
	awayPrefix       = "away/"
	fencedPrefix     = "fenced/"
	leftPrefix       = "left/"
	tokensPrefix     = "tokens/"
	revokedPrefix    = "revoked/"
	copiesPrefix     = "copies/"
	factsPrefix      = "facts/"
	leasesPrefix     = "leases/"
	homesPrefix      = "home/"
	guestsPrefix     = "guests/"

	generationsPrefix = "generations/"
)

// clusterKey holds the identity of the store: made once, with the first node.
const clusterKey = "cluster/id"

// haltedKey says why nothing is decided; see halt.
const haltedKey = "cluster/halted"

// failoverKey says why nothing fails over by itself; see massLoss.
const failoverKey = "failover/halted"

// ranKey holds the time for which services have run on the store.
const ranKey = "house/ran"

func nameKey(name string) string       { return namesPrefix + name }
func datasetKey(id uuid.UUID) string   { return datasetsPrefix + id.String() }
func leaseKey(id uuid.UUID) string     { return leasesPrefix + id.String() }
func nodeKey(id uuid.UUID) string      { return nodesPrefix + id.String() }
func poolKey(id uuid.UUID) string      { return poolsPrefix + id.String() }
func factsKey(id uuid.UUID) string     { return factsPrefix + id.String() }
func operationKey(id uuid.UUID) string { return operationsPrefix + id.String() }
func trashKey(id uuid.UUID) string     { return trashPrefix + id.String() }
func uuidKey(id uuid.UUID) string      { return uuidPrefix + id.String() }

func tokenKey(hash string) string           { return tokensPrefix + hash }
func revokedNodeKey(id uuid.UUID) string    { return revokedPrefix + id.String() }
func revokedOperatorKey(name string) string { return revokedPrefix + "operator/" + name }

func snapshotPrefix(ds uuid.UUID) string { return snapshotsPrefix + ds.String() + "/" }
func snapshotKey(ds, id uuid.UUID) string {
	return snapshotPrefix(ds) + id.String()
}
func snapnameKey(ds uuid.UUID, name string) string {
	return snapnamesPrefix + ds.String() + "/" + name
}
func homePrefix(node uuid.UUID) string { return homesPrefix + node.String() + "/" }
func homeKey(node, ds uuid.UUID) string {
	return homePrefix(node) + ds.String()
}
func nodeCopies(node uuid.UUID) string { return copiesPrefix + node.String() + "/" }
func copyKey(node, ds uuid.UUID) string {
	return nodeCopies(node) + ds.String()
}
func guestPrefix(node uuid.UUID) string { return guestsPrefix + node.String() + "/" }
func guestKey(node, ds uuid.UUID) string {
	return guestPrefix(node) + ds.String()
}
func workPrefix(node uuid.UUID) string { return "work/" + node.String() + "/" }
func workKey(node, op uuid.UUID) string {
	return workPrefix(node) + op.String()
}

// claim is the value of names/, snapnames/, home/, guests/ and work/: what the key
// points at.
type claim struct {
	ID uuid.UUID `json:"id"`
}

// pointer is the value of by-uuid/: the dataset itself, or the snapshot's.
type pointer struct {
	Dataset  uuid.UUID `json:"dataset"`
	Snapshot bool      `json:"snapshot,omitempty"`
}

// decode reads a value of the store. A value that cannot be read, or is another
// key's, is damage, and named: it must not look like absence, and what is
// decided on must be what the key says it is.
func decode(key string, value []byte, v any) error {
	err := json.Unmarshal(value, v)
	if err == nil {
		err = belongs(key, v)
	}
	if err != nil {
		return damaged(key, err)
	}
	return nil
}

func damaged(key string, err error) error {
	return dataset.Errorf(dataset.ErrCorrupt, "store: value of %s is damaged: %w", key, err)
}

// belongs checks that a value is one of its key, and whole enough to work with.
func belongs(key string, v any) error {
	want := key
	switch v := v.(type) {
	case *claim:
		if v.ID == uuid.Nil {
			return errors.New("it points at nothing")
		}
	case *pointer:
		if v.Dataset == uuid.Nil {
			return errors.New("it points at nothing")
		}
	case *dataset.Dataset:
		want = datasetKey(v.ID)
		if err := whole(*v); err != nil {
			return err
		}
	case *dataset.Snapshot:
		want = snapshotKey(v.Dataset, v.ID)
	case *dataset.Lease:
		want = leaseKey(v.Dataset)
	case *dataset.Copy:
		want = copyKey(v.Node, v.Dataset)
	case *dataset.Node:
		want = nodeKey(v.ID)
	case *dataset.Facts:
		want = factsKey(v.Node)
	case *dataset.Pool:
		want = poolKey(v.ID)
	case *generation:
		want = generationKey(v.Pool)
	case *dataset.Operation:
		want = operationKey(v.ID)
	case *ended:
		want = operationKey(v.ID)
	}
	if want != key {
		return fmt.Errorf("it is the value of %.100s", want)
	}
	return nil
}

func whole(d dataset.Dataset) error {
	switch d.State {
	case dataset.StateReady, dataset.StatePurging:
	case dataset.StateTrashed:
		if d.Trash == nil {
			return errors.New("it is in the trash, but since when is missing")
		}
	default:
		return fmt.Errorf("unknown state %.40q", d.State)
	}
	return nil
}

// idIn reads the UUID that ends a key.
func idIn(key, prefix string) (uuid.UUID, error) {
	text := strings.TrimPrefix(key, prefix)
	id, err := uuid.Parse(text)
	if err == nil && id.String() != text {
		err = errors.New("it is not spelt as a UUID is")
	}
	if err != nil {
		return id, dataset.Errorf(dataset.ErrCorrupt, "store: key %.200s: %w", key, err)
	}
	return id, nil
}
