package backends

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Pool is one open pool. It is the small core of the contract. Abilities that only some backends have
// are optional interfaces (optional.go, copy.go); the package comment says how they relate to Capabilities.
type Pool interface {
	// ID returns the pool's UUID, as recorded in the pool.
	ID() uuid.UUID

	// Info returns what the pool can do on this host, and a note for `drover doctor` that describes how it works. It is
	// constant for the life of the Pool.
	Info() Info

	// Status returns the current size, free bytes and health. It walks no tree. It starts no process, except in backend
	// lvm to activate an inactive thin pool, or to resume volumes after a command has failed. If the pool is absent or
	// was exchanged, Online is false and Reason says why.
	Status(ctx context.Context) dataset.PoolStatus

	// Generation returns the counter that is stored in the pool: the value of the last Raise, or 0. A disk that was
	// restored from an older backup has a lower generation.
	Generation() (uint64, error)

	// Raise sets the generation. It is atomic with the rest of the pool's identity, and durable when it
	// returns. Idempotent: repeated with the same value, it changes nothing.
	Raise(generation uint64) error

	// Create makes an empty dataset d.ID as incoming, with d as its record. It returns the size of the dataset. Its
	// root directory is empty, and d.Profile.Owner determines owner and mode. If d.Encryption is set, the dataset is
	// encrypted with the data key.
	//
	// If d.Size is not 0, the dataset has that size. Otherwise a backend that needs a size uses its default.
	//
	// Create is durable when it returns. Idempotent: if the dataset exists, Create leaves it and returns its size. If a
	// crash left an incomplete dataset, Create makes it again. As long as the dataset is incoming, each call replaces
	// its record by d.
	//
	// ErrUnsupported: the pool cannot enforce a size, or its capabilities lack Encryption. ErrNoSpace:
	// the pool is nearly full (see CheckRoom); Clone and Snapshot return it too.
	Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error)

	// Clone makes d.ID as Create does, with the content of src. If src.Snapshot is uuid.Nil, the content is that of the
	// head at one moment, whether or not the head is mounted. Otherwise the content is that of the snapshot. Progress
	// may be nil.
	//
	// d.Size is the minimum: a smaller source is grown to it. A larger source keeps its size, because a
	// resize may have enlarged it since d was planned.
	//
	// A pool that copies a snapshot (without InstantSnapshot) allows that the dataset is used or removed meanwhile. If
	// the snapshot is gone then, Clone fails. So the caller need not lock the dataset for the whole copy.
	//
	// ErrInvalid: the clone's data key differs from that of its source.
	Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, progress Progress) (dataset.Size, error)

	// Commit makes an incoming dataset, or a copy that was promoted, ready. Idempotent: if the dataset is
	// already ready, Commit returns nil. ErrNotFound: the pool does not have it.
	//
	// Commit may become durable after it returns. That is safe because an incoming dataset is as complete as a ready
	// one, and all other methods accept either. For a promoted copy see Copier.Promote.
	Commit(ctx context.Context, id uuid.UUID) error

	// Delete destroys a dataset, ready or incoming, with its snapshots. Idempotent: an absent dataset is
	// not an error. ErrInUse: it is attached or mounted.
	//
	// When Delete returns, List no longer has the dataset, even after a power cut. The removal of its bytes may still
	// be running. After a crash, Reap finishes the removal.
	Delete(ctx context.Context, id uuid.UUID) error

	// Snapshot takes the snapshot s.ID of the head of s.Dataset. It is atomic while the head is written
	// to, and durable when it returns. Idempotent: a complete snapshot is left alone.
	//
	// Snapshot returns ErrCorrupt if the head is visibly damaged. (Restore accepts a damaged head, and keeps it as the
	// snapshot keep.) If the pool is nearly full, Snapshot returns ErrNoSpace. The exception is a snapshot of kind
	// transfer that shares its blocks with the head, because moving a dataset out of a full pool needs such a snapshot.
	Snapshot(ctx context.Context, s dataset.Snapshot, progress Progress) error

	// DeleteSnapshot destroys a snapshot. Idempotent: an absent snapshot is not an error. When it returns,
	// List no longer has the snapshot, even after a power cut.
	//
	// If the capabilities have CloneIndependent, clones of the snapshot stay usable. Otherwise DeleteSnapshot fails
	// with ErrInUse and names the clones. A reader of the snapshot continues to read the same bytes. ErrNoSpace: the
	// deletion needs more room than the pool has. Nothing was changed.
	DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) error

	// Restore replaces the head of ds by its snapshot. Where the pool enforces a size, the head keeps its
	// size. All snapshots stay, newer ones too.
	//
	// The replaced head becomes a snapshot, in its state at the replacement. keep is the record of that snapshot. If an
	// earlier attempt took the snapshot but did not replace the head, Restore takes the snapshot again, because the
	// head may have changed since. List should not show the snapshot before the replacement, because others may use any
	// snapshot that List shows.
	//
	// At every step the head is either the complete old one or the complete new one. ErrInUse: the dataset is attached.
	// Idempotent: if a Restore with the same keep has completed, a repeated call changes nothing, even if the head is
	// in use, or was written to or restored again since.
	Restore(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress Progress) error

	// WriteRecord replaces the record beside a dataset. It is atomic, and durable only if sync is set.
	WriteRecord(ctx context.Context, d dataset.Dataset, sync bool) error

	// List returns everything in the pool. It uses the pool only.
	List(ctx context.Context) ([]Entry, error)

	// Stat returns the entry of one dataset with its snapshots, or ErrNotFound.
	Stat(ctx context.Context, id uuid.UUID) (Entry, error)

	// Used returns the bytes that a dataset's head takes in the pool, including blocks that it shares with snapshots
	// and clones. The figure is at most Info.UsedLag old.
	//
	// If the capabilities have OwnFilesystem or KnowsUsed, Used does not walk the tree of files. For a mounted dataset
	// it starts no process. ErrCorrupt: the head is visibly damaged.
	Used(ctx context.Context, id uuid.UUID) (dataset.Size, error)

	// Reap finishes the deletion of all datasets in state deleting. It deletes the incoming datasets for which drop
	// returns true, and removes temporary files. It returns how many datasets and files it removed. It never removes
	// anything else.
	Reap(ctx context.Context, drop func(incoming uuid.UUID) bool) (int, error)

	// Attach makes the head ready to be mounted and describes the mount. It does not change the content of the dataset.
	// Backend loop may have to give the head a separate image first, so it can return ErrNoSpace. Idempotent: while the
	// dataset is attached, the source is the same.
	Attach(ctx context.Context, id uuid.UUID, opts AttachOptions) (Attachment, error)

	// Close releases the pool. Mounted datasets stay mounted.
	Close() error
}

// Info is the constant part of an open pool's description. The package comment says which facts belong in Capabilities
// and which in the other fields.
type Info struct {
	Capabilities dataset.Capabilities
	// CopyFilesystems lists the filesystems that a copy can have in this pool, including those that cannot be made
	// because a tool is missing.
	CopyFilesystems []string
	// Missing lists the programs and kernel features that the host lacks. Each line begins with the purpose:
	// "encryption needs cryptsetup (apt-get …)".
	Missing     []string
	Note        string        // how the pool works, such as "XFS with reflinks: …"
	Path        string        // where the datasets are stored
	DefaultSize dataset.Size  // of a dataset that requests no size; on a smaller pool see the function DefaultSize
	UsedLag     time.Duration // maximum age of what Used returns; 0 if it is always current
	// UsedStartsNoProgram says that Used starts no program, and thus takes microseconds if it does not walk the tree of
	// files: see Pool.Used.
	UsedStartsNoProgram bool
	// Exact says that a snapshot or clone of a mounted head is exact by itself: see dataset.Snapshot. That does not
	// hold for an encrypted dataset whose filesystem the backend does not see.
	Exact bool
	Share uuid.UUID // the share that has the pool; see Sharer
}

// Progress receives, now and then, how many bytes are done and the total. If the total is 0, it is not known. A
// Progress is called from one goroutine at a time.
type Progress func(done, total int64)

// EntryState is the stage in the life of an Entry.
type EntryState string

// The states of an entry.
const (
	EntryReady    EntryState = "ready"
	EntryIncoming EntryState = "incoming"
	EntryDeleting EntryState = "deleting"
	EntryCopy     EntryState = "copy"    // snapshots without a head: see Copier
	EntryForeign  EntryState = "foreign" // not understood; see Problem
)

// Entry is one item in a pool: a dataset, or something foreign.
type Entry struct {
	ID        uuid.UUID // nil for a foreign item
	State     EntryState
	Path      string           // its place, for people
	Record    *dataset.Dataset // nil if it cannot be read
	Snapshots []dataset.Snapshot
	Problem   string // why it is foreign, or the damage of its record or of a snapshot

	// ForeignFiles are the names of the files in its directory that are not Drover's. Drover never removes these files,
	// and so it cannot remove the dataset.
	ForeignFiles []string

	Promoted bool     // of a copy: it has a head that waits for Commit
	Partial  *Partial // of a copy: the snapshot that it received only in part
}

// Partial is a snapshot that was received only in part.
type Partial struct {
	Snapshot uuid.UUID
	Base     uuid.UUID
	Bytes    int64 // of its stream
}

type freezeKey struct{}

// WhileFrozen runs take while no process can write to a dataset, where that is possible. exact reports whether what
// take copied is exact: see dataset.Snapshot.
type WhileFrozen func(take func() error) (exact bool, err error)

// WithFreeze returns a context for one call of Snapshot, or of Clone without a snapshot. The pool copies the head
// inside of the given function.
func WithFreeze(ctx context.Context, freeze WhileFrozen) context.Context {
	return context.WithValue(ctx, freezeKey{}, freeze)
}

// Frozen runs take, which copies a head, inside of the function of WithFreeze. Without such a function, the copy is not
// exact. Pools whose copies are never exact need not call it.
func Frozen(ctx context.Context, take func() error) (exact bool, err error) {
	if freeze, ok := ctx.Value(freezeKey{}).(WhileFrozen); ok {
		return freeze(take)
	}
	return false, take()
}

// DecodeMarker decodes data, the pool.json of a pool, into marker. The keys "backend" and "format" have the same
// meaning in all formats, so DecodeMarker reads them before the others. It fails with dataset.ErrUnsupported if the
// pool belongs to the named backend and its format is later than known. Each backend counts its formats separately. The
// caller checks that the pool belongs to its backend.
func DecodeMarker(data []byte, backend string, known int, marker any) error {
	var head struct {
		Backend string `json:"backend"`
		Format  int    `json:"format"`
	}
	if json.Unmarshal(data, &head) == nil && head.Backend == backend {
		if err := dataset.CheckFormat("the pool of backend "+backend, head.Format, known); err != nil {
			return err
		}
	}
	return json.Unmarshal(data, marker)
}

// Wrap says in the error of a function what the function was asked to do, and gives the error of a full filesystem its
// kind: see NoSpace. It is for a deferred call. If there is no error, Wrap does nothing.
func Wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), NoSpace(*err))
	}
}

// Registry is the list of backends that this program was built with. The program passes them to NewRegistry. No package
// registers itself.
type Registry struct {
	kinds []Kind
}

// NewRegistry returns a registry of these kinds. Their order is that of lists, and the order in which the adoption of a
// pool tries the backends. The default pool does not depend on the order: see agent/pool/default.go.
func NewRegistry(kinds ...Kind) *Registry { return &Registry{kinds} }

// Kinds returns the backends in the order in which they were passed to NewRegistry.
func (r *Registry) Kinds() []Kind { return r.kinds }

// Kind returns a backend by its name. ErrInvalid lists the existing backends.
func (r *Registry) Kind(name string) (Kind, error) {
	var names []string
	for _, k := range r.kinds {
		if k.Name() == name {
			return k, nil
		}
		names = append(names, k.Name())
	}
	return nil, dataset.Errorf(dataset.ErrInvalid, "unknown backend %q (available: %s)%s", dataset.Clip(name),
		dataset.FormatChoices(names), dataset.Suggestion(name, names))
}
