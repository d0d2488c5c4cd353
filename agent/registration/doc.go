// Package registration makes this node known to control. Identity is the UUID of the node and of its cluster.
// Registration registers the node, its incarnation and its pools. Facts reports the properties of the host. StoreClock
// shows whether control's store was restored from a backup.
//
// Package agent and controlsync.Follower call them, and the daemon reads the identity of a root with KnownNode. Each
// type protects its state with a mutex. Identity is stored in the agent's database and in the file node.json, the
// incarnations and the clock in the database, and the facts only in memory.
package registration
