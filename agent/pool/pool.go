package pool

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Pool is the state of one pool of this node at a moment. A Pool in the table is not modified: Pools.Change and the
// other methods of the table replace it by a modified copy. So a *Pool can be read without a lock, but does not show
// later changes.
type Pool struct {
	dataset.Pool
	Record         Record
	Storage        backends.Pool // nil while offline
	OfflineReason  string        // why the pool is offline
	Gone           bool          // the pool was removed; it stays in the table for callers that still use its UUID
	RemovalProblem string        // the last logged reason why the pool cannot be removed yet
	Opening        *opening      // not nil while the pool is being opened
	Question       *question     // the present request to the open pool
	HangReason     string        // why the pool is offline although it is open: it does not answer in time
	disk           diskHealth    // whether its disk takes writes: see prober.go
	recovered      bool          // it answers again, or its disk works again, and Retry has not reported that yet
	warned         []string      // its warnings when it was last asked
	LockProblem    string        // why it is not locked against other drover processes, or "" if it is

	Filesystem        uint64        // st_dev of the filesystem that Drover does not mount for it alone, or 0
	Memory            string        // the kind of memory that the pool is in, such as tmpfs; "" for none
	nodeName          string        // the name of its node
	Generation        uint64        // the generation that is stored in the pool; see QuarantineReason
	AwaitsGeneration  bool          // opened late; not served until control was asked for its generation
	GenerationKnown   bool          // control has reported its generation since drover opened it
	RaiseSoon         bool          // its generation must be raised soon
	UsedSinceRaise    bool          // something in it is in use, or was changed, since the last raise
	changedSinceRaise bool          // changed since the last raise; the next one is also reported to the store
	Raising           bool          // its generation is being raised
	RaiseUnreported   bool          // its generation was raised, and control's store does not have it yet
	RaisedAt          time.Duration // when it was last raised or opened, by the steady clock
}

// setInfo records those properties of an opened pool that do not change.
func (p *Pool) setInfo(can dataset.Capabilities, is backends.Info) {
	p.Capabilities, p.AcceptedFilesystems, p.MissingFeatures = can, is.CopyFilesystems, is.Missing
	p.Note, p.Share = is.Note, is.Share
	var st unix.Stat_t
	if !p.Record.hasOwnMount() && unix.Stat(is.Path, &st) == nil {
		p.Filesystem = st.Dev
	}
	if table, err := mount.Table(); err == nil {
		p.Memory = table.InMemory(is.Path)
	}
	if p.Memory != "" { // before the other notes, because the user who makes a pool must see it
		p.Note = p.MemoryWarning() + "; " + p.Note
	}
	if p.Share != uuid.Nil {
		p.Reach = dataset.ReachCluster
	}
}

// MemoryWarning returns the warning for a pool in memory.
func (p *Pool) MemoryWarning() string {
	return "it is on " + p.Memory + ": its data is in memory and is lost at a reboot"
}

// checkShare fails if a pool is on another share than the one on which it was made. Control would otherwise direct
// other nodes to volumes that they do not find.
func (p *Pool) checkShare(is backends.Info) error {
	if p.Record.Share == uuid.Nil || p.Record.Share == is.Share {
		return nil
	}
	return dataset.Errorf(dataset.ErrOffline,
		"%s: share %s is mounted, and the pool was created on share %s (mount that one, or restore its "+
			"share.json)", is.Path, is.Share, p.Record.Share)
}

// CheckNotLeaving fails with ErrConflict while a pool is being removed.
func (p *Pool) CheckNotLeaving() error {
	if p.Record.Leaving == NotLeaving {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"pool %s at %s is being removed: it can be adopted after that (drover doctor says what delays "+
			"it)", p.Name, p.Record.AdoptPath())
}

// QuarantineReason returns why the pool is quarantined, or "" if it is not. An open pool is quarantined while its
// stored generation is lower than the highest one that this node has heard of: its disk was restored from an older
// backup.
func (p *Pool) QuarantineReason() string {
	if p.Storage == nil || p.Generation >= p.Record.Generation {
		return ""
	}
	return fmt.Sprintf("its generation is %d and was %d: its disk was restored from an older state (bring back "+
		"the newer disk, or accept the older data: drover pool accept %s, on node %s)",
		p.Generation, p.Record.Generation, p.Name, p.nodeName)
}

// checkQuarantine fails with dataset.ErrOffline while the pool is quarantined.
func (p *Pool) checkQuarantine() error {
	if why := p.QuarantineReason(); why != "" {
		return dataset.Errorf(dataset.ErrOffline, "pool %s is held: %s", p.Name, why)
	}
	return nil
}

// CheckServed fails with dataset.ErrOffline if the pool is not served: it is being removed, offline, hanging, on a
// failing disk, quarantined, or control is still being asked for its generation.
func (p *Pool) CheckServed() error {
	if p.Record.Leaving != NotLeaving {
		return dataset.Errorf(dataset.ErrOffline, "pool %s is being removed", p.Name)
	}
	if p.Storage == nil {
		return OfflineError(p.Name, p.OfflineReason)
	}
	if p.HangReason != "" {
		return OfflineError(p.Name, p.HangReason)
	}
	if p.disk.failing != "" {
		return OfflineError(p.Name, p.disk.failing)
	}
	if p.AwaitsGeneration {
		return OfflineError(p.Name, "it was opened just now, and its generation is being compared with control's "+
			"(try again)")
	}
	return p.checkQuarantine()
}

// IsDue reports whether the generation of the pool must be raised.
func (p *Pool) IsDue(now time.Duration) bool {
	due := p.RaiseSoon || p.UsedSinceRaise && now-p.RaisedAt >= RaiseEvery
	return due && !p.Raising && p.CheckServed() == nil
}

// DiskFailure returns why a pool is offline, if that is because its disk fails.
func (p *Pool) DiskFailure() string {
	if p.disk.closed {
		return p.OfflineReason
	}
	return p.disk.failing
}
