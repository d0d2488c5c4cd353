// Package host has what all components of one agent share: the identity of this node, its database and cache, jobs, the
// locks of datasets, whether control accepts this node (Membership), whether its store is trusted (Trust), news about
// changes, findings for drover doctor, the programs that profiles may name, and rules that several components need,
// such as whether control may have executed a request that failed (InDoubt). The fields of Host do not change once
// agent.New has returned, and the services in them protect their own state.
//
// The agent has two stores of records: DB is its database on disk, and Cache has the records of datasets, copies and
// spellings in memory. DB only reads and writes values. Each key belongs to one component, which writes it; the comment
// of DB lists the keys. There are three exceptions. One is volumes/, the records of the datasets whose home is this
// node: Cache writes those that have changed, and packages mounting and move also write or remove single ones. The
// others are pools/, which package pooladmin writes too, and recovered, which package mounting removes. The mutex of
// Cache protects the records in memory, and each write of DB is one transaction. A new key of the database belongs in
// its component, with a line in the comment of DB. File spellings.go decides which volumes docker volume ls lists, and
// package operation what it shows of them.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/requestid"
)

// Host is one agent's host. agent.New sets the fields: controlsync.Identity sets NodeID and Recovered when it reads
// the agent's database. After that they do not change. All of them are safe for concurrent use.
type Host struct {
	NodeID      uuid.UUID
	Incarnation uuid.UUID // of this start of the agent
	NodeName    string
	Boot        string // the UUID of this boot of the kernel
	// Recovered is true after the agent's database was lost, at each start until control has reported the datasets that
	// are mounted here.
	Recovered bool
	Root      string // absolute, without symbolic links: mount points and images are below it

	Control    api.Service
	DB         DB     // the agent's own database
	Cache      *Cache // the records of this node's datasets and copies
	Locks      Set    // one for each dataset
	Jobs       *Runner
	News       *News
	Trust      *Trust      // whether control's store is trusted
	Membership *Membership // whether control accepts this node
	Clock      clock.Clock
	Log        logrus.FieldLogger
	Timing     Timing
	Ctx        context.Context // ends when the agent stops
}

// RecoveredKey is a key in the agent's database. It exists from a loss of the database until control has reported the
// datasets that are mounted here.
const RecoveredKey = "recovered"

// RecordAfter is how long work takes at most without being recorded as an operation.
const RecordAfter = 2 * time.Second

// Timing has the agent's intervals and time limits. Zero values mean the defaults.
type Timing struct {
	Heartbeat time.Duration // between two heartbeats (10 s)
	Retry     time.Duration // before an unreachable control replica or node is asked again (1 s)
	InUseWait time.Duration // how long a move waits while its home has the volume in use (30 s)
	MoveWait  time.Duration // how long a mount waits for a move before it reports the move as pending (50 s)
}

// OrDefault returns the limits with zero values replaced by the defaults.
func (l Timing) OrDefault() Timing {
	return Timing{
		Heartbeat: cmp.Or(l.Heartbeat, 10*time.Second),
		Retry:     cmp.Or(l.Retry, time.Second),
		InUseWait: cmp.Or(l.InUseWait, 30*time.Second),
		MoveWait:  cmp.Or(l.MoveWait, 50*time.Second),
	}
}

// MountRoot is the folder with the mount points of all datasets.
func (h *Host) MountRoot() string { return filepath.Join(h.Root, "mnt") }

// MountPath is the mount point of a dataset. The path contains the dataset's UUID, so that a user can copy the first
// eight characters of the UUID into a spec such as db@snapshot-1a2b3c4d.
func (h *Host) MountPath(id uuid.UUID) string { return filepath.Join(h.MountRoot(), id.String()) }

// LogOf returns a log entry for a dataset, with the field names that are used everywhere. It has the ID of the request
// that ctx belongs to, if there is one.
func (h *Host) LogOf(ctx context.Context, d dataset.Dataset) *logrus.Entry {
	return requestid.Log(ctx, h.Log).WithFields(logrus.Fields{"volume": d.Volume, "dataset": d.ID})
}

// FetchDataset asks control for the present record of a dataset. If the home is this node, FetchDataset also applies
// the record to the cache, unless the dataset has left this node since. It fails with ErrNotFound if control has no
// record.
func (h *Host) FetchDataset(ctx context.Context, id uuid.UUID) (dataset.Dataset, error) {
	v, err := h.Control.Volume(ctx, id.String())
	if err == nil && v.ID != id {
		err = dataset.Errorf(dataset.ErrNotFound, "no such dataset: %s", id)
	}
	if err == nil && v.Home == h.NodeID && !h.Cache.HasLeftSince(v.Dataset) {
		h.Cache.Apply(v.Dataset, 0)
	}
	return v.Dataset, err
}

// Recorded returns all datasets of this node as control has them now. If control's store is inconsistent, halted is
// the reason.
func (h *Host) Recorded(ctx context.Context) (
	known map[uuid.UUID]dataset.Dataset, halted string, err error,
) {
	answer, err := h.Control.Sync(ctx, h.NodeID, 0, 0)
	if err != nil {
		return nil, "", err
	}
	out := map[uuid.UUID]dataset.Dataset{}
	for _, d := range answer.Datasets {
		out[d.ID] = d.Dataset
	}
	return out, answer.Halted, nil
}

// LongPoll is how long one request that waits for a change stays open.
const LongPoll = 25 * time.Second

// UntilAnswered repeats a request to control until control answers it.
func UntilAnswered[T any](ctx context.Context, h *Host, ask func() (T, error)) (T, error) {
	for {
		out, err := ask()
		if !errors.Is(err, dataset.ErrUnavailable) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-h.Clock.After(h.Timing.Retry):
		}
	}
}

// InDoubt reports whether control may have executed a request that failed with err. For example, if the disk of a store
// is full, the flush of a commit fails, but the store may find the commit on its disk after a restart.
func InDoubt(err error) bool {
	return errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, dataset.ErrNoSpace) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, dataset.ErrInternal) || dataset.KindOf(err) == dataset.ErrInternal
}

// IsMountPoint asks the kernel whether path is the root of a mount. If path does not exist, it is not.
func IsMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_TYPE, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if errors.Is(err, unix.EIO) { // an XFS that was shut down answers EIO
		table, terr := mount.Table()
		if terr == nil && table.At(path) != nil {
			return true, nil
		}
		err = errors.Join(err, terr)
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
