package wire

import (
	"errors"
	"net/http"
)

// IsAbort reports whether the value of a panic is http.ErrAbortHandler, with which a handler breaks its connection.
func IsAbort(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}
