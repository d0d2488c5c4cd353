// Package dataset defines the terms of Drover: volume, dataset, profile, snapshot, lease and operation. It also
// defines how a spec such as db@gold is parsed, and the kinds of errors. It does no I/O and imports no other package
// of Drover. Most other packages use it: control, the agent, the backends, the guard, the plugin and the command line.
//
// A volume is a name that refers to one dataset. A dataset is the data, with a UUID that never changes. When a dataset
// is made, its profile is resolved and copied into its record. A snapshot is an immutable point in time of a dataset.
// A clone is a dataset that starts as a snapshot and shares its blocks. A lease is the right of one node to have a
// dataset mounted for writing. A lease contains the epoch of the dataset, a fencing token that only grows. An
// operation is one recorded piece of work.
//
// Several goroutines may read a value at the same time. A copy of a value shares its slices and maps with the
// original. Profile.Clone makes a deep copy. The package has no state.
//
// Where to change what: the records are in types.go, operation.go, profile.go, facts.go and repository.go. An option
// of docker volume create -o belongs in options.go, a kind of error in errors.go, and a rule for names in spec.go. How
// records are decoded is in format.go. The API reference contains the comments of the fields of records: after a change
// of one, run "go generate ./control/api/openapi".
package dataset
