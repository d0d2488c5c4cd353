// Package formats tests that this version of Drover opens what an earlier version wrote. Its fixtures are the disks of
// a host: the state of Drover, and pools of the backends that every machine can make. testdata/make.sh made them with
// the named commit, and they are never changed afterwards. The package has only tests, so no other package imports it.
// Each test works on its own copy of the fixtures.
package formats
