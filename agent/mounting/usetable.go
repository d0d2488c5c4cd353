package mounting

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// UseTable has the uses of each mounted dataset, by mount ID, in memory and on disk. The record of a dataset changes
// only while the dataset's lock is held. Its methods are safe for concurrent use.
type UseTable struct {
	*host.Host

	mu        sync.Mutex
	records   map[uuid.UUID]*Record
	idleSince map[uuid.UUID]time.Duration // datasets that are mounted without a use, and since when by the steady clock
}

// Load reads the uses from disk. some reports whether there are uses of this boot. Such uses may have ended while no
// agent ran.
func (t *UseTable) Load(ctx context.Context) (some bool, err error) {
	err = host.EachDataset(ctx, t.DB, "mounts/", func(id uuid.UUID, r Record) error {
		for use, c := range r.IDs {
			c.Inherited = true
			r.IDs[use] = c
		}
		if r.Boot == t.Boot && len(r.IDs) > 0 {
			some = true
		}
		t.records[id] = &r
		return nil
	})
	return some, err
}

// Get returns a copy of a dataset's record. Uses of another boot are not in it.
func (t *UseTable) Get(id uuid.UUID) Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Record{Boot: t.Boot, IDs: map[string]Use{}}
	if old := t.records[id]; old != nil {
		r.Epoch = old.Epoch
		if old.Boot == t.Boot {
			r.IDs = maps.Clone(old.IDs)
		}
	}
	if r.IDs == nil {
		r.IDs = map[string]Use{}
	}
	return r
}

// Save writes the record of a dataset's uses to disk and then to memory. In the same transaction it writes the values
// in more and, if this node is the home, a copy of the dataset's record, which a mount without control needs. The copy
// is the newer one of d and the record in the cache: see host.Newer, which explains asked. If d is not from control,
// asked is 0.
func (t *UseTable) Save(ctx context.Context, d dataset.Dataset, asked uint64, r Record, more map[string]any) error {
	values := map[string]any{"mounts/" + d.ID.String(): r}
	now, _ := host.NewerIndexed(t.Cache, d, asked)
	if _, left := t.Cache.Copy(d.ID); !left && now.Home == t.NodeID { // a start mounts only these datasets
		values["volumes/"+d.ID.String()] = now
	}
	maps.Copy(values, more)
	if err := t.DB.Put(ctx, values); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records[d.ID] = &r
	return nil
}

// Drop removes the record of a dataset that does not exist any more, first from disk and then from memory. Idempotent.
func (t *UseTable) Drop(ctx context.Context, id uuid.UUID) error {
	t.mu.Lock()
	_, known := t.records[id]
	t.mu.Unlock()
	if !known {
		return nil
	}
	if err := t.DB.Put(ctx, map[string]any{"mounts/" + id.String(): nil}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.records, id)
	return nil
}

// InUse returns the datasets that have uses on this boot.
func (t *UseTable) InUse() []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []uuid.UUID
	for id, r := range t.records {
		if r.Boot == t.Boot && len(r.IDs) > 0 {
			out = append(out, id)
		}
	}
	return out
}

// MarkIdle records that a dataset is, or soon will be, mounted without a use.
func (t *UseTable) MarkIdle(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idleSince[id] = t.Clock.Steady()
}

// ClearIdle records that a dataset has a use, or is not mounted.
func (t *UseTable) ClearIdle(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.idleSince, id)
}

// IdleFor returns the datasets that have been mounted without a use for at least a duration.
func (t *UseTable) IdleFor(least time.Duration) (ids []uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, since := range t.idleSince {
		if t.Clock.Steady()-since >= least {
			ids = append(ids, id)
		}
	}
	return ids
}

// Record has the uses of a mounted dataset, by mount ID. A record from an earlier boot does not count.
type Record struct {
	Boot  string         `json:"boot"`
	Epoch uint64         `json:"epoch"` // of the dataset at its last mount for a use
	IDs   map[string]Use `json:"ids"`
}

// Use describes the uses with one mount ID.
type Use struct {
	Count      int       `json:"count"`
	Generation uint64    `json:"generation"` // of the engine process, see Engines
	Since      time.Time `json:"since"`
	Spelling   string    `json:"as,omitempty"` // the engine's name for the volume
	// OtherSpellings are further names by which the engine mounted the volume with this ID. Podman sends the same ID
	// for all of its containers, and they may know the volume by its name and by an alias.
	OtherSpellings []string `json:"also_as,omitempty"`
	// Tool is the engine that mounted the volume, or "" if that is not known.
	Tool plugin.Tool `json:"tool,omitempty"`
	// MayUndercount is true if an engine mounted with this ID again after earlier uses of the ID had ended. Count may
	// then lack a use by a container that outlived the engine (live-restore).
	MayUndercount bool `json:"older,omitempty"`
	// Ended is true if the engine has unmounted as often as it mounted, as far as is known, but a process still had the
	// dataset mounted. The use ends when no process has it mounted any more.
	Ended bool `json:"ended,omitempty"`
	// Inherited is true if some of the uses were read from disk when the agent started. They may have ended while no
	// agent ran. Inherited is not written to disk.
	Inherited bool `json:"-"`
	// LastMount is the time of the last Mount by the steady clock, which continues across a restart of the agent.
	LastMount time.Duration `json:"last_mount"`
}

// Add counts one more use of an ID.
//
// The new use replaces the recorded uses of the ID if their engine process has ended, or if they are marked as ended:
// the next engine process mounts with the same ID again, although the old uses were never unmounted. But a container
// may have outlived its engine (live-restore), and docker cp mounts with the container's ID too. So Add sets
// MayUndercount, and the use then ends only after a look at the host.
func (r Record) Add(id string, now Use, hasEnded func(id string, generation uint64) bool) {
	c, ok := r.IDs[id]
	if !ok {
		r.IDs[id] = now
		return
	}
	if c.Ended || hasEnded(id, c.Generation) {
		now.MayUndercount = true
		for _, spelling := range c.Spellings() { // of a container that outlived its engine
			now = now.withSpelling(spelling)
		}
		r.IDs[id] = now
		return
	}
	c = c.withSpelling(now.Spelling)
	c.Count++
	c.LastMount = now.LastMount
	r.IDs[id] = c
}

// Spellings returns the names by which the engine mounted the volume.
func (c Use) Spellings() []string {
	if c.Spelling == "" { // AssumeUse made the record
		return nil
	}
	return append([]string{c.Spelling}, c.OtherSpellings...)
}

// withSpelling returns a use that also has a spelling.
func (c Use) withSpelling(spelling string) Use {
	if c.Spelling == "" {
		c.Spelling = spelling
		return c
	}
	if spelling != c.Spelling && !slices.Contains(c.OtherSpellings, spelling) {
		c.OtherSpellings = append(slices.Clone(c.OtherSpellings), spelling)
	}
	return c
}

// SortedIDs returns the mount IDs, sorted.
func (r Record) SortedIDs() []string { return slices.Sorted(maps.Keys(r.IDs)) }

// ExpectedMounts returns how many mounts, besides the mount point, the containers of the recorded uses should have: one
// for each mount ID. It does not count the mount ID in the argument except, and it does not count the use of Podman,
// which can exist without a container.
func (r Record) ExpectedMounts(except string) (n int) {
	for id := range r.IDs {
		if id != except && id != PodmanID {
			n++
		}
	}
	return n
}

// ToolOf returns the engine that made a use. If the record does not name the engine, ToolOf infers it from the mount
// ID.
func (c Use) ToolOf(id string) plugin.Tool { return cmp.Or(c.Tool, ToolByID(id)) }

// ToolByID returns the engine that sends such mount IDs: Podman always the same one, Docker 64 random
// hexadecimal digits.
func ToolByID(id string) plugin.Tool {
	switch {
	case id == PodmanID:
		return plugin.Podman
	case len(id) == len(PodmanID) && strings.Trim(id, "0123456789abcdef") == "":
		return plugin.Docker
	}
	return ""
}

// MountedGrace is how long an engine may take to start a container after mounting a volume of it. A container can have
// several slow volumes. It does little harm if a use that has ended stays recorded for that time: a request that needs
// the volume waits only for RequestGrace.
const MountedGrace = 10 * time.Minute

// RequestGrace is MountedGrace for a request that needs the volume unused. A container that such a request overtakes
// does not start, or finds an empty folder that nobody can write to.
const RequestGrace = 20 * time.Second
