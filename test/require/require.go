// Package require ends a test whose preparation has failed.
package require

// NoError ends the test if err is not nil. t is a test, a benchmark, a fuzz target or a rapid check.
func NoError(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}
