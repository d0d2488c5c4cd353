package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The event stream of the API consists of server-sent events.
const (
	EventStreamType = "text/event-stream" // media type of the stream
	ProblemEvent    = "problem"           // type of the event that ends a failed stream
)

// EncodeEvent returns the text of an event in the stream.
func EncodeEvent(e api.Event) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "id: %d\ndata: %s\n\n", e.ID, data), nil
}

// EncodeProblem returns the text of the event that ends a stream which failed with err.
func EncodeProblem(err error) []byte {
	data, _ := json.Marshal(ProblemOf(err)) // strings and a number: cannot fail
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", ProblemEvent, data)
}

// MaxEventLine is the longest line of a stream that a client accepts. It bounds the memory that a server can make a
// client use.
const MaxEventLine = 1 << 20

// ReadEvents calls fn for each event of a stream until the stream ends or fn returns an error. It returns the error
// of fn, or the problem that the stream ends with. If the stream ends without a problem, it returns nil.
func ReadEvents(r io.Reader, fn func(api.Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, MaxEventLine)
	var kind, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			kind = value
		case "data":
			data += value
		case "": // an empty line ends an event; a line that begins with a colon is a comment
			if lines.Text() != "" || data == "" {
				continue
			}
			if err := dispatch(kind, data, fn); err != nil {
				return err
			}
			kind, data = "", ""
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return dataset.Errorf(dataset.ErrInternal, "event of more than %d bytes", MaxEventLine)
	}
	return lines.Err()
}

// dispatch decodes one event and calls fn for it, or returns the problem that it carries.
func dispatch(kind, data string, fn func(api.Event) error) error {
	if kind == ProblemEvent {
		var p Problem
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return dataset.Errorf(dataset.ErrInternal, "problem in the event stream that cannot be read: %w", err)
		}
		return p.Err()
	}
	var e api.Event
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return dataset.Errorf(dataset.ErrInternal, "event that cannot be read: %w", err)
	}
	return fn(e)
}

// MaxWait is the longest time that one request may wait for something to happen.
const MaxWait = 10 * time.Minute

// ParseWait reads the parameter wait of a request. An empty value is 0. The error is ErrInvalid.
func ParseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > MaxWait {
		return 0, dataset.Errorf(dataset.ErrInvalid, "bad wait %q: want a duration of at most %s, such as 30s",
			dataset.Clip(s), MaxWait)
	}
	return d, nil
}

// FormatWait returns the parameter wait for a duration, at most MaxWait. It is empty if the duration is not positive.
func FormatWait(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return min(d, MaxWait).String()
}

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
