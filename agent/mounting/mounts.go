package mounting

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/process"
)

// Mounts mounts the volumes of this host. Its methods are safe for concurrent use.
type Mounts struct {
	*host.Host
	Pools    *pool.Pools
	Leases   *lease.Leases
	Throttle *throttle.Throttler
	Freezer  []string // command line of a program that runs freezer.Serve; if empty, nothing is frozen

	Engines      *Engines
	Uses         *UseTable
	Holders      *Holders
	LostWrites   *Watcher
	Disks        *Disks
	Quiescer     *Quiescer
	SharedMounts *SharedMounts
	Reservations *Reservations
	Unmounter    *Unmounter
	Verifier     *Verifier
	Resolver     *Resolver
	Spellings    *host.Spellings

	// Set by Connect.
	moves  Moves
	copies Copies
	usages Usages
}

// Moves moves datasets between nodes.
type Moves interface {
	// Bring makes this node the home of a dataset.
	Bring(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error)
	// InstallArrived installs the data that a move has brought here, if it is not installed yet: the agent may have
	// been killed before. Idempotent. The dataset's lock is held.
	InstallArrived(ctx context.Context, d dataset.Dataset) error
	// AnswerIfRecalled is called after a use of a dataset has ended. A move may be waiting for it. The dataset's lock
	// is held.
	AnswerIfRecalled(id uuid.UUID)
}

// Copies are the copies of datasets on this node.
type Copies interface {
	ReconcileSoon(id uuid.UUID) // applies a decision about a copy that had to wait until the dataset was unmounted
}

// Usages records how full datasets are.
type Usages interface {
	// BeforeUnmount is called before a dataset is unmounted, while its filesystem can still be read.
	BeforeUnmount(d dataset.Dataset)
}

// New returns the Mounts of a host. freezer is the command line of a program that runs freezer.Serve; if it is empty,
// nothing is frozen. The caller calls Connect.
func New(h *host.Host, p *pool.Pools, l *lease.Leases, t *throttle.Throttler, freezer []string) *Mounts {
	m := &Mounts{Host: h, Pools: p, Leases: l, Throttle: t, Freezer: freezer}
	m.Engines = &Engines{db: h.DB, boot: h.Boot, activated: map[process.Identity]bool{}}
	m.Uses = &UseTable{Host: h, records: map[uuid.UUID]*Record{}, idleSince: map[uuid.UUID]time.Duration{}}
	m.Holders = &Holders{Mounts: m, ReadForeign: mount.ReadForeign, Files: inuse.FindOpenFiles}
	m.LostWrites = &Watcher{
		Mounts:   m,
		flushing: make(chan struct{}, maxLossFlushes),
		losses:   map[uuid.UUID]Loss{},
		pools:    map[uuid.UUID]poolSpace{},
		looks:    map[uuid.UUID]look{},
		roots:    map[uuid.UUID]*os.File{},
		sessions: map[uuid.UUID]session{},
		unsaved:  map[uuid.UUID]bool{},
	}
	m.Disks = &Disks{Mounts: m}
	m.Quiescer = &Quiescer{m}
	m.SharedMounts = &SharedMounts{
		Mounts: m, Table: host.NewTable[SharedMount](h.DB, "guests/"), refused: map[uuid.UUID]string{},
	}
	m.Reservations = &Reservations{Host: h, held: map[uuid.UUID]reservation{}}
	m.Unmounter = &Unmounter{m}
	m.Verifier = &Verifier{Mounts: m, started: h.Clock.Now(), startedSteady: h.Clock.Steady()}
	m.Spellings = &host.Spellings{Host: h}
	m.Resolver = &Resolver{Mounts: m}
	return m
}

// Connect sets the components that are made later. It is called before the agent starts.
func (m *Mounts) Connect(mv Moves, c Copies, u Usages) {
	m.moves, m.copies, m.usages = mv, c, u
}

// Load reads the state on disk. The cache must be loaded.
func (m *Mounts) Load(ctx context.Context) error {
	shared := m.SharedMounts.Table.Load(ctx)
	return errors.Join(shared, m.Spellings.Load(ctx), m.Engines.Load(ctx), m.LostWrites.Load(ctx), m.Verifier.Load(ctx))
}
