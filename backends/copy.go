package backends

import (
	"context"
	"errors"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Sender is a pool that writes a snapshot as a stream. The stream contains the whole snapshot, or the difference to an
// older snapshot of the same dataset.
type Sender interface {
	// Send writes the snapshot src to w. If base is not nil, it writes only the difference to base.
	//
	// As long as both snapshots exist, each call produces the same stream, even after changes of the head. from is the
	// number of bytes to skip at the start of the stream: Send produces them, but does not write them to w. It returns
	// the description of the complete stream.
	//
	// Errors: ErrInvalid if the stream has fewer bytes than from. ErrUnsupported if this pool cannot send the
	// difference between these two snapshots.
	Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
		progress Progress) (Stream, error)

	// Changed returns the number of bytes that differ between two points in time of a dataset. A source whose Snapshot
	// is uuid.Nil is the head. If older has no Dataset, newer is compared with an empty dataset. A backend that can
	// only estimate the difference returns a Change whose Ranges is 0.
	//
	// Errors: ErrUnsupported if newer does not descend from older. Send cannot send such a difference either.
	Changed(ctx context.Context, older, newer dataset.Source) (Change, error)

	// Same reports whether Changed would find no difference between two points in time of a dataset. Each of a and b is
	// a snapshot, or uuid.Nil for the head. If they differ, Same is faster than Changed, because it stops at the first
	// difference.
	Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error)
}

// Stream describes a snapshot as a stream.
type Stream struct {
	Base  uuid.UUID    `json:"base,omitzero"` // if set, the stream has only the difference to this snapshot
	Size  dataset.Size `json:"size"`          // of the dataset in that snapshot; in backend loop of its image
	Bytes int64        `json:"bytes"`         // of the stream
	Sum   string       `json:"sum"`           // SHA-256 of the stream, in hexadecimal digits
}

// Change is the difference between two points in time.
type Change struct {
	Bytes  int64 // number of changed bytes that contain data
	Zeroed int64 // number of bytes that became holes
	Ranges int   // number of ranges that these bytes are in; 0 if Bytes is an estimate
}

// Copier is a pool that keeps copies of datasets whose home is another pool. A copy is the record and the snapshots,
// without a head that could be mounted (EntryCopy). A pool never has a dataset with its head and a copy of the same
// dataset. Promote and Commit turn the copy into the dataset, and Demote and Supersede turn the dataset into the copy.
//
//	Receive … Receive  add snapshots to the copy, one after the other
//	Promote, Commit    give the copy a head: this pool becomes the dataset's home
//	Demote             removes the head again, if a snapshot has the same content
//	Supersede          turns the head into a snapshot
//
// These methods accept a copy as well, because they need no head: Stat, List, WriteRecord, DeleteSnapshot, Delete,
// Clone and Send of a snapshot, and Changed and Same of two snapshots. Commit accepts a promoted copy. UniqueSize
// accepts a copy in backend loop only. All other methods of a pool return ErrConflict for a copy. Create returns
// ErrConflict if the pool has a copy of the dataset. Reap removes neither a copy nor a received part that can be
// resumed.
type Copier interface {
	Sender
	IdleChecker

	// Received reports how much of a snapshot this pool has. For an absent dataset it returns the zero value and no
	// error.
	Received(ctx context.Context, ds, snapshot uuid.UUID) (Received, error)

	// Receive reads the stream of a snapshot from r and adds the snapshot to the copy. If the pool has no copy of the
	// dataset, Receive makes it. The snapshot and its record appear only after the whole stream was verified and is
	// durable. If the copy already has the complete snapshot, Receive reads nothing.
	//
	// An interrupted Receive keeps the received part. A crash or a power cut can remove its end: everything after the
	// last checkpoint. Checkpoints are at most 64 MiB apart, or more if the disk is slower than the link. To resume,
	// call Receive with the rest of the stream, from the byte that Received reports. A call from byte 0, or for another
	// snapshot of the dataset, discards the received part and starts again. DeleteSnapshot removes the received part.
	//
	// Errors:
	//
	//   - A stream that ends early: wraps io.ErrUnexpectedEOF. An error of r is wrapped unchanged.
	//   - ErrCorrupt: the stream is damaged, forged, of another snapshot, or has another base. The received part was
	//     removed. If the error is also ErrBaseDiffers, a stream of the whole snapshot would succeed.
	//   - ErrConflict: d.From differs from the number of received bytes, d has another base than the received part, or
	//     this pool has the head of the dataset. Nothing was changed.
	//   - ErrNotFound: the copy lacks the base.
	//   - ErrNoSpace: the pool is nearly full.
	//
	// progress reports bytes of the stream.
	Receive(ctx context.Context, d Delivery, r io.Reader, progress Progress) (Stream, error)

	// Promote makes the head of a copy from one of its snapshots. The dataset stays a copy until Commit is called.
	// Commit of a promoted copy is durable when it returns. A Receive before Commit removes the head again.
	//
	// If Promote is called again with another snapshot, the new head replaces the earlier one. Idempotent: if the
	// dataset is already ready, Promote changes nothing. The copy and its snapshots exist at every step.
	Promote(ctx context.Context, ds, snapshot uuid.UUID) error

	// Demote turns a ready dataset into a copy, or removes the head of a promoted copy. It is durable when it returns.
	//
	// The head of a ready dataset must equal the given snapshot. The head of a promoted copy must equal one of the
	// copy's snapshots. Idempotent: if the copy has no head, Demote changes nothing.
	//
	// Errors: ErrConflict if the head differs; use Supersede then. ErrInUse if the head is attached or mounted.
	// ErrNotFound if the pool lacks the dataset or the snapshot.
	Demote(ctx context.Context, ds, snapshot uuid.UUID) error

	// Supersede turns the head of a dataset into a snapshot, and the dataset into a copy. keep is the record of the new
	// snapshot. Supersede also works in a pool that is nearly full. It is durable when it returns. Idempotent: if the
	// copy has no head but has the snapshot keep, Supersede changes nothing.
	//
	// Errors: ErrInUse if the head is attached or mounted. ErrConflict if the copy has neither a head nor the snapshot.
	Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error
}

// ErrBaseDiffers says that the local base differs from the snapshot against which the sender computed the difference.
var ErrBaseDiffers = errors.New("the base of the stream differs from the stored snapshot")

// Delivery describes a snapshot that arrives from another pool.
type Delivery struct {
	Dataset  dataset.Dataset // the record of the copy, if Receive has to make the copy
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

// CheckResume checks a delivery that resumes an interrupted one. It returns dataset.ErrConflict if the delivery does
// not start where the received part ends, or has another base.
func (d Delivery) CheckResume(received Received) error {
	switch {
	case d.From != 0 && d.From != received.Bytes:
		return dataset.Errorf(dataset.ErrConflict, "the stream continues at byte %d, and %d were received", d.From,
			received.Bytes)
	case d.From != 0 && d.Base != received.Base:
		return dataset.Errorf(dataset.ErrConflict, "the received part is a difference to snapshot %s, not to %s",
			received.Base, d.Base)
	}
	return nil
}
