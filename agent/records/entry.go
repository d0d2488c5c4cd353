package records

import (
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
