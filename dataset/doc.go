// Package dataset defines the terms of Drover: volume, dataset, profile, snapshot, lease and operation, how a spec such
// as db@gold is parsed, and the kinds of errors. It is pure: it has values only, does no I/O, and imports no other
// package of Drover.
//
// A volume is a name that refers to one dataset. A dataset has the data, and a UUID for life; its profile is resolved
// and copied into it when it is made. A snapshot is an immutable point in time of a dataset. A clone is a dataset that
// starts as a snapshot and shares its blocks. A lease is the right of one node to have a dataset mounted for
// writing; it has the dataset's epoch, which only grows. An operation is one recorded piece of work.
//
// All values are safe to copy and to read from several goroutines. No function keeps state.
package dataset
