// Package assert has checks that report a failure and let the test continue. Those of package require end the test.
package assert

// NoError fails the test if err is not nil.
func NoError(t interface {
	Helper()
	Errorf(format string, args ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%v", err)
	}
}
