// Package agent is one host: it keeps the mounts that containers use, carries
// out the operations whose home this node is, and answers the plugin.
//
// # What is on disk
//
// The agent's own small store holds, for this node alone: its identity, the
// pools that it has seen, the mount IDs of every mounted dataset with the boot
// that they belong to, the spellings that the engine has used, and a copy of
// the records of its datasets, so that it can answer when control is away.
//
// # The life of a mount
//
//	Mount(db@gold, ID)   backend describes → mount(2) on <root>/mnt/<dataset UUID>
//	                     → checked → {ID, boot, engine's generation} on disk → reply
//	Unmount(db@gold, ID) ID off disk → umount(2) when it was the last
//
// An ID that may belong to a container which outlived its engine ends only after a look at the mount
// namespaces of the host, and so does what the guard has: see uses.go and holders.go.
//
// A mount below <root>/mnt is its own intent: one without an ID was never
// acknowledged, or was given back, and is taken off at the next start.
//
// # Whose a dataset is
//
// Home: the record in control names this node. The agent mounts, changes and sends it.
// A move that wants it elsewhere first recalls it, then this node gives up its epoch, on
// disk (yields/), and neither mounts nor changes it at that epoch again. Copy: the home
// is another node, and what lies here has no head (copies/). What a move brings here is
// a copy that no record knows yet (pulls/), and the home once control has said so.
//
// # What is bounded in time
//
// A dataset with failover auto may be open here until a deadline, which the guard is told. lease.Deadlines computes and
// extends it. guarded.go makes the guard's records agree with what is mounted. The nodes that were given a part of such
// a dataset are on disk (enrolled/). For a dataset with failover manual none of that is done.
//
// # Locks
//
// One lock a dataset, held while its bytes or its mount change; one job a name
// while a volume is made; one lock for all pools while one is taken in. No lock is
// held across two datasets but for a clone: its own, which nobody else asks for
// until it is committed, and then its source's. What the engine spells volumes is
// read, put on disk and taken in under a lock of its own, which is taken last.
// Nothing here calls the Docker API.
package agent
