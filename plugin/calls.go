package plugin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/docker/go-plugins-helpers/volume"

	"github.com/droverhq/drover/dataset"
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
