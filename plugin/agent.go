package plugin

import (
	"context"
	"time"

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
