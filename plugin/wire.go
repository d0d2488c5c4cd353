package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	"github.com/docker/go-plugins-helpers/volume"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/requestid"
)

const (
	prefix  = "drover: "
	maxBody = 1 << 20 // names and options
)

var errTooLarge = dataset.Errorf(dataset.ErrInvalid, "request of more than %d bytes", maxBody)

var errNoBody = dataset.Errorf(dataset.ErrInvalid,
	"the connection broke and the engine repeated the request without its body (nothing was done: retry)")

// call is a call of the protocol that names a volume.
type call struct {
	name  string
	limit time.Duration
	// forgets says that an Err in the answer to this call makes the engine forget the volume and its users.
	forgets bool
}

// named answers a call with a body.
func named[R any](s *Server, c call, f func(context.Context, R) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.begin(c.name)()
		ctx := identify(w, r)
		var req R
		err := read(w, r, &req)
		switch {
		case err != nil && c.forgets && errors.Is(err, errNoBody):
			hangUp(w) // the request does not say which volume it means, and that volume may exist
			return
		case errors.Is(err, errTooLarge):
			refuse(w, http.StatusRequestEntityTooLarge, err)
			return
		case err != nil:
			refuse(w, http.StatusBadRequest, err)
			return
		}
		v, err := limited(ctx, s, Call{Name: c.name, Volume: volumeOf(req)}, c.limit,
			func(ctx context.Context) (any, error) { return f(ctx, req) })
		switch {
		case err == nil:
			answer(w, http.StatusOK, v)
		case c.forgets && !mayReachEngine(ctx, err):
			hangUp(w)
		default:
			refuse(w, http.StatusInternalServerError, err)
		}
	}
}

// plain answers a call without arguments. It does not read the body.
func plain(s *Server, name string, f func(context.Context) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer s.begin(name)()
		v, err := limited(identify(w, r), s, Call{Name: name}, shortCall, f)
		if err != nil {
			refuse(w, http.StatusInternalServerError, err)
			return
		}
		answer(w, http.StatusOK, v)
	}
}

// identify returns the context of a request with its ID and the engine that makes it, and adds the ID to the answer.
// An engine does not pass on which of its users made the request.
func identify(w http.ResponseWriter, r *http.Request) context.Context {
	ctx := requestid.Receive(r.Context(), r.Header)
	ctx = requestid.WithBy(ctx, strings.TrimSpace("engine "+string(ToolOf(ctx))))
	requestid.SetHeader(ctx, w.Header())
	return ctx
}

// volumeOf returns the name of the volume in a request.
func volumeOf(req any) string {
	switch r := req.(type) {
	case volume.CreateRequest:
		return r.Name
	case volume.RemoveRequest:
		return r.Name
	case volume.MountRequest:
		return r.Name
	case volume.UnmountRequest:
		return r.Name
	case volume.PathRequest:
		return r.Name
	case volume.GetRequest:
		return r.Name
	}
	return ""
}

// limited calls f with a deadline, and returns a panic of f as an error.
func limited(ctx context.Context, s *Server, c Call, limit time.Duration,
	f func(context.Context) (any, error)) (v any, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if s.opts.Called != nil {
		began := clock.System{}.Steady()
		defer func() { // after the recover below
			c.Err, c.Took = err, clock.System{}.Steady()-began
			s.opts.Called(ctx, c)
		}()
	}
	defer func() {
		if p := recover(); p != nil {
			if s.opts.Panicked != nil {
				s.opts.Panicked(ctx, c.Name, p, debug.Stack())
			}
			v, err = nil, failurelog.MarkLogged(
				dataset.Errorf(dataset.ErrInternal, "failed with an internal error (see its log)"))
		}
	}()
	v, err = f(ctx)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("not done within %s (try again): %w", limit, err)
	}
	return v, err
}

// mayReachEngine reports whether an error of Get may be sent to the tool that called it. The Docker engine treats every
// such error as "no such volume", so the volume must certainly not exist, or differ from the request. After any other
// error it is unknown whether the volume exists. This includes ErrUnavailable: control is unreachable, and a stopped
// container of the engine may use a volume of another node. If the engine has no record of the volume, it continues
// with Create and shows the error of Create.
//
// Podman keeps its record after every error of Get. So it gets ErrUnavailable, whose text says that control is
// unreachable.
func mayReachEngine(ctx context.Context, err error) bool {
	switch dataset.KindOf(err) {
	case dataset.ErrNotFound, dataset.ErrInvalid, dataset.ErrUnsupported, dataset.ErrAmbiguous,
		dataset.ErrExists, dataset.ErrForbidden:
		return true
	case dataset.ErrUnavailable:
		return ToolOf(ctx) == Podman
	}
	return false
}

// read decodes the body of a request. It ignores unknown fields, which a newer engine may send.
func read(w http.ResponseWriter, r *http.Request, v any) error {
	// The deadline is applied to the socket, so it uses the system's clock. It is removed after the body was read,
	// because it would otherwise end the context of the call.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(clock.Deadline(readTimeout))
	defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return dataset.Errorf(dataset.ErrInvalid, "incomplete request: %w", err)
	case len(body) == 0:
		return errNoBody
	case len(body) > maxBody:
		return errTooLarge
	}
	if err := json.Unmarshal(body, v); err != nil {
		return dataset.Errorf(dataset.ErrInvalid, "cannot read the request: %w", err)
	}
	return nil
}

// refuse answers with an error. The status is never 200: see the package comment.
func refuse(w http.ResponseWriter, status int, err error) {
	line := err.Error()
	if !errors.As(err, new(helpText)) {
		line = dataset.OneLine(err)
	}
	if held := dataset.HoldersOf(err); held != nil && !held.IsEmpty() {
		line += "; " + held.Summary()
	}
	answer(w, status, volume.NewErrorResponse(prefix+strings.TrimPrefix(line, prefix)))
}

// answer writes v as JSON. It ignores errors, because the engine may have closed the connection.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	w.WriteHeader(status)
	if list, ok := v.(volumeList); ok {
		_ = list.write(w)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

// status returns m if it can be encoded as a JSON object, and otherwise an object with the reason.
func status(m map[string]any) map[string]any {
	if _, err := json.Marshal(m); err != nil {
		return map[string]any{"problem": "status that is no JSON: " + err.Error()}
	}
	return m
}
