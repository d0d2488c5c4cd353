package plugin

import (
	"context"
	"time"

	"github.com/droverhq/drover/dataset"
)

// Agent executes every request of the engine for the plugin, which uses nothing else of Drover. Methods are
// called concurrently; ctx ends when the request's time is up or the engine hangs up. Errors are one line
// each, shown to the user as they are.
//
// The plugin parses the name that an engine sends. The reference has the error if the name is not a spec: the agent
// decides what that means for each request.
type Agent interface {
	// Activated is called when a process activates the plugin. Caller(ctx) is that process. A Docker
	// engine activates once in each of its processes. Podman activates in each command.
	Activated(ctx context.Context)
	Create(ctx context.Context, ref dataset.Reference, opts map[string]string) error
	Remove(ctx context.Context, ref dataset.Reference) error
	// Mount returns an absolute path that exists and is mounted.
	Mount(ctx context.Context, ref dataset.Reference, id string) (path string, err error)
	Unmount(ctx context.Context, ref dataset.Reference, id string) error
	// Get fails with dataset.ErrNotFound only when there surely is no such
	// volume; any other error means that it is not known.
	Get(ctx context.Context, ref dataset.Reference) (Volume, error)
	List(ctx context.Context) ([]Volume, error)
	Path(ctx context.Context, ref dataset.Reference) (string, error)
	// Help is the text that -o help shows.
	Help(ctx context.Context) string
}

// Volume is a volume as the engine sees it.
type Volume struct {
	Name       string // the bare name, by which Podman knows it
	Spelling   string // the name by which Docker knows it
	Mountpoint string // also while nothing is mounted there
	CreatedAt  time.Time
	Status     map[string]any
}
