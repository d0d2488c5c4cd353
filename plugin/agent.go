package plugin

import (
	"context"
	"time"
)

// Agent executes every request of the engine for the plugin, which uses nothing else of Drover. Methods are
// called concurrently; ctx ends when the request's time is up or the engine hangs up. Errors are one line
// each, shown to the user as they are.
type Agent interface {
	// Activated is called when a process activates the plugin. Caller(ctx) is that process. A Docker
	// engine activates once in each of its processes. Podman activates in each command.
	Activated(ctx context.Context)
	Create(ctx context.Context, spec string, opts map[string]string) error
	Remove(ctx context.Context, spec string) error
	// Mount returns an absolute path that exists and is mounted.
	Mount(ctx context.Context, spec, id string) (path string, err error)
	Unmount(ctx context.Context, spec, id string) error
	// Get fails with dataset.ErrNotFound only when there surely is no such
	// volume; any other error means that it is not known.
	Get(ctx context.Context, spec string) (Volume, error)
	List(ctx context.Context) ([]Volume, error)
	Path(ctx context.Context, spec string) (string, error)
	// Help is the text that -o help shows.
	Help(ctx context.Context) string
}

// Volume is a volume as the engine sees it.
type Volume struct {
	Name       string // in the spelling that was asked, or is used
	Mountpoint string // also while nothing is mounted there
	CreatedAt  time.Time
	Status     map[string]any
}
