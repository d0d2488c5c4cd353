package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

const (
	eventStream  = "text/event-stream"
	problemEvent = "problem" // the event that ends a stream that failed

	eventPatience = 30 * time.Second // with a peer that does not read
)

type eventsInput struct {
	After  uint64 `query:"after" doc:"only what came after the event with this ID"`
	Follow bool   `query:"follow" doc:"go on with what happens from now on"`
	Last   uint64 `header:"Last-Event-ID" doc:"as after, for browsers that reconnect"`
}

func (h handlers) events() {
	op := get("/v1/events", "get-events", "operations", "Read what happened, and what happens")
	op.Description = "Server-sent events. Each carries its ID and, as data, an Event; " +
		"an event of type " + problemEvent + " carries a Problem and ends a stream that failed."
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{
		eventStream: {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"id", "data"},
			Properties: map[string]*huma.Schema{
				"id":   {Type: huma.TypeInteger, Format: "int64", Description: "the event's ID"},
				"data": h.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Event](), true, ""),
			},
		}},
	}}}
	add(h, op, func(_ context.Context, in *eventsInput) (*Bytes, error) {
		return &Bytes{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			h.follow(r.Context(), w, max(in.After, in.Last), in.Follow)
		}}, nil
	})
}

func (h handlers) follow(ctx context.Context, w http.ResponseWriter, after uint64, follow bool) {
	w.Header().Set("Content-Type", eventStream)
	w.Header().Set("Cache-Control", "no-store")
	conn := http.NewResponseController(w)
	_ = conn.Flush() // the peer learns that it is connected; a peer that is gone ends ctx
	ctx, end := waiting(ctx)
	// A peer that has stopped reading must not hold up the service: a deadline of
	// the kernel's, so the system's clock. In process there is no connection and
	// none.
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }()
	err := end(h.Service.Events(ctx, after, follow, func(e Event) error {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_ = conn.SetWriteDeadline(clock.Deadline(eventPatience))
		if _, err := fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.ID, data); err != nil {
			return err
		}
		if err := conn.Flush(); !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return nil
	}))
	if err != nil {
		data, _ := json.Marshal(ProblemOf(err)) // strings and a number: cannot fail
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", problemEvent, data)
	}
}

// maxEventLine bounds what a server can make a client keep in memory.
const maxEventLine = 1 << 20

// readEvents calls fn for each event of a stream until it ends. A stream that
// ends without failing is no error.
func readEvents(r io.Reader, fn func(Event) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEventLine)
	var kind, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			kind = value
		case "data":
			data += value
		case "": // a blank line ends an event; with a colon it is a comment
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
		return dataset.Errorf(dataset.ErrInternal, "event of more than %d bytes", maxEventLine)
	}
	return lines.Err()
}

func dispatch(kind, data string, fn func(Event) error) error {
	if kind == problemEvent {
		var p Problem
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return dataset.Errorf(dataset.ErrInternal, "problem in the event stream that cannot be read: %w", err)
		}
		return p.Err()
	}
	var e Event
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return dataset.Errorf(dataset.ErrInternal, "event that cannot be read: %w", err)
	}
	return fn(e)
}
