// Package controltest is the harness for tests of control and of its packages. Control is a service on a real store.
// Agent is the agent of a node. Replicas are several services on one store. LostHome, RestoredStore and LastCopy are
// clusters in a state that several tests begin with.
//
// Methods named Must... fail the test if the call fails. Methods named Report... report to control, as the agent of the
// node does.
package controltest
