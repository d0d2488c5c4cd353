package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A pool on a failing disk can often be opened and listed: the kernel answers from its cache and reports the error
// only to writers. So when an operation in a pool fails with an error that a failing disk can cause, the agent probes
// the pool: it writes the pool's identity again and flushes it. If the probe fails, the pool is offline, and each
// round of the heartbeat repeats the probe until it succeeds. A pool without such errors is never probed.

// diskHealth is the state of a pool's disk.
type diskHealth struct {
	suspect bool   // an operation failed with a disk error, and the pool was not probed since
	failing string // why the last probe failed; "" if it succeeded or there was none
	closed  bool   // the pool was closed because its disk fails, and must be probed before it is served again
}

// diskErrors are the errors of a failing disk, and of a filesystem that stopped taking writes after
// one: XFS shuts down (EIO), ext4 and btrfs become read-only (EROFS).
var diskErrors = []unix.Errno{unix.EIO, unix.EROFS, unix.EUCLEAN, unix.EBADMSG, unix.ENXIO, unix.ENODEV,
	unix.EREMOTEIO, unix.ENOLINK}

// IsDiskError reports whether a failing disk may be the cause of an error. It also examines the text of the error,
// because errors of programs have no errno.
func IsDiskError(err error) bool {
	if err == nil {
		return false
	}
	for _, errno := range diskErrors {
		if errors.Is(err, errno) {
			return true
		}
	}
	text := strings.ToLower(err.Error())
	for _, errno := range diskErrors[:3] {
		if strings.Contains(text, errno.Error()) {
			return true
		}
	}
	return false
}

// failingDisk returns the error for a pool whose disk fails if err is a disk error, and err otherwise.
func failingDisk(pool string, err error) error {
	if !IsDiskError(err) {
		return err
	}
	return dataset.Errorf(dataset.ErrOffline, "%s", diskProblem(pool, err))
}

func diskProblem(pool string, err error) string {
	text := WithoutPoolName(pool, err)
	if _, why, found := strings.Cut(text, "is offline: "); found {
		text = why
	}
	return fmt.Sprintf(`its disk fails: %s (see dmesg; what to do: docs/operations.md, "A disk fails")`, text)
}

// Suspect starts a probe of a pool if err may come from its disk. If it starts none, the job is nil.
func (t *Pools) Suspect(id uuid.UUID, err error) *host.Job {
	if !IsDiskError(err) {
		return nil
	}
	open := false
	t.Change(id, func(pl *Pool) { pl.disk.suspect, open = true, pl.Storage != nil })
	if !open {
		return nil
	}
	return t.startProbe(id)
}

// Explain returns the error to report for an operation in a pool that failed with err. If err may come from the pool's
// disk, Explain waits for a probe, for AskPatience at most. If the probe fails, the returned error says only that the
// disk fails.
func (t *Pools) Explain(ctx context.Context, id uuid.UUID, err error) error {
	probe := t.Suspect(id, err)
	if probe == nil {
		return err
	}
	WaitFor(ctx, t.Clock, AskPatience, []<-chan struct{}{probe.Ended()})
	pl := t.ByID(id)
	if why := pl.DiskFailure(); why != "" {
		return OfflineError(pl.Name, why)
	}
	return err
}

// ExplainOperation is Explain for the pool in which an operation was executed.
func (t *Pools) ExplainOperation(ctx context.Context, op dataset.Operation, err error) error {
	if !IsDiskError(err) || errors.Is(err, dataset.ErrUnavailable) { // an error of control
		return err
	}
	id := uuid.Nil
	if d, known := t.Cache.Dataset(op.DatasetID); known {
		id = d.Pool
	}
	if op.DatasetRecord != nil {
		id = op.DatasetRecord.Pool
	}
	if t.ByID(id) == nil {
		return err
	}
	if cause := t.Explain(ctx, id, err); cause.Error() != err.Error() {
		return fmt.Errorf("volume %s: %w", op.Volume, cause)
	}
	return err
}

// ProbeSuspects probes the pools that are suspected, and those whose last probe failed.
func (t *Pools) ProbeSuspects() {
	for _, pl := range t.All() {
		if pl.Storage != nil && (pl.disk.suspect || pl.disk.failing != "") {
			t.startProbe(pl.ID)
		}
	}
}

func (t *Pools) startProbe(id uuid.UUID) *host.Job {
	return t.Jobs.Start("probe/"+id.String(), func(ctx context.Context, _ *host.Job) error {
		t.probe(ctx, id)
		return nil
	})
}

// probe writes the identity of a pool again and records whether the disk accepted it. It does not write to a
// quarantined pool. If the disk hangs, probe stops waiting, and the pool is offline because it hangs.
func (t *Pools) probe(ctx context.Context, id uuid.UUID) {
	written := false
	var failed error
	err := t.Ask(ctx, id, func(b backends.Pool) {
		// Wait while this host raises the generation: the probe writes the identity, and could undo the raise.
		unlock, err := t.identities.Lock(ctx, id, "probe of pool "+t.Name(id))
		if err != nil {
			return // the agent is stopping
		}
		defer unlock()
		if written = t.ByID(id).QuarantineReason() == ""; !written {
			return
		}
		g, err := b.Generation()
		if t.ByID(id).Record.Share != uuid.Nil {
			g++ // another host of the share may raise it meanwhile: write a value that does not undo that raise
		}
		if err == nil {
			err = b.Raise(g)
		}
		failed = err
	})
	if err == nil && written {
		t.recordProbe(ctx, id, failed)
	}
}

// recordProbe records the outcome of a probe, and logs when the pool goes offline or is online again.
func (t *Pools) recordProbe(ctx context.Context, id uuid.UUID, err error) {
	before, now, name := "", "", t.Name(id)
	t.Change(id, func(pl *Pool) {
		before = pl.disk.failing
		switch {
		case IsDiskError(err):
			now = diskProblem(name, err)
		case err != nil && before != "": // for example, the operator has unmounted its filesystem
			now = WithoutPoolName(name, err)
		}
		pl.disk.failing, pl.disk.suspect = now, false
		pl.recovered = pl.recovered || before != "" && now == ""
	})
	log := t.Log.WithField("pool", name)
	switch {
	case now != "" && before == "":
		log.Error("pool is offline: " + now)
	case now == "" && before != "":
		log.Info("pool is online again: its disk works")
	}
	if (now == "") != (before == "") {
		t.News.Soon()
	}
	if now != "" {
		t.reopen(ctx, id, now)
	}
}

// reopen closes a pool whose disk fails, so that the next heartbeats open it again. A filesystem that stopped taking
// writes works again only after a new mount. reopen acts only if Drover mounts the pool's filesystem (an image,
// devices) and no volume of the pool is mounted. If the operator mounted the filesystem, the operator must mount it
// again.
func (t *Pools) reopen(ctx context.Context, id uuid.UUID, why string) {
	if !t.ByID(id).Record.hasOwnMount() {
		return
	}
	for _, ds := range t.Uses.InUse() {
		if d, known := t.Cache.Dataset(ds); !known || d.Pool == id {
			return
		}
	}
	b, err := t.Detach(ctx, id, why)
	if err != nil {
		return // it hangs, or was closed meanwhile; both are already logged
	}
	t.Change(id, func(pl *Pool) { pl.disk = diskHealth{closed: true} })
	if err := b.Close(); err != nil {
		t.Log.WithError(err).WithField("pool", t.Name(id)).Warn("pool with a failing disk was not closed cleanly")
	}
}
