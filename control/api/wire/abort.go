package wire

import (
	"errors"
	"net/http"
)

// IsAbort reports whether the value of a panic is http.ErrAbortHandler: a handler breaks its connection that way.
func IsAbort(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}
