// Package agent is the agent of one host. It mounts volumes for containers, executes operations on the datasets whose
// home is this node, and answers the plugin and the API. The daemon (cmd/drover/internal/daemon) creates one Agent,
// starts it, and uses it to serve the plugin socket, the local API, the peer API and the metrics. The agent makes its
// components, which are the packages below it, and connects them: see wiring.go. Only the components have state in
// memory, and each protects its own. A change of behaviour belongs in a component. Only these changes belong in this
// package: a new component, a new connection between two of them, a new method of the plugin or of the local API, and
// work that must be done at each heartbeat (DoHeartbeatWork in wiring.go).
//
// # What is on disk
//
// The agent has a small database. It contains the identity of the node, the pools that it has seen, the mount IDs of
// every mounted dataset with the boot that they belong to, the spellings that the engine has used, and a copy of the
// records of its datasets. With these the agent can answer while control is unreachable.
//
// # The life of a mount
//
//	Mount(db@gold, ID)   the dataset is registered with the guard → the backend describes the mount
//	                     → mount(2) on <root>/mnt/<dataset UUID> → the guard confirms the registration
//	                     → {ID, boot, generation of the engine} on disk → reply
//	Unmount(db@gold, ID) the ID is removed from disk → umount(2) if it was the last one
//
// A dataset whose lease is not bounded in time skips both steps of the guard.
//
// The engine may lose an ID while a container still uses the mount, because a container can outlive its engine. Such an
// ID is only removed after the mount namespaces of the host were searched for the mount. The same applies to a
// registration with the guard: see mounting.Verifier and mounting.Holders.
//
// A mount below <root>/mnt has no other record. If it has no ID on disk, it was never acknowledged or its last use has
// ended, and the next start unmounts it.
//
// # Home and copy
//
// If control's record names this node as the home of a dataset, the agent mounts, changes and sends the dataset. A
// move to another node first recalls the dataset. Then this node relinquishes the epoch, which is recorded on disk
// (yields/), and neither mounts nor changes the dataset at that epoch again.
//
// If the home is another node, this node may have a copy of the dataset (copies/): snapshots, and no writable head. A
// dataset that a move brings here is a copy that control has not recorded yet (pulls/). This node becomes its home when
// control records the end of the move.
//
// # Leases that are bounded in time
//
// A dataset with failover auto may be open here only until a deadline. lease.Deadlines computes and extends the
// deadline, and reports it to the guard. Package mounting makes the guard's records agree with the mounts. The nodes
// that were given a part of such a dataset are on disk (enrolled/). A dataset with failover manual has no deadline.
//
// # Locks
//
// A dataset is locked (host.Host.Locks) while its data or its mount changes. While a volume is made, one job runs for
// its name. While a pool is made, adopted, accepted or gets another policy, one lock is held for all pools of the host.
// A removal holds a lock of its pool, and the lock for all pools only while it changes the record of the pool. Only a
// clone holds the locks of two datasets. It first locks the new dataset, which no other request can use before the
// clone is committed, and then the source. The spellings of the engine have a separate mutex. It is locked after the
// lock of a dataset, never before. The agent never calls the Docker API.
package agent
