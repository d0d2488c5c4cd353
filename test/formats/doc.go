// Package formats tests that Drover opens what the version of the fixture wrote: the state of a host, with a pool of
// backend loop. TestFixture makes the fixture with -update. After a release, a fixture is never changed: a format that
// changes gets a second one, made before the change. The package has only tests, so no other package imports it. Each
// test works on its own copy of the fixture.
package formats
