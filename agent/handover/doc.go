// Package handover passes datasets from one home to the next: Relinquisher gives a dataset up for a move, Failover has
// a volume continue when its home is lost, and Repairer brings the guard's records and this host in line after that.
package handover
