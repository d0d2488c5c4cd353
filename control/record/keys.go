// Package record is how control reads and writes its store, and how everyone who waits learns of a change.
//
// It has the key of each record, the types that exist only in the store, the check that a value belongs to its key, and
// Tx, the transaction in which every decision is made. A decision is a function that reads with Get, finds objects by
// the references that users type (Volume, Snapshot, FindNode), and writes with Put and Delete. Ledger.Update calls it,
// commits its transaction, and calls it again if a record that Get read has changed: this protects all records.
// Ledger.View does the same for a function that writes nothing.
//
// A commit wakes the callers that wait at this service: Feed has the changes of datasets by node, and EventLog the
// newest events. It wakes those at other services through lanes, keys that carry the latest notices (lanes.go). Each
// lane counts the values that were written to it, and the sum of these counts is the store clock: a lower one than
// before shows that the store was restored from a backup (clock.go). The store of a single host has neither lanes nor a
// clock. Data is destroyed after a time that Uptime counts, the running time of all services, and not after one that a
// clock shows (counter.go).
//
// A Tx belongs to one goroutine. The rest of the state in memory has a mutex each, and none is held during access to
// the store: the feed, the event log, the lanes of this service, the highest store clock that it has seen, the last
// count of running time, node records, which save most reads of nodes (NodeCache), and the known format.
//
// To add a key, add its name here, its type in types.go, a case in checkBelongs (decode.go), a line in the package
// comment of control, and a case in CheckInvariants of package controltest, which fails for unknown keys. A key of a
// dataset is also removed in ForgetDataset (datasets.go), and one that changes often is left out of the digest in
// export of package repositories. A record that expires by the running time is listed in isAwaited, so that the count
// runs while it exists.
package record

import (
	"github.com/droverhq/drover/control/store"
	"github.com/google/uuid"
)

// Prefixes of the families of keys. The package comment of control says what each family has.
const (
	NamesPrefix         = "names/"
	DatasetsPrefix      = "datasets/"
	SnapshotsPrefix     = "snapshots/"
	SnapshotNamesPrefix = "snapnames/"
	NodesPrefix         = "nodes/"
	PoolsPrefix         = "pools/"
	OperationsPrefix    = "operations/"
	TrashPrefix         = "trash/"
	UUIDPrefix          = "by-uuid/"
	RevPrefix           = "rev/"
	UnreachablePrefix   = "away/"
	fencedPrefix        = "fenced/"
	StoppedPrefix       = "left/"
	returnedPrefix      = "returned/"
	TokensPrefix        = "tokens/"
	RevokedPrefix       = "revoked/"
	CopiesPrefix        = "copies/"
	FactsPrefix         = "facts/"
	LeasesPrefix        = "leases/"
	HomesPrefix         = "home/"
	sharedMountsPrefix  = "guests/"
	RepositoriesPrefix  = "repositories/"
	BackupsPrefix       = "backups/"
	VerificationsPrefix = "verifications/"
	ParentsPrefix       = "parents/"
	DamagedPrefix       = "damaged-backups/"
	ExportsPrefix       = "exports/"
	AllWorkPrefix       = "work/"

	generationsPrefix = "generations/"
)

// ClusterKey holds the identity of the store, which is made once, when the first node registers.
const ClusterKey = "cluster/id"

// HaltedKey holds a Halt while the store is inconsistent and changes are suspended.
const HaltedKey = "cluster/halted"

// FailoverKey holds the reason why automatic failover is suspended, after many nodes were lost at once.
const FailoverKey = "failover/halted"

// RunMarkKey holds a RunMark: how long control services have run on the store, in total.
const RunMarkKey = "house/ran"

// NameKey is the key of the claim of a volume name.
func NameKey(name string) string { return NamesPrefix + name }

// DatasetKey is the key of a dataset.
func DatasetKey(id uuid.UUID) string { return DatasetsPrefix + id.String() }

// LeaseKey is the key of the lease of a dataset.
func LeaseKey(id uuid.UUID) string { return LeasesPrefix + id.String() }

// NodeKey is the key of a node.
func NodeKey(node uuid.UUID) string { return NodesPrefix + node.String() }

// PoolKey is the key of a pool.
func PoolKey(id uuid.UUID) string { return PoolsPrefix + id.String() }

// FactsKey is the key of the facts of a node.
func FactsKey(node uuid.UUID) string { return FactsPrefix + node.String() }

// OperationKey is the key of an operation.
func OperationKey(id uuid.UUID) string { return OperationsPrefix + id.String() }

// TrashKey is the key of a dataset in the trash.
func TrashKey(id uuid.UUID) string { return TrashPrefix + id.String() }

// UUIDKey is the key of the object that a UUID names.
func UUIDKey(id uuid.UUID) string { return UUIDPrefix + id.String() }

// RepositoryKey is the key of a repository for backups.
func RepositoryKey(name string) string { return RepositoriesPrefix + name }

// ExportKey is the key of what became of the exports of the records to a repository.
func ExportKey(repository string) string { return ExportsPrefix + repository }

// BackupsKey is the key of the scheduled backups of a dataset.
func BackupsKey(id uuid.UUID) string { return BackupsPrefix + id.String() }

// DamagedKey is the key of the damaged backups of a dataset.
func DamagedKey(id uuid.UUID) string { return DamagedPrefix + id.String() }

// ParentsKey is the key of the backups of a dataset that can be the parent of the next one.
func ParentsKey(id uuid.UUID) string { return ParentsPrefix + id.String() }

// VerificationsKey is the key of the verifications of a dataset's backups.
func VerificationsKey(id uuid.UUID) string { return VerificationsPrefix + id.String() }

// TokenKey is the key of a join token, by its hash.
func TokenKey(hash string) string { return TokensPrefix + hash }

// RevokedNodeKey is the key of the revocation of a node.
func RevokedNodeKey(node uuid.UUID) string { return RevokedPrefix + node.String() }

// RevokedOperatorKey is the key of the revocation of an operator.
func RevokedOperatorKey(name string) string { return RevokedPrefix + "operator/" + name }

// SnapshotPrefix is the prefix of the keys of the snapshots of a dataset.
func SnapshotPrefix(ds uuid.UUID) string { return SnapshotsPrefix + ds.String() + "/" }

// SnapshotKey is the key of a snapshot.
func SnapshotKey(ds, id uuid.UUID) string {
	return SnapshotPrefix(ds) + id.String()
}

// SnapshotNameKey is the key of the claim of a snapshot name.
func SnapshotNameKey(ds uuid.UUID, name string) string {
	return SnapshotNamesPrefix + ds.String() + "/" + name
}

// HomePrefix is the prefix of the index keys of the datasets whose home is the node.
func HomePrefix(node uuid.UUID) string { return HomesPrefix + node.String() + "/" }

// HomeKey is the key of the claim of a dataset by its home.
func HomeKey(node, ds uuid.UUID) string {
	return HomePrefix(node) + ds.String()
}

// NodeCopies is the prefix of the keys of the copies on a node.
func NodeCopies(node uuid.UUID) string { return CopiesPrefix + node.String() + "/" }

// CopyKey is the key of a copy.
func CopyKey(node, ds uuid.UUID) string {
	return NodeCopies(node) + ds.String()
}

// SharedMountPrefix is the prefix of the index keys of the datasets with a shared mount on the node.
func SharedMountPrefix(node uuid.UUID) string { return sharedMountsPrefix + node.String() + "/" }

// SharedMountKey is the key of the claim of a shared mount.
func SharedMountKey(node, ds uuid.UUID) string {
	return SharedMountPrefix(node) + ds.String()
}

// WorkPrefix is the prefix of the keys of the work of a node.
func WorkPrefix(node uuid.UUID) string { return AllWorkPrefix + node.String() + "/" }

// WorkKey is the key of an operation of a node.
func WorkKey(node, op uuid.UUID) string {
	return WorkPrefix(node) + op.String()
}

// LiveNodeKey is the key of the session of a node.
func LiveNodeKey(node uuid.UUID) string { return LiveNodesPrefix + node.String() }

// UnreachableKey is the key of the record that a node is unreachable.
func UnreachableKey(node uuid.UUID) string { return UnreachablePrefix + node.String() }

// FencedKey is the key of the record that a node is fenced.
func FencedKey(node uuid.UUID) string { return fencedPrefix + node.String() }

// StoppedKey is the key of the record that the agent of a node was stopped properly.
func StoppedKey(node uuid.UUID) string { return StoppedPrefix + node.String() }

// ReturnedKey is the key that names the last recovery of the store after which a node has registered. Its value is a
// Claim with the ID of the recovery.
func ReturnedKey(node uuid.UUID) string { return returnedPrefix + node.String() }

// NodeKeys returns the keys of the records about a node that are deleted when the node is removed. The records about
// its datasets, copies and operations are removed one by one before that: see deletion.NodeRemover. A key that names a
// node belongs in this list, or in the exceptions of TestNodeKeysAreComplete.
func NodeKeys(node uuid.UUID) []string {
	return []string{
		NodeKey(node), FactsKey(node), UnreachableKey(node), FencedKey(node), StoppedKey(node), ReturnedKey(node),
	}
}

// GenerationKey is the key of the generation of a pool.
func GenerationKey(pool uuid.UUID) string { return generationsPrefix + pool.String() }

// RecoveryKey holds the last Recovery of the store.
const RecoveryKey = "cluster/recovery"

// RemovedLanesKey holds the sum of the counts of all lanes that were removed. It has the same prefix as the lanes, so
// that one read returns both.
const RemovedLanesKey = RevPrefix + "dropped"

// Keys that the store deletes when a session ends: the session of a node, of a control replica, or of the replica that
// does the background work.
const (
	LiveNodesPrefix    = store.LivePrefix + "nodes/"
	LiveServicesPrefix = store.LivePrefix + "control/"
	HousekeeperKey     = store.LivePrefix + "house"
)
