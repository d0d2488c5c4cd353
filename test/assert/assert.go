// Package assert reports what is wrong, and lets the test continue. Package require ends it.
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
