package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// diskHealth is the state of a pool's disk.
type diskHealth struct {
	suspect bool   // something in the pool failed as on a failing disk, and the pool was not probed since
	failing string // why the last probe failed; empty: it succeeded, or there was none
	closed  bool   // the pool was closed because its disk fails: it is probed before it serves again
}

// diskErrors are the errors of a failing disk, and of a filesystem that stopped taking writes after
// one: XFS shuts down (EIO), ext4 and btrfs become read-only (EROFS).
var diskErrors = []unix.Errno{unix.EIO, unix.EROFS, unix.EUCLEAN, unix.EBADMSG, unix.ENXIO, unix.ENODEV,
	unix.EREMOTEIO, unix.ENOLINK}

// IsDiskError reports whether a failing disk may be the cause of an error. The messages of programs
// count too, as they carry no errno.
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

// failingDisk returns the error for a pool whose disk fails, if err says so, and err otherwise.
func failingDisk(pool string, err error) error {
	if !IsDiskError(err) {
		return err
	}
	return dataset.Errorf(dataset.ErrOffline, "%s", diskFails(pool, err))
}

func diskFails(pool string, err error) string {
	text := Reason(pool, err)
	if _, why, found := strings.Cut(text, "is offline: "); found {
		text = why
	}
	return fmt.Sprintf("its disk fails: %s (look at dmesg; what to do: docs/operations.md, \"A disk fails\")", text)
}

// Suspect starts a probe of a pool if err may come from its disk. The job is nil if there is none.
func (p *Pools) Suspect(id uuid.UUID, err error) *jobs.Job {
	if !IsDiskError(err) {
		return nil
	}
	open := false
	p.Change(id, func(op *Pool) { op.disk.suspect, open = true, op.Storage != nil })
	if !open {
		return nil
	}
	return p.startProbe(id)
}

// Blame returns the error of an operation in a pool that failed with err. If err may come from the
// pool's disk, it waits for a probe, and if the disk fails the error says only that.
func (p *Pools) Blame(ctx context.Context, id uuid.UUID, err error) error {
	probe := p.Suspect(id, err)
	if probe == nil {
		return err
	}
	WaitFor(ctx, p.Clock, AskPatience, []<-chan struct{}{probe.Ended()})
	op := p.One(id)
	if why := op.DiskFailure(); why != "" {
		return Offline(op.Name, why)
	}
	return err
}

// DiskFailure returns why a pool is offline, if that is because its disk fails.
func (op *Pool) DiskFailure() string {
	if op.disk.closed {
		return op.OfflineReason
	}
	return op.disk.failing
}

// ProbeSuspects probes the pools that are suspected, and those whose last probe failed.
func (p *Pools) ProbeSuspects() {
	for _, op := range p.All() {
		if op.Storage != nil && (op.disk.suspect || op.disk.failing != "") {
			p.startProbe(op.ID)
		}
	}
}

func (p *Pools) startProbe(id uuid.UUID) *jobs.Job {
	return p.Jobs.Start("probe/"+id.String(), func(ctx context.Context, _ *jobs.Job) error {
		p.probe(ctx, id)
		return nil
	})
}

// probe writes the identity of a pool as it is and records whether the disk took it. A pool that is
// held is not written to. If the disk hangs, the wait ends and the write does not: the pool is offline
// as one that hangs.
func (p *Pools) probe(ctx context.Context, id uuid.UUID) {
	written := false
	var failed error
	err := p.Ask(ctx, id, func(b backends.Pool) {
		// Not while this host raises the generation: the old one would be written over the new one.
		unlock, err := p.identities.Lock(ctx, id, "probe of pool "+p.Name(id))
		if err != nil {
			return // drover stops
		}
		defer unlock()
		if written = p.One(id).Held() == ""; !written {
			return
		}
		g, err := b.Generation()
		if p.One(id).Record.Share != uuid.Nil {
			g++ // other hosts raise it too, without this lock: their value is never lowered
		}
		if err == nil {
			err = b.Raise(g)
		}
		failed = err
	})
	if err == nil && written {
		p.probed(ctx, id, failed)
	}
}

// probed records the outcome of a probe, and logs when the pool goes offline and comes back.
func (p *Pools) probed(ctx context.Context, id uuid.UUID, err error) {
	before, now, name := "", "", p.Name(id)
	p.Change(id, func(op *Pool) {
		before = op.disk.failing
		switch {
		case IsDiskError(err):
			now = diskFails(name, err)
		case err != nil && before != "": // such as that the operator has unmounted its filesystem
			now = Reason(name, err)
		}
		op.disk.failing, op.disk.suspect = now, false
		op.back = op.back || before != "" && now == ""
	})
	log := p.Log.WithField("pool", name)
	switch {
	case now != "" && before == "":
		log.Error("pool is offline: " + now)
	case now == "" && before != "":
		log.Info("pool is online again: its disk works")
	}
	if (now == "") != (before == "") {
		p.News.Soon()
	}
	if now != "" {
		p.reopen(ctx, id, now)
	}
}

// reopen closes a pool whose disk fails if Drover mounts the pool's filesystem (an image, devices)
// and no volume of the pool is mounted. A filesystem that stopped taking writes works again only
// after a new mount, which the next rounds make when they open the pool. A filesystem that the operator
// mounted must be mounted again by the operator.
func (p *Pools) reopen(ctx context.Context, id uuid.UUID, why string) {
	if !p.One(id).Record.apart() {
		return
	}
	for _, ds := range p.Mounts.InUse() {
		if d, known := p.Cache.Dataset(ds); !known || d.Pool == id {
			return
		}
	}
	b, err := p.Eject(ctx, id, why)
	if err != nil {
		return // it hangs, or was closed meanwhile: both are logged where they happen
	}
	p.Change(id, func(op *Pool) { op.disk = diskHealth{closed: true} })
	if err := b.Close(); err != nil {
		p.Log.WithError(err).WithField("pool", p.Name(id)).Warn("pool with a failing disk was not closed cleanly")
	}
}

// prove probes a pool that is being opened after it was closed because its disk failed.
func (op *Pool) prove(b backends.Pool) error {
	if !op.disk.closed {
		return nil
	}
	return b.Raise(op.Generation)
}
