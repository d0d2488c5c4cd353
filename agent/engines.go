package agent

import (
	"context"
	"slices"
	"sync"

	"github.com/droverhq/drover/internal/process"
	"github.com/droverhq/drover/plugin"
)

// podmanID is the mount ID that Podman sends for every volume: pseudoCtrID in Podman's
// libpod/volume_internal_linux.go, the same one in all versions that know volume plugins.
//
// Podman counts the uses of a volume in its database, mounts when that count leaves 0 and unmounts
// when it is 0 again. The process that mounts has mostly ended by the time another one unmounts, and
// a later command relies on the mount without asking again. So no end of a process ends this use,
// nor does the absence of a container (podman volume mount needs none).
const podmanID = "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"

// engines tells whether the engine that made a use of a volume still runs. A Docker engine keeps in
// memory what it has mounted, and forgets it when it is killed. So the uses of an engine that has
// been followed by another one are unverified: they may have ended without an Unmount.
//
// Each engine process has a generation, which is recorded with its uses. The generation begins with
// the first Mount of the process. It ends when any process activates the plugin after that process
// has ended: an engine activates the plugin once when it starts. A process is identified by its PID
// and start time, so neither a command of Podman, nor a second engine on the same socket, nor a
// stray activation ends the generation of an engine that runs. An activation writes to the store
// only if it ends a generation.
//
// A caller that is not known (see plugin.Caller), as an engine in another PID namespace, cannot be
// followed. All such callers share one generation, and each activation ends it.
//
// A proxy that accepts the plugin's connections is taken for the engine. One that stays while the
// engine behind it restarts hides the restart: the uses that ended meanwhile are verified only after
// the next start of the agent.
type engines struct {
	state state
	boot  string

	mu     sync.Mutex
	record engineRecord
	// activated are processes that activated the plugin since the agent started and have not
	// mounted anything.
	activated map[process.Identity]bool
}

// engineRecord is the engines that have uses on this boot.
type engineRecord struct {
	Generation uint64          `json:"generation"` // the highest that was given to an engine
	Boot       string          `json:"boot,omitempty"`
	Running    []engineProcess `json:"running,omitempty"` // oldest first
}

type engineProcess struct {
	process.Identity // zero: all callers that are not known

	Generation uint64 `json:"generation"`
}

const engineKey = "engine"

func (e *engines) load(ctx context.Context) error {
	if there, err := e.state.get(ctx, engineKey, &e.record); err != nil || !there {
		return err
	}
	switch e.record.Boot {
	case e.boot:
	case "": // by a version that recorded no processes
		e.record.Running = []engineProcess{{Generation: e.record.Generation}}
	default:
		e.record.Running = nil
	}
	return nil
}

// activate notes that a process activates the plugin, and reports whether that ended the generation
// of an engine. If the error is not nil, the generation has ended but is still on disk.
func (e *engines) activate(ctx context.Context, caller process.Identity) (ended bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range e.activated {
		if over, err := p.HasEnded(); over && err == nil {
			delete(e.activated, p)
		}
	}
	running := slices.DeleteFunc(slices.Clone(e.record.Running), func(p engineProcess) bool {
		if !p.IsKnown() {
			return true
		}
		over, err := p.HasEnded()
		return over && err == nil
	})
	mounts := slices.ContainsFunc(running, func(p engineProcess) bool { return p.Identity == caller })
	if caller.IsKnown() && !mounts {
		e.activated[caller] = true
	}
	if len(running) == len(e.record.Running) {
		return false, nil
	}
	e.record.Running = running
	return true, e.state.put(ctx, map[string]any{engineKey: e.record})
}

// generation returns the generation of a process that mounts a volume with an ID, and begins it if
// there is none yet. It is 0 for Podman.
func (e *engines) generation(ctx context.Context, caller process.Identity, id string) (uint64, error) {
	if id == podmanID {
		return 0, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.record.Running {
		if p.Identity == caller {
			return p.Generation, nil
		}
	}
	// An engine does not activate the plugin again when the agent restarts. So a caller that did not
	// activate it since is most likely the newest engine, reached through a proxy that makes a
	// process for each connection.
	if n := len(e.record.Running); n > 0 && caller.IsKnown() && !e.activated[caller] {
		return e.record.Running[n-1].Generation, nil
	}
	next := engineRecord{Generation: e.record.Generation + 1, Boot: e.boot}
	next.Running = append(slices.Clone(e.record.Running), engineProcess{caller, next.Generation})
	if err := e.state.put(ctx, map[string]any{engineKey: next}); err != nil {
		return 0, err
	}
	e.record = next
	delete(e.activated, caller)
	return next.Generation, nil
}

// newest returns the generation that began last and has not ended, or 0.
func (e *engines) newest() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.record.Running); n > 0 {
		return e.record.Running[n-1].Generation
	}
	return 0
}

// hasEnded reports whether the generation of a use has ended. Uses of no engine that is known never
// end by that.
func (e *engines) hasEnded(id string, use idCount) bool {
	if id == podmanID || use.Generation == 0 {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !slices.ContainsFunc(e.record.Running, func(p engineProcess) bool { return p.Generation == use.Generation })
}

// Activated is called when a process activates the plugin. If an engine has ended since it mounted
// volumes, its uses are unverified from now on.
func (a *Agent) Activated(ctx context.Context) {
	ended, err := a.engines.activate(ctx, plugin.Caller(ctx))
	if err != nil {
		a.Log.WithError(err).Error("the end of an engine was not put on disk")
	}
	if ended {
		a.awaitEngine()
	}
}
