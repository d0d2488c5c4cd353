package backends

import (
	"context"
	"errors"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Sender is a pool that writes a snapshot as a stream. The stream has all of the snapshot, or its
// difference to an older snapshot of the same dataset.
type Sender interface {
	// Send writes the snapshot src to w. If base is not nil, it writes only the difference to base.
	//
	// As long as both snapshots exist, each call produces the same stream, even after changes of the head.
	// The first from bytes of the stream are produced but not written. Send returns the description of the
	// complete stream.
	//
	// ErrInvalid: the stream is shorter than from bytes. ErrUnsupported: this pool cannot send the
	// difference between these two snapshots.
	Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
		progress Progress) (Stream, error)

	// Changed returns the number of bytes that differ between two points in time of a dataset. A nil Snapshot is the
	// head. If older has no Dataset, newer is compared with an empty dataset. The result can be an estimate without
	// Ranges.
	//
	// ErrUnsupported: newer does not descend from older, so that Send could not send the difference either.
	Changed(ctx context.Context, older, newer dataset.Source) (Change, error)

	// Same reports whether Changed would find no difference between two points in time of a dataset.
	// Each is a snapshot, or the head if nil. It is faster than Changed where they differ.
	Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error)
}

// Stream describes a snapshot as a stream.
type Stream struct {
	Base  uuid.UUID    `json:"base,omitzero"` // if set, the stream has only the difference to this snapshot
	Size  dataset.Size `json:"size"`          // of the dataset in that snapshot
	Bytes int64        `json:"bytes"`         // of the stream
	Sum   string       `json:"sum"`           // SHA-256 of the stream, in hexadecimal digits
}

// Change is the difference between two points in time.
type Change struct {
	Bytes  int64 // written
	Zeroed int64 // became holes
	Ranges int
}

// Copier is a pool that keeps copies of datasets whose home is another pool. A copy is the record and
// the snapshots, without a head that could be mounted (EntryCopy). A pool never has both a head and a
// copy of one dataset: the one becomes the other.
//
//	Receive … Receive  bring a copy its snapshots, one after the other
//	Promote, Commit    give it a head: it is ready, and the dataset's home
//	Demote             removes the head again, where a snapshot has all of it
//	Supersede          keeps the head as a snapshot before it removes it
//
// All methods of Pool that need no head accept a copy as well: Stat, List, WriteRecord, DeleteSnapshot,
// Delete, and Clone and Send of a snapshot. The others return ErrConflict, and so does Create of a
// dataset that has a copy here. Reap never removes a copy, nor the received part of a snapshot.
type Copier interface {
	Sender
	IdleChecker

	// Received reports how much of a snapshot this pool has. For an absent dataset that is nothing,
	// without an error.
	Received(ctx context.Context, ds, snapshot uuid.UUID) (Received, error)

	// Receive reads a snapshot into a copy, which it makes if it is absent. The snapshot appears, with
	// its record, when all of its stream was verified and is durable. If the snapshot is complete
	// already, nothing is read.
	//
	// Until then the received part is kept: all of it, or all but the last 64 MiB after a crash or a power cut. After
	// an error, call Receive again with the rest of the stream from the byte that Received reports. A call from byte 0,
	// or for another snapshot of the dataset, discards the received part and begins again. DeleteSnapshot removes the
	// received part.
	//
	// The error for a stream that ends early wraps io.ErrUnexpectedEOF. An error of the stream's reader is wrapped
	// unchanged. ErrCorrupt: the stream is damaged, forged or belongs to another snapshot, and its received part was
	// removed. If the error is also ErrBaseDiffers, a stream of the whole snapshot would succeed. ErrConflict: From
	// differs from the number of received bytes, the stream has another base, or this pool has the head of the dataset.
	// Nothing was changed. ErrNotFound: the copy lacks the base. ErrNoSpace: the pool is nearly full.
	//
	// Progress counts bytes of the stream.
	Receive(ctx context.Context, d Delivery, r io.Reader, progress Progress) (Stream, error)

	// Promote makes the head of a copy from one of its snapshots. The dataset stays a copy until
	// Commit, which is durable when it returns. Until then it can receive more, which removes the head.
	//
	// If Promote is called again with another snapshot, the new head replaces the earlier one. Idempotent: a ready
	// dataset is left alone. At every step the copy and its snapshots exist.
	Promote(ctx context.Context, ds, snapshot uuid.UUID) error

	// Demote makes a dataset a copy, or removes the head of a copy that was promoted. It is durable
	// when it returns.
	//
	// The head of a ready dataset must equal this snapshot. The head of a promoted copy must equal one of the copy's
	// snapshots. Otherwise the error is ErrConflict, and Supersede is the method to use. ErrInUse: it is attached or
	// mounted. Idempotent: a copy without a head is left alone.
	Demote(ctx context.Context, ds, snapshot uuid.UUID) error

	// Supersede turns the head of a dataset into a snapshot, and makes the dataset a copy. keep is the record of that
	// snapshot. It works in a pool that is nearly full, and is durable when it returns.
	//
	// ErrInUse: it is attached or mounted. Idempotent: a copy without a head is left alone.
	Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error
}

// ErrBaseDiffers says that the local base differs from the snapshot against which the sender computed the difference.
var ErrBaseDiffers = errors.New("its base is not the one that is stored here")

// Delivery describes a snapshot that arrives from another pool.
type Delivery struct {
	Dataset  dataset.Dataset // the record for a copy that must be made
	Snapshot dataset.Snapshot
	Base     uuid.UUID // if set, the stream has only the difference to this snapshot of the copy
	From     int64     // bytes of the stream that were received before
}

// Received is how much of a snapshot a copy has.
type Received struct {
	Complete bool   // the snapshot is complete
	Stream   Stream // the stream of a complete snapshot; Sum is empty if the snapshot was taken in this pool

	Bytes int64     // received bytes of the stream of an incomplete snapshot
	Base  uuid.UUID // if set, this stream has only the difference to this snapshot
}

// CheckResume returns dataset.ErrConflict if a delivery resumes from another point than the received bytes.
func (d Delivery) CheckResume(have Received) error {
	switch {
	case d.From != 0 && d.From != have.Bytes:
		return dataset.Errorf(dataset.ErrConflict, "the stream continues at byte %d, and %d were received", d.From,
			have.Bytes)
	case d.From != 0 && d.Base != have.Base:
		return dataset.Errorf(dataset.ErrConflict, "the received part is a difference to snapshot %s, not to %s",
			have.Base, d.Base)
	}
	return nil
}
