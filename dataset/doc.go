// Package dataset holds the words of Drover: what a volume, a dataset, a
// profile, a snapshot, a lease and an operation are, how a spec such as
// db@gold is read, and which errors there can be. It is pure: no I/O, no
// import of another Drover package, values only.
//
// A volume is a name and points at one dataset. A dataset holds the bytes and
// is a UUID for life; its profile is resolved and frozen into it when it is
// made. A snapshot is an immutable point in time of a dataset. A clone is a
// dataset that starts as a snapshot and shares its blocks. A lease is the right
// of one node to have a dataset mounted for writing; it carries the dataset's
// epoch, which only grows. An operation is one piece of work on record.
//
// All values are safe to copy and to read from several goroutines; none of the
// functions keep state.
package dataset
