// Package formats tests that this version of Drover opens what an earlier version wrote. Its fixtures are the disks of
// a host: the state of Drover, and pools of the backends that every machine can make. testdata/make.sh made them with
// the named commit, and nobody changes them afterwards.
package formats
