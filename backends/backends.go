// Package backends is the contract between Drover and the kinds of storage that
// it keeps datasets on, and the registry of those kinds.
//
// # Words
//
// A backend is a kind of storage; Kind describes it and opens pools of it. A
// Pool is one configured place where a backend keeps datasets. A dataset has
// one head, the bytes that containers write, and snapshots, which never change.
// Every dataset and snapshot carries its record beside it (the JSON of
// dataset.Dataset and dataset.Snapshot), so that a lost store can be made again
// from its pools.
//
// # The life of a dataset
//
//	Create, Clone            make it under "incoming": whole and durable, but
//	                         not yet acknowledged to anyone
//	Commit                   moves it to where List calls it Ready; called after
//	                         the store has recorded it
//	Attach … mount … unmount the agent mounts what Attach describes; a backend
//	                         never mounts a dataset for use
//	Delete                   takes it away: at once out of sight, then its bytes
//
// A pool that is not the home of a dataset may keep a copy of it, without a head: see
// Copier.
//
// A crash leaves a dataset incoming or deleting at worst. Reap removes those
// that it is told to; nothing else ever removes what nobody asked for. What lies
// in a pool and is not understood is Foreign in the list: never touched.
//
// # Idempotence and concurrency
//
// Every method can be called again after it succeeded, or after a crash in the
// middle, with the same arguments, and ends in the same state; each says what
// that means for it. Calls for different datasets may run at once; the caller
// holds a lock for each dataset, so that calls that change one dataset do not
// overlap (a Snapshot or Clone of it excludes a Delete or Restore of it).
//
// # Errors
//
// dataset.ErrOffline: the pool is absent or another pool lies in its place;
// dataset.ErrNotFound: no such dataset or snapshot here; dataset.ErrExists:
// something else is in the way, and was not touched; dataset.ErrNoSpace: the
// pool or its host disk is too full; dataset.ErrUnsupported: this pool cannot,
// whatever the state; dataset.ErrCorrupt: what is there is damaged or foreign;
// dataset.ErrInUse: attached or, in any mount namespace of this host, mounted, where
// that stands in the way. Namespaces that cannot be examined are an error.
package backends

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Kind is a backend: it opens and makes pools.
type Kind interface {
	// Name is the backend's name in drover.yaml and profiles.yaml.
	Name() string
	// Available returns nil when this host can run the backend, otherwise an
	// ErrUnsupported that says what is missing and the command that would mend
	// it. It looks again at every call.
	Available(ctx context.Context) error
	// Open opens the pool that cfg describes. With cfg.Make a path that holds
	// nothing (or is absent) is made a pool with that UUID; without, a path
	// that is not the pool cfg.ID is ErrOffline (a nil cfg.ID takes whatever
	// pool is there). A path that holds something that is no pool is
	// ErrExists, one that cannot serve this backend ErrUnsupported with what
	// would; nothing was changed then.
	Open(ctx context.Context, cfg Config) (Pool, error)
}

// Config is what a pool is opened with.
type Config struct {
	ID    uuid.UUID // the pool that is expected; nil with Make: one is chosen
	Name  string
	Path  string       // absolute, clean; no symlink is followed in its last element
	Image dataset.Size // > 0: Path is a preallocated image file of that size to make or use, mounted by Open at Mount
	Mount string       // where the image, or what else a pool has to mount by itself, is mounted
	// Devices are block devices, absolute paths, that with Make the pool's storage is made
	// of: such as hold nothing, others are refused. Without Make they are where to look
	// first: what a device is called changes with a boot, so a pool is known by what it
	// wrote on its devices.
	Devices []string
	Make    bool
	Keys    Keys // of encrypted datasets; nil: none can be opened
}

// Pool is one open pool. The core contract is small; what only some backends
// can do lies in the optional interfaces below, and Capabilities says which.
type Pool interface {
	// ID is the pool's UUID, from the pool itself.
	ID() uuid.UUID
	// Info says what the pool can do here and a line on which way it works and
	// why (for doctor). The same for the life of the Pool.
	Info() Info
	// Status is the pool's size, free bytes and health now, without a fork or a
	// walk. A pool that is absent or was exchanged is not an error: Online is
	// false and Reason says why.
	Status(ctx context.Context) dataset.PoolStatus
	// Generation returns the counter that lies in the pool itself: what Raise has set
	// last, 0 before. A disk that was put back to an older state has an older one.
	Generation() (uint64, error)
	// Raise sets it. Durable when it returns, and atomic with all else that says which
	// pool this is. Again: the same.
	Raise(generation uint64) error

	// Create makes an empty dataset of d.ID as incoming, with d as its record:
	// of d.Size bytes when that is not 0 (ErrUnsupported where sizes cannot be
	// enforced; a backend that needs a size takes its default and returns it),
	// its root empty and owned as d.Profile.Owner says. It returns the size that the
	// dataset has. Durable when it returns. Again, after success or a crash:
	// the same dataset, made anew if it was not whole, and with the newest record
	// while it is incoming. With d.Encryption nobody can read it without the data key
	// (ErrUnsupported where the capabilities have not Encryption). ErrNoSpace already when
	// the pool is nearly full (Room); so for Clone and Snapshot.
	Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error)
	// Clone makes d.ID as Create does, with the bytes of src: a snapshot, or
	// with a nil src.Snapshot the head as it is at one moment, mounted or not.
	// d.Size is what the clone has at least: it is grown to that, and has the source's size if
	// that is larger, which a resize may have made it since d was planned. A clone has its source's data key,
	// or ErrInvalid. Progress may be nil.
	Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, progress Progress) (dataset.Size, error)
	// Commit makes an incoming dataset, or a copy that was promoted, ready. Again:
	// nothing. ErrNotFound when there is none. Its own durability may come later: an incoming dataset is
	// as whole as a ready one, and all other methods take either.
	Commit(ctx context.Context, id uuid.UUID) error
	// Delete destroys a dataset, ready or incoming, with its snapshots. One
	// that is absent is fine. ErrInUse while it is attached or mounted. When
	// it returns, List shows the dataset no more, even after a power cut;
	// the bytes may still be on their way out, which Reap finishes after a crash.
	Delete(ctx context.Context, id uuid.UUID) error

	// Snapshot takes snapshot s.ID of the head of s.Dataset, atomic while it is
	// written to, and durable when it returns. Again: nothing if it is whole. ErrCorrupt of a
	// head that is seen to be damaged, which Restore takes and keeps all the same. One of
	// kind transfer that shares its blocks is taken in a pool that is nearly full too:
	// by it a dataset leaves that.
	Snapshot(ctx context.Context, s dataset.Snapshot, progress Progress) error
	// DeleteSnapshot destroys one; one that is absent is fine. Clones of it
	// live on when the capabilities say so, otherwise ErrInUse names them.
	// When it returns, List shows the snapshot no more, even after a power cut. Whoever
	// reads it by then reads on what it was; ErrNoSpace where that takes room that the
	// pool has not, and all is as it was.
	DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) error
	// Restore makes the head of ds what its snapshot is; its size stays, where the pool
	// enforces one. Snapshots, newer ones too, stay. What the head was is kept as snapshot keep, with that
	// record: as it is when it is replaced. What an earlier try has left of keep, before it replaced the
	// head, is renewed, as the head may have been written to since; and as others may have what List shows,
	// it had better not show keep before that. At every step of it the head is one or the other, whole.
	// ErrInUse for a dataset that is attached. Again, once it was done: nothing, whoever uses it by then and
	// whatever was written or restored since.
	Restore(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress Progress) error

	// WriteRecord replaces the record beside a dataset. Atomic; durable only
	// when sync is set.
	WriteRecord(ctx context.Context, d dataset.Dataset, sync bool) error
	// List returns all that lies in the pool, from the pool alone.
	List(ctx context.Context) ([]Entry, error)
	// Stat returns the entry of one dataset with its snapshots; ErrNotFound.
	Stat(ctx context.Context, id uuid.UUID) (Entry, error)
	// Used returns the bytes that a dataset's head takes in the pool (blocks
	// shared with others count), as of Info.UsedLag ago at most, without a walk where the
	// capabilities have OwnFilesystem or KnowsUsed, and of a mounted one without a fork. ErrCorrupt
	// of a head that is seen to be damaged.
	Used(ctx context.Context, id uuid.UUID) (dataset.Size, error)
	// Reap finishes the deletion of everything deleting and of the incoming
	// datasets for which drop returns true, and removes temporary files. It
	// returns how many were removed. Never anything else.
	Reap(ctx context.Context, drop func(incoming uuid.UUID) bool) (int, error)

	// Attach makes the head ready to be mounted and describes the mount. It
	// changes nothing on disk. Again while attached: the same source.
	Attach(ctx context.Context, id uuid.UUID, opts AttachOptions) (Attachment, error)

	// Close lets go of the pool; datasets that are mounted stay so.
	Close() error
}

// Info is what is fixed about an open pool.
type Info struct {
	Capabilities dataset.Capabilities
	Holds        []string // filesystems that a copy can have here: those too that cannot be made for want of a tool
	// what the host lacks for more, each with what that is for first: "encryption needs cryptsetup (apt-get …)"
	Missing     []string
	Note        string // "XFS with reflinks: snapshots by FICLONE"
	Path        string // where the datasets lie
	DefaultSize dataset.Size
	UsedLag     time.Duration // what Used tells was true this long ago at most; 0: it is true now
	// Freezes: a snapshot or clone of a mounted head freezes its filesystem for as long as
	// it takes, whatever is asked, and fails where somebody else has frozen it.
	Freezes bool
	Share   uuid.UUID // that the pool lies on; see Sharer
}

// AttachOptions say how a dataset will be mounted.
type AttachOptions struct {
	ReadOnly bool
	Mount    []string // filesystem options of the profile
}

// Attachment is a dataset ready to be mounted.
type Attachment struct {
	Mount Mount
	// Release lets go of what kept the source alive until it was mounted; after
	// the mount the mount keeps it. Always to be called, once, also when
	// nothing was mounted: then the source goes away.
	Release func() error
}

// Mount describes a mount: the agent does it.
type Mount struct {
	Source  string   // device, or directory for a bind mount
	FSType  string   // "bind" for a directory
	Options []string // for the filesystem, such as nouuid
	Flags   MountFlags
	Grow    bool // the filesystem may be smaller than its device: call Resizer.Grow once mounted
}

// MountFlags are the flags of a mount.
type MountFlags struct {
	ReadOnly, NoDev bool
}

// Progress is told, now and then, how many bytes are done of how many; total 0:
// not known. Called from one goroutine at a time.
type Progress func(done, total int64)

// EntryState is where an Entry is in its life.
type EntryState string

// The states of an entry.
const (
	EntryReady    EntryState = "ready"
	EntryIncoming EntryState = "incoming"
	EntryDeleting EntryState = "deleting"
	EntryCopy     EntryState = "copy"    // snapshots without a head: see Copier
	EntryForeign  EntryState = "foreign" // not understood; see Problem
)

// Entry is one thing that lies in a pool.
type Entry struct {
	ID        uuid.UUID // nil for a foreign thing
	State     EntryState
	Path      string           // where, for a person
	Record    *dataset.Dataset // nil when it cannot be read
	Snapshots []dataset.Snapshot
	Problem   string // why it is foreign, or what is wrong with its record or a snapshot

	Promoted bool     // of a copy: it has a head that waits for Commit
	Partial  *Partial // of a copy: the snapshot that it has received a part of
}

// Partial is a snapshot that has come in part.
type Partial struct {
	Snapshot uuid.UUID
	Base     uuid.UUID
	Bytes    int64 // of its stream
}

// Sender is a pool that writes a snapshot as a stream, whole or as what changed
// since an older snapshot of the same dataset.
type Sender interface {
	// Send writes src, which has a snapshot, to w; only the difference when
	// base is not nil. As long as both are there it is the same stream each
	// time, whatever happens to the head: the first from bytes of it are made,
	// but not written. It returns what the whole stream is. ErrInvalid: it has
	// no from bytes. ErrUnsupported: of base this pool sends no difference to that.
	Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
		progress Progress) (Stream, error)
	// Changed returns the bytes by which two points in time of a dataset
	// differ; a nil Snapshot is the head, an older one without a Dataset nothing. It may be
	// an estimate, without Ranges. ErrUnsupported: as Send of the one as a difference to the
	// other, as that is none that it came of.
	Changed(ctx context.Context, older, newer dataset.Source) (Change, error)
	// Same tells whether Changed would find nothing between two points in time of a
	// dataset, snapshots or with the nil one the head: sooner, where they differ.
	Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error)
}

// Stream is what one snapshot is as a stream.
type Stream struct {
	Base  uuid.UUID    `json:"base,omitzero"` // that it is a difference to
	Size  dataset.Size `json:"size"`          // of the dataset in that snapshot
	Bytes int64        `json:"bytes"`         // of the stream
	Sum   string       `json:"sum"`           // SHA-256 of the stream, in hexadecimal digits
}

// Change is by how much two points in time differ.
type Change struct {
	Bytes  int64 // written
	Zeroed int64 // became holes
	Ranges int
}

// Copier is a pool that keeps copies of datasets whose home is another pool: the
// record and snapshots, and no head that anybody could mount (EntryCopy). A head and
// a copy of one dataset never lie in one pool side by side: the one becomes the other.
//
//	Receive … Receive  bring a copy its snapshots, one after the other
//	Promote, Commit    give it a head: it is ready, and the dataset's home
//	Demote             takes the head away again, where a snapshot has all of it
//	Supersede          keeps the head as a snapshot before
//
// All methods of Pool that need no head take a copy as well: Stat, List, WriteRecord,
// DeleteSnapshot, Delete, and Clone and Send of a snapshot. The others, and Create of
// a dataset that has a copy here, are ErrConflict. Reap never removes a copy, nor what
// it has received of a snapshot.
type Copier interface {
	Sender
	Idler
	// Received says how much of a snapshot is here: of a dataset that is absent
	// nothing, without an error.
	Received(ctx context.Context, ds, snapshot uuid.UUID) (Received, error)
	// Receive reads a snapshot into a copy, which is made when it is absent. The
	// snapshot appears, with its record, when all of its stream was verified and
	// is durable; of one that is whole nothing is read. Until then what has come
	// is kept: through a crash or a power cut all but the last 64 MiB, otherwise
	// all. So after an error call it again with the rest of the stream from what
	// Received says, or from 0, which begins anew. It begins anew as well with
	// another snapshot of the dataset. DeleteSnapshot removes what has come.
	//
	// A stream that ends early wraps io.ErrUnexpectedEOF, what its reader says is
	// wrapped as it is. ErrCorrupt: the stream is damaged, forged or another
	// snapshot's, and what has come of it was removed; when it is ErrUnfit too, all of the
	// snapshot would do. ErrConflict, and nothing
	// changed: From is not what has come, the stream is a difference to another
	// base, or the dataset has a head here. ErrNotFound: the copy lacks the base.
	// ErrNoSpace: the pool is nearly full. Progress is told bytes of the stream.
	Receive(ctx context.Context, d Delivery, r io.Reader, progress Progress) (Stream, error)
	// Promote makes the head of a copy from a snapshot of it. It stays a copy,
	// and can receive more (which takes the head away), until Commit, which is
	// durable when it returns. Again, or with another snapshot: the head is that
	// of the last call; of a dataset that is ready: nothing. At every step there
	// is the copy with its snapshots.
	Promote(ctx context.Context, ds, snapshot uuid.UUID) error
	// Demote makes a dataset a copy, or takes the head from a copy that was
	// promoted. The head must be what one of its snapshots is, for a ready one
	// this snapshot: otherwise ErrConflict, and Supersede is the way. ErrInUse
	// while it is attached or mounted. Durable when it returns. Again: nothing.
	Demote(ctx context.Context, ds, snapshot uuid.UUID) error
	// Supersede keeps the head of a dataset as snapshot keep, with that record,
	// and makes it a copy. ErrInUse while it is attached or mounted. It works in a
	// pool that is nearly full. Durable when it returns. Again: nothing.
	Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error
}

// ErrUnfit is that what is here of its base is not what a stream is a difference to.
var ErrUnfit = errors.New("its base is not what is here of that")

// Delivery is a snapshot that comes from another pool, with where it belongs.
type Delivery struct {
	Dataset  dataset.Dataset // the record of a copy that is made
	Snapshot dataset.Snapshot
	Base     uuid.UUID // snapshot of the copy that the stream is a difference to; nil: it is whole
	From     int64     // bytes of the stream that came before
}

// Received is how much of a snapshot a copy has.
type Received struct {
	Whole bool   // it is there
	Last  Stream // that it came by, once it is whole; without a Sum when it was taken here

	Bytes int64     // of the stream that have come, while it is not
	Base  uuid.UUID // that those are a difference to
}

// Follows fails with dataset.ErrConflict where a delivery goes on, and not from what has come.
func (d Delivery) Follows(have Received) error {
	switch {
	case d.From != 0 && d.From != have.Bytes:
		return dataset.Errorf(dataset.ErrConflict, "the stream goes on at byte %d, and %d have come", d.From,
			have.Bytes)
	case d.From != 0 && d.Base != have.Base:
		return dataset.Errorf(dataset.ErrConflict, "what has come is a difference to snapshot %s, not to %s",
			have.Base, d.Base)
	}
	return nil
}

// Rewriter is a pool that can write the head of a dataset anew, so that it lies in few pieces
// again, and Stall is short.
type Rewriter interface {
	// Rewrite does so with a head that nobody uses. It takes room for all of the head, and what
	// its snapshots share with it is theirs alone after: a difference to one of them (Send,
	// Changed) is all of the head then. It returns in how many pieces it was, and is now. The head
	// is the old or the new one at every step, with the same bytes; when ctx ends, soon after, the
	// old one, and the error is the cause. ErrInUse: it is attached or mounted. ErrNoSpace, and
	// nothing was changed: that would leave the pool nearly full. ErrUnsupported: nothing would be
	// gained. Again: once more.
	Rewrite(ctx context.Context, id uuid.UUID, progress Progress) (was, now int, err error)
}

// Staller is a pool whose snapshots make writers wait for a time that grows.
type Staller interface {
	// Stall predicts how long a snapshot or clone of the head would hold up
	// its writers, in nanoseconds, and says from what: "9,700 extents".
	Stall(ctx context.Context, id uuid.UUID) (nanos int64, why string, err error)
}
