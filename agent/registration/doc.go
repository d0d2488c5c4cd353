// Package registration makes this node known to control. Identity is the UUID of the node and of its cluster.
// Registration registers the node, its incarnation and its pools, and reports when the agent stops (Leave). Facts
// reports the properties of the host. StoreClock shows whether control's store was restored from a backup.
//
// Packages agent and controlsync call them: Follower registers the node again if control does not know it, and Reporter
// reports the facts. Through functions, packages operation and volume call Registration.Plan, and lease.Renewals and
// generation.Keeper call Registration.Register. Package doctor reports Registration.Refusal and Identity.Check. Package
// pooladmin calls Registration.Register after a change of the pools, package cleanup waits for Registration.Joined, and
// the daemon reads the identity of a root with KnownNode. Package cmd/drover/internal/swarm finds out about the engine
// and returns an Engine. Each type protects its state with a mutex, except that Registration counts its requests in an
// atomic number. In Facts, the mutex protects only the facts that were reported. Only the goroutine that calls
// Facts.Report uses the host's load and its fixed facts. Identity is stored in the agent's database and in the file
// node.json. If Identity finds that the database was lost, it also writes the key recovered (host.RecoveredKey), which
// package mounting deletes once the uses are known again. The incarnations and the clock are stored in the database,
// and the facts only in memory. What a node reports about its host belongs in facts.go (and in package
// internal/linux/facts); which nodes are accepted is decided by control, in package control/membership.
package registration
