// Package handover passes datasets from one home to the next. Relinquisher relinquishes a dataset for a move: package
// controlsync calls it when control recalls a dataset, package mounting when a use of a dataset ends, and package agent
// at each heartbeat. Failover makes a volume continue when its home is lost: mounts call it through move.Bringer.
// Repairer makes the guard's records and the mounts of this host agree with control's records: package agent calls it
// at a start and at each heartbeat, and package lease with each status of the guard. Packages lease and mounting also
// call it for a single dataset, when they find a difference. The calls of lease and mounting are functions that package
// agent passes. Bounder bounds the lease of a volume that gets failover auto: package operation calls it as the handler
// of such an update.
//
// The package has no state in memory. lease.Table has the relinquished datasets, and protects and stores them. The lock
// of a dataset (host.Host.Locks) is held while its lease or its mount changes. Package doctor lists the findings of
// Failover. What a home does before it relinquishes a dataset belongs in relinquisher.go, and when another node may
// take over in failover.go. How a volume gets failover auto belongs in bounder.go, and what happens to a fenced dataset
// in repairer.go. Failover.AwaitMove waits for ordinary moves too, for package move.
package handover
