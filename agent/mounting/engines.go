// Package mounting mounts volumes for containers, knows who uses them, and finds out what they lost.
//
// Mounts is the root. It finds a volume by the spelling that the engine uses (Find; host.Spellings has the spellings
// on disk), mounts it for a use (Mount), and ends the use at the Unmount of the engine. SharedMounts does the same for
// datasets whose home is another node. UseTable has the uses of each dataset, Engines the engine processes, and
// Verifier finds out whether uses have ended without an Unmount. Unmounter unmounts datasets without a use, and
// Resolver makes mounts and uses agree after a start. RepairAll makes the records of the guard agree with the mounts
// (repairer.go). Holders examines who else holds a dataset. Quiescer freezes a dataset for a snapshot. Watcher records
// the writes that a full pool lost.
//
// Methods that take a condition.List add findings. Holders.Examine and Engines.MountsOf describe the users of a dataset
// for display.
//
// The package owns the keys mounts/, engine, guests/ and lost/ of the agent's database. The lock of a dataset
// (host.Host.Locks) protects its mount and its uses: the comment of a method says if the caller must hold it. Each type
// with state also has a mutex for its fields.
package mounting

import (
	"context"
	"slices"
	"sync"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/process"
)

// PodmanID is the mount ID that Podman sends for every volume: pseudoCtrID in Podman's
// libpod/volume_internal_linux.go. All versions that support volume plugins send the same one.
//
// Podman counts the uses of a volume in its database. It mounts when the count becomes 1 and unmounts
// when it becomes 0. Usually one process mounts and ends, later commands rely on the mount without
// another request, and a different process unmounts. So the end of a process does not end this use, and
// neither does the absence of a container: podman volume mount needs no container.
const PodmanID = "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"

// Engines records which engine processes have mounted volumes, and which of them have ended. A Docker
// engine keeps its mounts in memory and forgets them when it is killed. So the uses of an engine process
// that was replaced by another one are unverified: they may have ended without an Unmount.
//
// Each engine process has a generation, a number that is recorded with its uses. The generation begins with the first
// Mount of the process. The generation ends when some process activates the plugin after the engine process has
// ended. An engine activates the plugin once, when it starts. A process is identified by its PID and start time. So
// the generation of a running engine is not ended by a Podman command, by a second engine on the same socket, or by
// any other activation. An activation writes to the store only if it ends a generation.
//
// If the caller is unknown (see plugin.Caller), for instance an engine in another PID namespace, its end
// cannot be detected. All such callers share one generation, and each activation ends it.
//
// A proxy in front of the plugin's socket is mistaken for the engine. If the engine restarts and the
// proxy does not, the restart is not detected: uses that ended meanwhile are verified only after the next
// start of the agent.
//
// Safe for concurrent use.
type Engines struct {
	db   host.DB
	boot string

	mu     sync.Mutex
	record engineRecord
	// activated contains the processes that have activated the plugin since the agent started and have
	// not mounted a volume.
	activated map[process.Identity]bool
}

// engineRecord contains the engine processes that have mounted volumes on this boot.
type engineRecord struct {
	Generation uint64          `json:"generation"` // the highest generation so far
	Boot       string          `json:"boot,omitempty"`
	Running    []engineProcess `json:"running,omitempty"` // oldest first
}

type engineProcess struct {
	process.Identity // zero for all unknown callers together

	Generation uint64 `json:"generation"`
}

const engineKey = "engine"

// Load reads the record from disk.
func (e *Engines) Load(ctx context.Context) error {
	if there, err := e.db.Get(ctx, engineKey, &e.record); err != nil || !there {
		return err
	}
	if e.record.Boot != e.boot {
		e.record.Running = nil
	}
	return nil
}

// Activate records that a process activates the plugin. ended reports whether this ended the generation of an engine.
// If so, err is the error of writing the record: the generation has ended in memory, but perhaps not on disk.
func (e *Engines) Activate(ctx context.Context, caller process.Identity) (ended bool, err error) {
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
	return true, e.db.Put(ctx, map[string]any{engineKey: e.record})
}

// Generation returns the generation of a process that mounts a volume with an ID. If the process has none, a new
// generation begins, and is written to disk first. But a process that has not activated the plugin since the agent
// started gets the newest generation, if there is one. The generation of Podman is 0.
func (e *Engines) Generation(ctx context.Context, caller process.Identity, id string) (uint64, error) {
	if id == PodmanID {
		return 0, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.record.Running {
		if p.Identity == caller {
			return p.Generation, nil
		}
	}
	// An engine does not activate the plugin again when the agent restarts. So a caller that has not activated the
	// plugin since the agent's start may be a process of a proxy that starts one process for each connection. It
	// probably acts for the newest engine.
	if n := len(e.record.Running); n > 0 && caller.IsKnown() && !e.activated[caller] {
		return e.record.Running[n-1].Generation, nil
	}
	next := engineRecord{Generation: e.record.Generation + 1, Boot: e.boot}
	next.Running = append(slices.Clone(e.record.Running), engineProcess{caller, next.Generation})
	if err := e.db.Put(ctx, map[string]any{engineKey: next}); err != nil {
		return 0, err
	}
	e.record = next
	delete(e.activated, caller)
	return next.Generation, nil
}

// Newest returns the newest generation that has not ended, or 0.
func (e *Engines) Newest() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.record.Running); n > 0 {
		return e.record.Running[n-1].Generation
	}
	return 0
}

// HasEnded reports whether the generation of a use with a mount ID has ended. Uses of Podman and uses without a
// generation never end this way.
func (e *Engines) HasEnded(id string, generation uint64) bool {
	if id == PodmanID || generation == 0 {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !slices.ContainsFunc(e.record.Running, func(p engineProcess) bool {
		return p.Generation == generation
	})
}

// reportedNames returns the names of a use for a report. If there are more than a report may have, it returns none: a
// name that is missing in a list counts as not used.
func reportedNames(c Use) []string {
	names := c.Spellings()
	if len(names) > dataset.MaxEngineNames {
		return nil
	}
	return names
}

// MountsOf lists the uses of a dataset for display, in the order of their IDs.
func (e *Engines) MountsOf(r Record) []dataset.Mount {
	out := make([]dataset.Mount, 0, len(r.IDs))
	for _, id := range r.SortedIDs() {
		c := r.IDs[id]
		out = append(out, dataset.Mount{
			ID:         id,
			Count:      c.Count,
			Since:      c.Since,
			Engine:     string(c.ToolOf(id)),
			Unverified: c.Ended || e.HasEnded(id, c.Generation),
			Names:      reportedNames(c),
		})
	}
	return out
}
