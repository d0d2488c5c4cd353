// Package move copies datasets between nodes, and passes their homes on.
//
// A sender and a receiver copy snapshots and files (Server and Client in pull.go, push of frames in frame.go). Replicas
// keeps the copies of this node up to date, Copies applies control's decisions about them, Installer makes an arrived
// copy the head of a dataset, and Retention keeps the snapshots that other nodes need. Mover drives a move to this
// node, Bringer begins one for a mount, and Relinquisher ends the use of a dataset at its former home. Failover takes
// over a dataset whose home is lost, Repairer makes the guard and the mounts agree with control's records, and Bounder
// changes whether a lease is bounded in time.
//
// MoveTable has the moves to this node, on disk under pulls/; copies are under copies/. lease.Table has the datasets
// that this node has relinquished. The lock of a dataset (host.Host.Locks) is held while its lease, its mount or its
// data changes.
package move
