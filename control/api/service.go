package api

import (
	"context"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Service is the control service behind the API. *Client implements it too, so
// that an agent asks the same way whether control is in its process or far away.
// All methods are safe for concurrent use.
type Service interface {
	Users
	Nodes
}

// Users is what people and programs ask for.
type Users interface {
	// Submit plans a request and puts the operation on record for its node's
	// agent; with nothing to do the outcome has no operation. Idempotent by
	// Request.ID.
	Submit(ctx context.Context, req Request) (Outcome, error)
	Volume(ctx context.Context, ref string) (Volume, error)
	Volumes(ctx context.Context, p Page) (List[Volume], error)
	Trash(ctx context.Context, p Page) (List[Volume], error)
	// Snapshots lists those of one volume or, with an empty ref, all.
	Snapshots(ctx context.Context, ref string, p Page) (List[dataset.Snapshot], error)
	// Snapshot finds one by name (in a volume, when ref is not empty) or prefix.
	Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error)
	Profiles(ctx context.Context) ([]dataset.Profile, error)
	Profile(ctx context.Context, name string) (dataset.Profile, error)
	Pools(ctx context.Context) ([]Pool, error)
	// NodeList lists the nodes that an expression over facts is true of; all for an
	// empty one.
	NodeList(ctx context.Context, filter string) ([]Node, error)
	// Cordon says whether nothing new is to be put on a node. Again: nothing.
	Cordon(ctx context.Context, node uuid.UUID, set Cordoned) (dataset.Node, error)
	// Fence takes a person's word that a node which is away writes no more. Again:
	// nothing.
	Fence(ctx context.Context, node uuid.UUID, f Fenced) (dataset.Node, error)
	Failover(ctx context.Context) (FailoverState, error)
	Operations(ctx context.Context, p Page) (List[dataset.Operation], error)
	// Operation returns one; with wait > 0 it waits so long for it to end, or,
	// while it runs, for its progress to change.
	Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error)
	CancelOperation(ctx context.Context, id string) (dataset.Operation, error)
	// Events calls fn for each event after the given ID until ctx ends or fn
	// errs; without follow until the newest.
	Events(ctx context.Context, after uint64, follow bool, fn func(Event) error) error
	Version(ctx context.Context) (Version, error)
}

// Nodes is what agents ask for, each for its own node.
type Nodes interface {
	Register(ctx context.Context, r Registration) error
	// Renew says that the node's agent is alive, and returns for how long it then is.
	Renew(ctx context.Context, node, incarnation uuid.UUID) (Standing, error)
	// Generations says of which generation the node's pools are, and returns the highest
	// known of each, to the store or this service.
	Generations(ctx context.Context, node uuid.UUID, g Generations) (Generations, error)
	// Plan decides on a request that the node itself will carry out; nothing is
	// written.
	Plan(ctx context.Context, node uuid.UUID, req Request) (Plan, error)
	// Commit puts the outcome of an operation on record, in one transaction that
	// checks everything that the decision rests on. Idempotent by operation ID.
	Commit(ctx context.Context, node uuid.UUID, r Report) (Committed, error)
	// Record puts an operation that takes longer on record as running.
	Record(ctx context.Context, node uuid.UUID, r Report) error
	// Sync waits for changes of the node's datasets and operations after rev;
	// rev 0: all of them, at once.
	Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (Sync, error)
	Heartbeat(ctx context.Context, node uuid.UUID, h Heartbeat) error
	// Recall has the home of a move asked for its lease: the report is of the move,
	// by the agent that pulls. It returns the operation as it is then; the answer of
	// the home is awaited with Operation. Again: the same.
	Recall(ctx context.Context, node uuid.UUID, r Report) (dataset.Operation, error)
	// Yield is the home's answer.
	Yield(ctx context.Context, node uuid.UUID, y Yield) error
	// Copied says what a node's copy of a dataset is now.
	Copied(ctx context.Context, node uuid.UUID, c Copied) error
	// Guest says that the node is to have a dataset of another home mounted, or to have one of
	// its own alone, or that this is over. Again, with the same ID: the same.
	Guest(ctx context.Context, node uuid.UUID, g Stay) (Indexed, error)
	// Facts says what the host is and how it does, and returns what is on record of
	// that: small changes are not written, nor any within a minute of the last.
	Facts(ctx context.Context, node uuid.UUID, r FactsReport) (dataset.Facts, error)
	// Hold says what the node holds, for a recovery that asked; nothing is stored. Again:
	// it takes the place of what was said.
	Hold(ctx context.Context, node uuid.UUID, h Holdings) error
	// Rebuild brings back what was found in the node's pools.
	Rebuild(ctx context.Context, node uuid.UUID, found []Found) ([]Rebuilt, error)
}

// Local is what the agent of this host answers by itself.
type Local interface {
	Doctor(ctx context.Context) ([]Finding, error)
	// Collect destroys one thing that the store does not know, by its dataset's
	// full UUID: the explicit gc of doctor.
	Collect(ctx context.Context, id uuid.UUID) error
	CreatePool(ctx context.Context, p NewPool) (dataset.Pool, error)
	AdoptPool(ctx context.Context, path string) (dataset.Pool, []Rebuilt, error)
	// AcceptPool has a pool that is held serve as it is.
	AcceptPool(ctx context.Context, p AcceptPool) (dataset.Pool, error)
	// RemovePool removes a pool that holds nothing; with forget it only takes it off the record.
	RemovePool(ctx context.Context, name string, forget bool) (RemovedPool, error)
	// RebuildStore fails with ErrOffline while a pool is, unless it is to be
	// skipped.
	RebuildStore(ctx context.Context, skipOffline bool) ([]Rebuilt, error)
	// Export writes a volume, or one snapshot of it, to w as a tar archive, and
	// returns what the archive lacks.
	Export(ctx context.Context, ref, snapshot string, w io.Writer) (LeftOut, error)
	// Import fills a new volume from a tar archive.
	Import(ctx context.Context, req Request, r io.Reader) (dataset.Dataset, error)
	// Diff compares two snapshots of a dataset, or one with the head.
	Diff(ctx context.Context, older, newer string) (Diff, error)
}

// Backup is a store that can be copied while it works.
type Backup interface {
	Backup(ctx context.Context, w io.Writer) error
}
