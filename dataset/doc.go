// Package dataset defines the terms of Drover: volume, dataset, profile, snapshot, lease and operation. It also defines
// how a spec such as db@gold is parsed, and the kinds of errors. It does no I/O and imports no other package of Drover.
// Control, the agent, the plugin and the command line all use it.
//
// A volume is a name that refers to one dataset. A dataset has the data, and a UUID for life. Its profile is resolved
// and copied into it when it is made. A snapshot is an immutable point in time of a dataset. A clone is a dataset that
// starts as a snapshot and shares its blocks. A lease is the right of one node to have a dataset mounted for writing.
// It has the dataset's epoch, which only grows. An operation is one recorded piece of work.
//
// Several goroutines may read a value at the same time. A copy of a value shares its slices and maps with the original.
// Profile.Clone makes a deep copy. The only state is the cache of decoded types in oldkeys.go. It is a sync.Map, so it
// needs no lock.
package dataset
