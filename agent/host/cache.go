package host

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Cache has the records of the datasets whose home is this node, of the copies that this node keeps, and of the
// spellings that its engine has used. It answers when control cannot. The agent updates it with each commit and with
// each answer of control. Its mutex protects all fields. It is safe for concurrent use.
type Cache struct {
	mu          sync.RWMutex
	datasets    map[uuid.UUID]*entry           // whose home is this node
	profiles    profiles                       // of datasets
	copies      map[uuid.UUID]api.AssignedCopy // of datasets whose home is another node
	inspections map[uuid.UUID]uuid.UUID        // by the dataset that is mounted to inspect a copy
	names       map[string]uuid.UUID           // live volumes, by name and by alias
	spellings   map[string]*SpellingRecord     // by name
	spelled     map[uuid.UUID][]string         // keys of spellings, by dataset
	spelledWith map[string][]string            // keys of spellings, by each name in SpellingRecord.Used
	dirty       map[uuid.UUID]bool             // datasets whose records changed since they were written to disk
	moment      uint64                         // the number of times that a record was added or replaced
	// provisioned has the sum of the sizes of the volumes and replicas of each pool.
	provisioned map[uuid.UUID]dataset.Size
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{
		datasets: map[uuid.UUID]*entry{}, profiles: profiles{}, copies: map[uuid.UUID]api.AssignedCopy{},
		inspections: map[uuid.UUID]uuid.UUID{},
		names:       map[string]uuid.UUID{},
		spellings:   map[string]*SpellingRecord{},
		spelled:     map[uuid.UUID][]string{}, spelledWith: map[string][]string{},
		dirty:       map[uuid.UUID]bool{},
		provisioned: map[uuid.UUID]dataset.Size{},
	}
}

// Load adds a record that was read from disk.
func (c *Cache) Load(d api.IndexedDataset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(d)
}

func (c *Cache) putLocked(d api.IndexedDataset) {
	e := newEntry(d)
	e.profile = c.profiles.take(d.Profile)
	if old := c.datasets[d.ID]; old != nil {
		c.provisioned[old.pool] -= old.provisioned()
		c.profiles.release(old.profile)
	}
	c.provisioned[d.Pool] += e.provisioned()
	c.datasets[d.ID] = e
	c.moment++
	e.moment = c.moment
	if d.State == dataset.StateReady {
		for _, name := range d.Names() {
			c.names[name] = d.ID
		}
	}
}

// Apply adds or replaces the record of a dataset. It ignores the record if it knows one with a later epoch, or with the
// same or a higher index. So a store that was restored from an older backup cannot open an epoch that has ended. Index
// 0 counts as newer than any other index. Apply reports whether the record has changed.
func (c *Cache) Apply(d dataset.Dataset, index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.datasets[d.ID]
	if old != nil {
		if index != 0 && index <= old.index || d.Epoch < old.epoch {
			return false
		}
		if reflect.DeepEqual(old.dataset(), d) {
			old.index = max(old.index, index)
			return false
		}
		c.removeNamesLocked(old)
	}
	c.putLocked(api.IndexedDataset{Dataset: d, Index: index})
	c.dirty[d.ID] = true
	return true
}

// Remove removes the record of a dataset. Idempotent.
func (c *Cache) Remove(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(id)
}

func (c *Cache) removeLocked(id uuid.UUID) {
	e := c.datasets[id]
	if e == nil {
		return
	}
	c.provisioned[e.pool] -= e.provisioned()
	c.profiles.release(e.profile)
	delete(c.datasets, id)
	c.removeNamesLocked(e)
	c.dirty[id] = true
}

// Moment returns a counter that increases with each added or replaced record. Read it before a request to control, and
// pass it to RemoveIfUnchanged or Newer.
func (c *Cache) Moment() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.moment
}

// RemoveIfUnchanged removes the record of a dataset that has another home in an answer of control. asked is the
// Moment that the caller read before it asked. A record that was added or replaced since then stays, because
// the answer may be older.
func (c *Cache) RemoveIfUnchanged(id uuid.UUID, asked uint64) (removed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.datasets[id]; e != nil && e.moment > asked {
		return false
	}
	c.removeLocked(id)
	return true
}

// removeNamesLocked removes the name and the aliases of a dataset. A name can be reused, so the records that were read
// from disk may have two datasets with the same name. If another live volume has the name, the name stays and refers to
// that volume.
func (c *Cache) removeNamesLocked(e *entry) {
	for _, name := range e.names() {
		if c.names[name] != e.id {
			continue
		}
		delete(c.names, name)
		for id, o := range c.datasets {
			if id != e.id && o.state == dataset.StateReady && slices.Contains(o.names(), name) {
				c.names[name] = id
			}
		}
	}
}

// Dataset returns the record of a dataset whose home is this node.
func (c *Cache) Dataset(id uuid.UUID) (dataset.Dataset, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e := c.datasets[id]; e != nil {
		return e.dataset(), true
	}
	return dataset.Dataset{}, false
}

// Newer returns the newer one of two records of a dataset: that in the cache, and the record d that the caller got from
// control. asked is the Moment that the caller read before it asked control. The record in the cache is newer if it was
// added or replaced since then, or if its epoch is later. known is false if the cache has no record.
func Newer(c *Cache, d dataset.Dataset, asked uint64) (newer dataset.Dataset, known bool) {
	indexed, known := NewerIndexed(c, d, asked)
	return indexed.Dataset, known
}

// NewerIndexed is like Newer, and also returns the index of the record, for a copy of the record on disk. The index of
// d is not known. If d is the newer record, it gets the index of the record in the cache, which is not higher than its
// own index. So Apply accepts d again after the copy was read from disk.
func NewerIndexed(c *Cache, d dataset.Dataset, asked uint64) (newer api.IndexedDataset, known bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch cached := c.datasets[d.ID]; {
	case cached == nil:
		return api.IndexedDataset{Dataset: d}, false
	case cached.moment > asked || cached.epoch > d.Epoch:
		return cached.indexed(), true
	default:
		return api.IndexedDataset{Dataset: d, Index: cached.index}, true
	}
}

// Volume returns the record of a live volume by its name or an alias.
func (c *Cache) Volume(name string) (dataset.Dataset, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if id, ok := c.names[name]; ok {
		return c.datasets[id].dataset(), true
	}
	return dataset.Dataset{}, false
}

// Len returns the number of datasets in the cache.
func (c *Cache) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.datasets)
}

// IDs returns the datasets whose home is this node.
func (c *Cache) IDs() []uuid.UUID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]uuid.UUID, 0, len(c.datasets))
	for id := range c.datasets {
		out = append(out, id)
	}
	return out
}

// TakeChanged returns records that have changed since the last call, at most limit of them. The value is nil for a
// removed record.
func (c *Cache) TakeChanged(limit int) map[uuid.UUID]*api.IndexedDataset {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[uuid.UUID]*api.IndexedDataset{}
	for id := range c.dirty {
		if len(out) == limit {
			break
		}
		out[id] = nil
		if e := c.datasets[id]; e != nil {
			d := e.indexed()
			out[id] = &d
		}
		delete(c.dirty, id)
	}
	return out
}

// ReturnChanged marks datasets as changed again after their records could not be written.
func (c *Cache) ReturnChanged(taken map[uuid.UUID]*api.IndexedDataset) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range taken {
		c.dirty[id] = true
	}
}

// Index returns the index of the last known transaction that wrote a dataset's record, or 0 if none is known.
func (c *Cache) Index(id uuid.UUID) uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e := c.datasets[id]; e != nil {
		return e.index
	}
	return 0
}

// Revision is the newest known state of a dataset.
type Revision struct {
	Index, Epoch uint64
	Volume       string
	Purging      bool // it is being purged
}

// Revisions returns the newest known state of each dataset whose home is this node.
func (c *Cache) Revisions() map[uuid.UUID]Revision {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make(map[uuid.UUID]Revision, len(c.datasets))
	for id, e := range c.datasets {
		out[id] = Revision{e.index, e.epoch, e.volume, e.state == dataset.StatePurging}
	}
	return out
}

// ForgetIndexes resets all indexes to 0, so that Apply accepts the next record of each dataset whatever its
// index. It still rejects records of an earlier epoch.
func (c *Cache) ForgetIndexes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.datasets {
		e.index = 0
		c.dirty[id] = true
	}
}

// flushAtOnce is the maximum number of records in one write to the agent's database.
const flushAtOnce = 60

// SaveChanged writes the records of the cache that changed to the agent's database. A start without control needs them.
func (c *Cache) SaveChanged(ctx context.Context, db DB) error {
	for {
		dirty := c.TakeChanged(flushAtOnce)
		if len(dirty) == 0 {
			return nil
		}
		values := map[string]any{}
		for id, d := range dirty {
			values["volumes/"+id.String()] = nil
			if d != nil {
				values["volumes/"+id.String()] = d
			}
		}
		if err := db.Put(ctx, values); err != nil {
			c.ReturnChanged(dirty)
			return err
		}
	}
}

// Provisioned returns the sum of the sizes of the volumes and replicas in a pool. Volumes in the trash do not count:
// nobody writes to them.
func (c *Cache) Provisioned(pool uuid.UUID) dataset.Size {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.provisioned[pool]
}

// provisionedBy returns how large a dataset may become, or 0 if nobody can write to it or if it has no limit.
func provisionedBy(d dataset.Dataset) dataset.Size {
	if d.State != dataset.StateReady {
		return 0
	}
	return d.Size
}

// provisionedByCopy is provisionedBy for a copy. A replica may become the volume at any time.
func provisionedByCopy(k api.AssignedCopy) dataset.Size {
	if k.Kind != dataset.CopyReplica || k.Record == nil {
		return 0
	}
	return provisionedBy(*k.Record)
}

// entry is a record in memory. A host can have tens of thousands of them. So records share profiles, and fields that
// few records have are behind a pointer. TestEntryKeepsEveryField compares it with api.IndexedDataset.
type entry struct {
	id          uuid.UUID
	volume      string
	requestedAs string
	requestedBy uuid.UUID
	state       dataset.State
	size        dataset.Size
	home, pool  uuid.UUID
	epoch       uint64
	copies      []uuid.UUID
	created     time.Time
	headParent  uuid.UUID
	request     uuid.UUID
	profile     *sharedProfile
	rare        *rareFields // nil if all are zero
	index       uint64
	moment      uint64 // the moment of the cache at which the record was added or replaced
}

// rareFields are the fields that few records have.
type rareFields struct {
	aliases          []string
	labels           map[string]string
	protected        bool
	readOnly         bool
	anonymous        bool
	takenOver        *dataset.TakenOver
	supersededCopies []uuid.UUID
	sharedMounts     []dataset.SharedMount
	move             uuid.UUID
	losses           []dataset.Loss
	origin           *dataset.Origin
	content          uint64
	scheduleSince    time.Time
	basedOn          []dataset.VersionRef
	keptApart        *dataset.KeptApart
	trash            *dataset.Trash
	encryption       *dataset.Encryption
	written          uint64
	lease            *dataset.Lease
}

// newEntry returns the record without its profile.
func newEntry(d api.IndexedDataset) *entry {
	e := &entry{
		id: d.ID, volume: d.Volume, requestedAs: d.RequestedAs, requestedBy: d.RequestedBy, state: d.State,
		size: d.Size, home: d.Home, pool: d.Pool, epoch: d.Epoch, copies: d.Copies, created: d.Created,
		headParent: d.HeadParent, request: d.Request, index: d.Index,
	}
	rare := rareFields{
		aliases: d.Aliases, labels: d.Labels, protected: d.Protected, readOnly: d.ReadOnly,
		anonymous: d.Anonymous, takenOver: d.TakenOver, supersededCopies: d.SupersededCopies,
		sharedMounts: d.SharedMounts, move: d.Move, losses: d.Losses, origin: d.Origin,
		content: d.Content, scheduleSince: d.ScheduleSince, basedOn: d.BasedOn,
		keptApart: d.KeptApart, trash: d.Trash,
		encryption: d.Encryption, written: d.Written, lease: d.Lease,
	}
	if !reflect.ValueOf(rare).IsZero() {
		e.rare = &rare
	}
	return e
}

func (e *entry) dataset() dataset.Dataset {
	d := dataset.Dataset{
		ID: e.id, Volume: e.volume, RequestedAs: e.requestedAs, RequestedBy: e.requestedBy, State: e.state,
		Profile: e.profile.profile, Size: e.size, Home: e.home, Pool: e.pool, Epoch: e.epoch, Copies: e.copies,
		Created: e.created, HeadParent: e.headParent, Request: e.request,
	}
	if r := e.rare; r != nil {
		d.Aliases, d.Labels = r.aliases, r.labels
		d.Protected, d.ReadOnly, d.Anonymous = r.protected, r.readOnly, r.anonymous
		d.TakenOver, d.SupersededCopies, d.SharedMounts = r.takenOver, r.supersededCopies, r.sharedMounts
		d.Move, d.Losses, d.Origin, d.ScheduleSince = r.move, r.losses, r.origin, r.scheduleSince
		d.Content, d.KeptApart = r.content, r.keptApart
		d.BasedOn, d.Trash, d.Encryption, d.Written = r.basedOn, r.trash, r.encryption, r.written
	}
	return d
}

// indexed returns the record with its index and lease.
func (e *entry) indexed() api.IndexedDataset {
	d := api.IndexedDataset{Dataset: e.dataset(), Index: e.index}
	if e.rare != nil {
		d.Lease = e.rare.lease
	}
	return d
}

// names returns the name of the volume and its aliases.
func (e *entry) names() []string {
	if e.rare == nil {
		return []string{e.volume}
	}
	return append([]string{e.volume}, e.rare.aliases...)
}

// provisioned returns how large the dataset may become: see provisionedBy.
func (e *entry) provisioned() dataset.Size {
	return provisionedBy(dataset.Dataset{State: e.state, Size: e.size})
}

// profileKey groups profiles that may be equal. Two profiles with the same key can differ: the revision is a hash of
// the profile as it was defined, and the options of a create can change the profile in a record.
type profileKey struct{ name, revision string }

// sharedProfile is the profile of one or more records. It is never changed.
type sharedProfile struct {
	profile dataset.Profile
	users   int // number of records
}

// profiles has each different profile once.
type profiles map[profileKey][]*sharedProfile

// take returns the shared profile that equals p, for one more record.
func (t profiles) take(p dataset.Profile) *sharedProfile {
	key := profileKey{p.Name, p.Revision}
	for _, s := range t[key] {
		if reflect.DeepEqual(s.profile, p) {
			s.users++
			return s
		}
	}
	s := &sharedProfile{p, 1}
	t[key] = append(t[key], s)
	return s
}

// release is called when a record no longer has the profile. The last call for a profile removes it.
func (t profiles) release(s *sharedProfile) {
	if s.users--; s.users > 0 {
		return
	}
	key := profileKey{s.profile.Name, s.profile.Revision}
	if t[key] = slices.DeleteFunc(t[key], func(o *sharedProfile) bool { return o == s }); len(t[key]) == 0 {
		delete(t, key)
	}
}
