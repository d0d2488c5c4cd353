// Package operation runs the operations of this node: changes to datasets that take long enough to be cancelled and,
// where needed, to be recorded in control.
//
// Operations is the root. It answers the engine: it shows, creates and removes volumes (viewer.go; volumecreator.go has
// the life of a create). It executes the operations that control has recorded for this node (runner.go). A new kind is
// a method such as TakeSnapshot, and an entry of the table in Connect. Methods without state are methods of Operations.
// The components have state: Runner the running operations, Sizes the deferred resizes, which are also on disk, Remover
// the purges that could not be executed yet, Importer the space that restores need (room), and Keyring the data keys
// that datasets borrow. Each has a mutex. The lock of a dataset (host.Host.Locks) protects its data. Whether a request
// is allowed is decided by control.
package operation

import (
	"context"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Operations runs the operations of this node, and answers the tools of this host. Its methods are safe for concurrent
// use.
type Operations struct {
	*mounting.Mounts
	Keys     *Keyring
	Quiescer Quiescer // that of Mounts, unless a test replaces it

	Runner   *Runner
	Sizes    *Sizes
	Remover  *Remover
	Importer *Importer

	Snapshots host.Set // a lock for each snapshot that a pool copies: see LockSource

	// ListAll makes List show the volumes of all nodes.
	ListAll bool

	// Set by Connect.
	status   StatusReader
	reporter Reporter
	backups  Backups
	handlers map[dataset.OpKind]Handler
}

// Quiescer blocks the writers of a dataset for a snapshot: see mounting.Quiescer.
type Quiescer interface {
	Prepare(ctx context.Context, pool backends.Pool, d dataset.Dataset) (
		in context.Context, end func() (exact bool), err error)
}

// StatusReader reads the status of datasets.
type StatusReader interface {
	Status(ctx context.Context, d dataset.Dataset) dataset.DatasetStatus
	OperationEnded(op dataset.Operation, err error)
}

// Reporter reports to control.
type Reporter interface {
	ReportDataset(ctx context.Context, id uuid.UUID) // reports the status of a dataset at once
}

// Mover executes the operations that concern other nodes.
type Mover interface {
	Move(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error)
	BoundLease(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error)
}

// Backups makes and reads backups.
type Backups interface {
	Create(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error)
	// Size returns how many bytes Restore or Verify writes for a backup. Unless again is set, it does not measure a
	// backup whose size is known, and the size can be an upper bound.
	Size(ctx context.Context, repository, id string, again bool) (dataset.Size, error)
	// Restore writes the content of a backup to an empty volume: m is the mount of mounting.OpenMount. If version is
	// not nil, the backup must have that version.
	Restore(ctx context.Context, repository, id string, version *dataset.VersionRef, m *os.File,
		step func(string)) error
	// Verify also compares what it has written with the backup, and returns the UUID of the dataset that was backed up.
	Verify(ctx context.Context, repository, id string, m *os.File, step func(string)) (of uuid.UUID, taken time.Time,
		err error)
	// RunCheck runs the check program of a verification on its dataset.
	RunCheck(ctx context.Context, pool backends.Pool, op dataset.Operation) (unusable bool, err error)
}

// New returns the Operations of a host. The caller calls Connect.
func New(m *mounting.Mounts, k *Keyring) *Operations {
	o := &Operations{Mounts: m, Keys: k, Quiescer: m.Quiescer}
	o.Runner = &Runner{Operations: o, running: map[uuid.UUID]*running{}}
	o.Sizes = &Sizes{Operations: o, deferred: host.NewTable[DeferredResize](m.DB, "undersized/")}
	o.Remover = &Remover{Operations: o, pending: map[uuid.UUID]PendingPurge{}}
	o.Importer = &Importer{Operations: o, room: &room{shares: map[*share]bool{}, changed: make(chan struct{})}}
	return o
}

// Connect sets what executes operations and is made later. It is called before the agent starts.
func (o *Operations) Connect(s StatusReader, r Reporter, mover Mover, b Backups) {
	o.status, o.reporter, o.backups = s, r, b
	o.handlers = map[dataset.OpKind]Handler{
		dataset.OpCreate: o.executeCreate, dataset.OpClone: o.executeCreate,
		dataset.OpImport: o.Importer.Import, dataset.OpVerify: o.Importer.Verify,
		dataset.OpSnapshot: o.TakeSnapshot, dataset.OpSnapshotDelete: o.DeleteSnapshot,
		dataset.OpRestore: o.Restore, dataset.OpResize: o.Resize, dataset.OpRekey: o.Rekey,
		dataset.OpBackup: b.Create, dataset.OpPush: b.Create,
		dataset.OpDelete: o.Remover.Delete, dataset.OpPurge: o.Remover.Purge,
		dataset.OpMove: mover.Move, dataset.OpUpdate: mover.BoundLease,
	}
}
