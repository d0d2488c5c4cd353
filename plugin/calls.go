package plugin

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"github.com/docker/go-plugins-helpers/volume"

	"github.com/droverhq/drover/dataset"
)

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
