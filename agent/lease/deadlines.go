package lease

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
)

// Deadlines has the leases of this node that are bounded in time: until when each dataset whose home is this node may
// be open here, and the state of this node's session with control. boundedlease.go computes the deadlines, and
// extend.go sends the requests for the values that the computation needs. Its methods are safe for concurrent use.
//
// mu protects the fields from controlSession to changed, except answerCount, which is atomic. No request is sent while
// mu is held.
type Deadlines struct {
	*Leases
	Marks *Marks

	mu             sync.Mutex
	controlSession controlSession
	silent         bool // control did not answer the last renewal
	leases         map[uuid.UUID]*boundedLease
	registered     map[uuid.UUID]uint64 // the epoch at which the guard has a dataset registered, as far as known
	readProblem    string               // the last logged reason why readHomes failed, or ""
	answerCount    atomic.Uint64        // the number of registrations that the guard has answered; see SetFenceTime
	keptReasons    map[uuid.UUID]string // the last logged reason why the guard keeps a dataset that is not mounted
	changed        chan struct{}        // closed and replaced when controlSession or silent changes
	wake           chan struct{}        // wakes Run

	// enrolling is held while the set of enrolled nodes changes on disk, so that changes are written in the order in
	// which they were decided. It is locked before mu.
	enrolling sync.Mutex
}

// Session returns the time at which the last answered renewal of this node's session was sent, by the steady clock, and
// how long the session is valid from then. It returns zeros before the first answer, and always if control requires no
// session.
func (b *Deadlines) Session() (renewed, ttl time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.controlSession.session == uuid.Nil {
		return 0, 0
	}
	return b.controlSession.sent, b.controlSession.ttl
}

// AnswerCount returns the number of registrations that the guard has answered: see SetFenceTime.
func (b *Deadlines) AnswerCount() uint64 { return b.answerCount.Load() }

// Registered returns the datasets that the guard has registered, as far as known.
func (b *Deadlines) Registered() []uuid.UUID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.registered))
}

// IsBounded reports whether the lease of a dataset is bounded in time: its profile has failover auto, or an operation
// may give it such a profile at any time.
func (b *Deadlines) IsBounded(d dataset.Dataset) bool {
	return d.Profile.Failover.Auto || b.Marks.Has(d.ID)
}

// load reads the state on disk: the TTL of the last session, the addresses of the other nodes, which nodes are
// enrolled, and the marks.
func (b *Deadlines) load(ctx context.Context) error {
	ttl, err := b.Nodes.load(ctx)
	b.controlSession.ttl = ttl
	return errors.Join(err, b.loadEnrolled(ctx), b.Marks.Load(ctx))
}

// Wake makes Run run at once.
func (b *Deadlines) Wake() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// change calls f, which changes controlSession or silent, with mu locked. Then it wakes Run and the goroutines that
// wait for changed.
func (b *Deadlines) change(f func()) {
	b.mu.Lock()
	f()
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	b.Wake()
}

// setReadProblem records why readHomes failed, or "" if it succeeded, and reports whether the reason differs from the
// last one. readHomes is repeated several times in a session, and must not log the same reason each time.
func (b *Deadlines) setReadProblem(why string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.readProblem
	b.readProblem = why
	return was != why
}

// needsPromises reports whether promises of other nodes are needed, because control's answers are not sufficient:
// control did not answer the last renewal, has not answered any renewal of this process, or this node has not read yet
// which datasets it is the home of. The caller holds mu.
func (b *Deadlines) needsPromises() bool {
	return b.silent || b.controlSession.mustRead() || b.controlSession.session == uuid.Nil
}

// FenceTime returns how long a fence of a dataset takes at most, according to the guard, or 0 if that is not known.
func (b *Deadlines) FenceTime(id uuid.UUID) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.leases[id]; h != nil {
		return h.fenceTime
	}
	return 0
}

// lease returns the state of a dataset's lease, and creates it if there is none. If the state is
// of another epoch, its deadline and promises are discarded. The caller holds mu.
func (b *Deadlines) lease(d dataset.Dataset) *boundedLease {
	h := b.leases[d.ID]
	if h == nil {
		h = &boundedLease{}
		b.leases[d.ID] = h
	}
	h.setEpoch(d.Epoch)
	return h
}

// SetRegistered records that the guard has, or may have, a dataset registered at an epoch.
func (b *Deadlines) SetRegistered(id uuid.UUID, epoch uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.registered[id] = epoch
}

// SetFenceTime records how long a fence of a dataset takes at most, according to the guard. answer is the value of
// answerCount before the guard was asked. A report older than the recorded one is ignored: a status that was requested
// before the latest registration may describe an earlier registration.
//
// If fences have become slower, the deadline becomes earlier by the difference.
func (b *Deadlines) SetFenceTime(id uuid.UUID, bound time.Duration, answer uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.leases[id]; h != nil && h.answer <= answer {
		h.answer = answer
		was, _ := h.overrun(&b.controlSession)
		h.fenceTime = bound
		is, _ := h.overrun(&b.controlSession)
		h.deadline -= max(is-was, 0)
	}
}

// TTL returns the TTL of a session with control, or 0 if it is not known yet.
func (b *Deadlines) TTL() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.controlSession.ttl
}

// ClearRegistered records that the guard has forgotten a dataset.
func (b *Deadlines) ClearRegistered(id uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.registered, id)
	delete(b.keptReasons, id)
}

// RegisteredEpoch returns the epoch at which the guard has a dataset registered. registered is false if the
// guard is not known to have it.
func (b *Deadlines) RegisteredEpoch(id uuid.UUID) (epoch uint64, registered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	epoch, registered = b.registered[id]
	return epoch, registered
}

// Until extends the deadline of a dataset as far as the session and the promises allow now, and returns it. Until then
// the dataset may be open here. If the returned deadline has passed, the dataset may not be open.
func (b *Deadlines) Until(d dataset.Dataset) time.Duration {
	doubted, now := b.Trust.Err() != nil, b.Clock.Steady()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.controlSession.inconsistent = doubted
	return b.lease(d).extend(&b.controlSession, d.Followers(), b.needsPromises(), now)
}

// allowedFenceTime is boundedLease.allowedFenceTime for a dataset.
func (b *Deadlines) allowedFenceTime(d dataset.Dataset, deadline time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lease(d).allowedFenceTime(&b.controlSession, deadline)
}

// Datasets returns the datasets whose home is this node and whose lease is bounded in time, and those that the guard
// still has registered, because their profile had failover auto until now. Without a guard there are none.
func (b *Deadlines) Datasets() (list []dataset.Dataset) {
	if b.Guard == nil {
		return nil
	}
	for _, id := range b.Cache.IDs() {
		d, home := b.Cache.Dataset(id)
		if _, armed := b.RegisteredEpoch(id); home && (armed || b.IsBounded(d)) {
			list = append(list, d)
		}
	}
	return list
}

// leaseWait is how long a mount waits until control confirms which datasets this node is the
// home of.
const leaseWait = 5 * time.Second

// Wait returns the deadline until which a dataset may be open here. If there is none yet, it waits for at most
// leaseWait until control confirms that this node is the home. It fails with ErrUnavailable if control does not confirm
// it in time, and at once if control did not answer the last renewal or if its store is inconsistent. It also fails
// with the error of ctx.
func (b *Deadlines) Wait(ctx context.Context, d dataset.Dataset) (time.Duration, error) {
	late := b.Clock.After(leaseWait)
	for {
		b.mu.Lock()
		silent, moved := b.silent, b.changed
		b.mu.Unlock()
		if until := b.Until(d); until > b.Clock.Steady() {
			return until, nil
		}
		if b.Trust.Err() != nil {
			return 0, b.unconfirmedError(d, "control's store is inconsistent")
		}
		if silent {
			return 0, b.unconfirmedError(d, "control does not respond")
		}
		b.Wake()
		select {
		case <-moved:
		case <-late:
			return 0, b.unconfirmedError(d, "control has not confirmed the lease yet")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (b *Deadlines) unconfirmedError(d dataset.Dataset, why string) error {
	return dataset.Errorf(dataset.ErrUnavailable,
		"cannot open volume %s: with failover auto another node may have taken it over, and %s (it is mounted "+
			"once control confirms that node %s still has the lease)", d.Volume, why, b.NodeName)
}

// Inherit applies the deadlines that the previous process of this agent sent to the guard on this boot. Those deadlines
// were justified, so promises of other nodes may extend them: a restarted agent keeps its datasets open, however long
// its start takes and whether or not control answers. Inherit starts no new lease. An entry whose epoch differs from
// the recorded one is ignored.
func (b *Deadlines) Inherit(st guard.Status) {
	for _, e := range st.Datasets {
		d, home := b.Cache.Dataset(e.Dataset)
		if !home || !b.IsBounded(d) || e.State != guard.StateArmed || e.Boot != b.Boot || e.Epoch != d.Epoch {
			continue
		}
		b.mu.Lock()
		h := b.lease(d)
		h.deadline, h.fenceTime = max(h.deadline, e.Deadline), e.Bound
		b.mu.Unlock()
	}
}

// SetKeptReason records why the guard still has a dataset that is not mounted. It reports whether the reason differs
// from the recorded one.
func (b *Deadlines) SetKeptReason(id uuid.UUID, why string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.keptReasons[id]
	b.keptReasons[id] = why
	return was != why
}
