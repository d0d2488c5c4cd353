// Package move moves datasets between nodes. Mover executes a move to this node: package agent registers it with
// operation.Executor. TransferSource provides the data that other nodes copy from here: transfer.Server reads from it,
// and handover.Relinquisher calls its method Manifest. Bringer moves a volume to this node because a container mounts
// it here: package mounting calls it through a function.
//
// The state of moves is not in this package. replication.MoveTable has the moves to this node, and lease.Table has
// the datasets that this node has relinquished. Mover has only the rate of the last large copy, under a mutex. Package
// agent puts the node that sends a request into its context (WithRequester, CertifiedNode in peer.go). The lock of
// a dataset (host.Host.Locks) protects its data.
//
// Where to change what: the steps of a move are in mover.go and moving.go. The copying of data, before and after the
// home relinquishes the dataset, is in copying.go. Moves on a share are in share.go. The checks before a failover are
// in fencing.go. Whether a mount may move a volume without a command of the operator is decided in bringer.go.
// How a transfer continues after an interruption is in package transfer (pull.go).
package move
