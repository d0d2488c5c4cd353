package backends

import "fmt"

// Wrap says in the error of a function what the function was asked to do, and gives the error of a full filesystem its
// kind: see NoSpace. It is for a deferred call. If there is no error, Wrap does nothing.
func Wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), NoSpace(*err))
	}
}
