// Package move moves datasets between nodes. Mover executes a move to this node: package agent registers it with
// operation.Executor. Sender provides the data that other nodes copy from here: it is the Source of the
// transfer.Server, and handover.Relinquisher calls its method Manifest. Bringer moves a volume to this node because a
// container mounts it here: package mounting calls it.
//
// The state of moves is not in this package. replication.MoveTable has the moves to this node, and lease.Table has the
// datasets that this node has relinquished. Mover has only the rate of the last move, under a mutex. The lock of a
// dataset (host.Host.Locks) protects its data.
package move
