package wire

import (
	"net/http"
	"time"
)

// knownAtHeader is the header of an answer that an agent gave without control. Its value is the time (RFC 3339) at
// which the agent last heard from control. An answer without the header is current.
const knownAtHeader = "Drover-Known-At"

// SetKnownAt adds the header Drover-Known-At to an answer.
func SetKnownAt(h http.Header, t time.Time) { h.Set(knownAtHeader, t.UTC().Format(time.RFC3339)) }

// KnownAt returns the time in the header Drover-Known-At of an answer, and false if the answer is current.
func KnownAt(h http.Header) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, h.Get(knownAtHeader))
	return t, err == nil
}
