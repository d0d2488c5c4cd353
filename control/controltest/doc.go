// Package controltest is the harness for tests of control and of its packages. Control is a service on a real store.
// Agent is the agent of a node. Replicas are several services on one store. LostHome, RestoredStore and LastCopy are
// clusters in a state that several tests begin with.
//
// Methods named Must... fail the test if the call fails. Methods named Report... report to control, as the agent of the
// node does.
//
// A harness belongs to one test, and ends with it. The store has all state of control, under its own lock. Only the
// goroutine of the test changes the fields of a harness, and only while no other goroutine uses them. SpyStore counts
// under a mutex. A cluster in a new state gets a type in a file of its name. A request that several tests send belongs
// in requests.go, and a report of an agent in agent.go.
package controltest
