// Package host has what all components of one agent share: the identity of this node, its database and cache, jobs, the
// locks of datasets, news about changes, findings for drover doctor, the programs that profiles may name, and rules
// that several components need, such as whether control may have executed a request that failed (InDoubt). The fields
// of Host do not change once agent.New has returned, and the services in them protect their own state.
package host

import (
	"cmp"
	"context"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
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

	Control api.Service
	DB      records.DB     // the agent's own database
	Cache   *records.Cache // the records of this node's datasets and copies
	Locks   Set            // one for each dataset
	Jobs    *Runner
	News    *News
	Trust   *Trust // whether control's store is trusted
	Clock   clock.Clock
	Log     logrus.FieldLogger
	Timing  Timing
	Ctx     context.Context // ends when the agent stops
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
