package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
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

// Agent executes the requests of the engine. Server has no other access to volumes. Methods are called concurrently.
// ctx ends when the time limit of the request has passed or the engine closes the connection. Each error is one line,
// which the user sees unchanged.
//
// The plugin parses the name that an engine sends. If the name cannot be parsed, the reference contains the error, and
// the agent decides for each request whether it fails.
type Agent interface {
	// Activated is called when a process activates the plugin. Caller(ctx) is that process. A Docker
	// engine activates once in each of its processes. Podman activates in each command.
	Activated(ctx context.Context)
	Create(ctx context.Context, ref dataset.Reference, opts map[string]string) error
	Remove(ctx context.Context, ref dataset.Reference) error
	// Mount returns an absolute path that exists and is mounted.
	Mount(ctx context.Context, ref dataset.Reference, id string) (path string, err error)
	Unmount(ctx context.Context, ref dataset.Reference, id string) error
	// Get fails with dataset.ErrNotFound only if the volume certainly does not exist, or differs from the reference.
	// The engine treats this error, and the others that mayReachEngine lists, as "no such volume". After any other
	// error it is unknown whether the volume exists, and the Docker engine gets no answer. Get fails with
	// dataset.ErrUnavailable if control is unreachable and this node has no record of the volume.
	Get(ctx context.Context, ref dataset.Reference) (Volume, error)
	List(ctx context.Context) ([]Volume, error)
	Path(ctx context.Context, ref dataset.Reference) (string, error)
	// Help returns the text that "docker volume create -o help" prints.
	Help(ctx context.Context) string
}

// Volume is a volume as the engine sees it.
type Volume struct {
	Name       string // the bare name, by which Podman knows it
	Spelling   string // the name by which Docker knows it
	Mountpoint string // set even while nothing is mounted there
	CreatedAt  time.Time
	Status     map[string]any
}

type manifest struct{ Implements []string }

// routes returns the handler of the nine calls of the protocol. If the connection of a call breaks, the engine repeats
// the call without its body. Activate, Capabilities and List have no arguments, so they answer the repeated call like
// the first one.
//
// Paths are compared unchanged. http.ServeMux would clean a path and redirect, and a client that follows a redirect
// could reach another call.
func (s *Server) routes() http.Handler {
	calls := map[string]http.HandlerFunc{
		"/Plugin.Activate":           plain(s, "Activate", s.activate),
		"/VolumeDriver.Capabilities": plain(s, "Capabilities", s.capabilities),
		"/VolumeDriver.List":         plain(s, "List", s.list),
		"/VolumeDriver.Create":       named(s, call{name: "Create", limit: longCall}, s.create),
		"/VolumeDriver.Remove":       named(s, call{name: "Remove", limit: shortCall}, s.remove),
		"/VolumeDriver.Mount":        named(s, call{name: "Mount", limit: longCall}, s.mount),
		"/VolumeDriver.Unmount":      named(s, call{name: "Unmount", limit: shortCall}, s.unmount),
		"/VolumeDriver.Path":         named(s, call{name: "Path", limit: shortCall}, s.path),
		"/VolumeDriver.Get":          named(s, call{name: "Get", limit: shortCall, forgets: true}, s.get),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handle, exists := calls[r.URL.Path]
		switch {
		case !exists:
			refuse(w, http.StatusNotFound, dataset.Errorf(dataset.ErrInvalid, "no such call: %.80q %.80q", r.Method,
				r.URL.Path))
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			refuse(w, http.StatusMethodNotAllowed,
				dataset.Errorf(dataset.ErrInvalid, "call %s expects POST, not %.80q", r.URL.Path, r.Method))
		default:
			handle(w, r)
		}
	})
}

func (s *Server) activate(ctx context.Context) (any, error) {
	s.agent.Activated(ctx)
	return manifest{Implements: []string{"VolumeDriver"}}, nil
}

func (s *Server) capabilities(context.Context) (any, error) {
	scope := "local"
	if s.opts.Global {
		scope = "global"
	}
	return volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: scope}}, nil
}

func (s *Server) list(ctx context.Context) (any, error) {
	all, err := s.agent.List(ctx)
	if err != nil {
		return nil, err // the engine prints the names that it remembers
	}
	if ToolOf(ctx) == Podman {
		all = bareNames(all)
	}
	return volumeList(all), nil
}

func (s *Server) create(ctx context.Context, r volume.CreateRequest) (any, error) {
	if _, ok := r.Options["help"]; ok {
		return nil, helpText(s.agent.Help(ctx))
	}
	return done{}, s.agent.Create(ctx, dataset.ParseReference(r.Name), r.Options)
}

func (s *Server) remove(ctx context.Context, r volume.RemoveRequest) (any, error) {
	return done{}, s.agent.Remove(ctx, dataset.ParseReference(r.Name))
}

func (s *Server) mount(ctx context.Context, r volume.MountRequest) (any, error) {
	path, err := s.agent.Mount(ctx, dataset.ParseReference(r.Name), r.ID)
	if err == nil && !filepath.IsAbs(path) {
		err = dataset.Errorf(dataset.ErrInternal, "mount of %q: the path %q is not absolute", r.Name, path)
	}
	return volume.MountResponse{Mountpoint: path}, err
}

func (s *Server) unmount(ctx context.Context, r volume.UnmountRequest) (any, error) {
	return done{}, s.agent.Unmount(ctx, dataset.ParseReference(r.Name), r.ID)
}

func (s *Server) path(ctx context.Context, r volume.PathRequest) (any, error) {
	path, err := s.agent.Path(ctx, dataset.ParseReference(r.Name))
	return volume.PathResponse{Mountpoint: path}, err
}

func (s *Server) get(ctx context.Context, r volume.GetRequest) (any, error) {
	v, err := s.agent.Get(ctx, dataset.ParseReference(r.Name))
	if err != nil {
		return nil, err
	}
	// The engine would accept a name that differs from the requested one, so the answer repeats the requested name.
	return volume.GetResponse{Volume: &volume.Volume{
		Name: r.Name, Mountpoint: v.Mountpoint, CreatedAt: created(v.CreatedAt), Status: status(v.Status),
	}}, nil
}

// created formats a time as RFC 3339. It returns "", so that the field is omitted, if RFC 3339 cannot represent the
// time.
func created(t time.Time) string {
	if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
		return ""
	}
	return t.Format(time.RFC3339)
}

// done is the answer of calls that return no data.
type done struct{}

// helpText is the only error with several lines.
type helpText string

func (h helpText) Error() string { return string(h) }

// Unwrap returns the kind of the error: the caller asked for the text, so nothing has failed.
func (h helpText) Unwrap() error { return dataset.ErrInvalid }

// volumeList is the answer of List. It contains only names and mountpoints, because the engine calls Get for the rest.
type volumeList []Volume

// bareNames returns each volume once, by its name without a profile or source. Podman refuses names
// with "@", and "podman volume reload" fails for a list that has one. A bare name means the same
// volume in every call.
func bareNames(all []Volume) []Volume {
	out := make([]Volume, 0, len(all))
	seen := make(map[string]bool, len(all))
	for _, v := range all {
		if seen[v.Name] || dataset.CheckName(v.Name) != nil { // Podman could not use a bad name either
			continue
		}
		seen[v.Name] = true
		v.Spelling = v.Name
		out = append(out, v)
	}
	return out
}

// chunk is the size of one write.
const chunk = 32 << 10

// write encodes the list piece by piece, so that its memory does not grow with the number of volumes.
func (l volumeList) write(w io.Writer) error {
	buf := make([]byte, 0, chunk+1<<10)
	buf = append(buf, `{"Volumes":[`...)
	for i, v := range l {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = appendString(append(buf, `{"Name":`...), v.Spelling)
		if v.Mountpoint != "" {
			buf = appendString(append(buf, `,"Mountpoint":`...), v.Mountpoint)
		}
		buf = append(buf, '}')
		if len(buf) >= chunk {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(append(buf, "]}\n"...))
	return err
}

// appendString appends s as JSON.
func appendString(buf []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // json.Marshal of a string cannot fail
			return append(buf, text...)
		}
	}
	buf = append(buf, '"')
	buf = append(buf, s...)
	return append(buf, '"')
}

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
