package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Pull says what to transfer, and where.
type Pull struct {
	Peer    string          // https://HOST:PORT of the agent that has it
	Dataset dataset.Dataset // the record for a new copy
	Into    backends.Pool   // the pool that has or gets the copy; a backends.Copier
	// Want is a transfer snapshot to transfer in addition to all others. If uuid.Nil, there is none.
	Want uuid.UUID
	// Manifest describes what Want must contain. It is from the home that relinquished the dataset. If nil, Want is not
	// checked.
	Manifest *dataset.Manifest
	// If Bases is true, Pull also transfers the snapshots that other copies are based on, if possible, because this
	// node becomes their home.
	Bases bool
	// If Shared is true, Pull also transfers the snapshots that all replicas must have, if possible.
	Shared bool
	// Progress is called from one goroutine, at irregular intervals, with two approximate numbers: the bytes that were
	// transferred, and all bytes. May be nil.
	Progress backends.Progress
}

// PullResult is the result of a Pull.
type PullResult struct {
	Snapshots     []dataset.Manifest // in the order of arrival, without those that existed before
	Gone          []uuid.UUID        // snapshots that the copy has and the source no longer has
	ReceivedBytes int64              // number of bytes received from the network
}

// Pull transfers all snapshots that a copy lacks, and the snapshot Want. It begins with the oldest, and transfers
// each as a difference to a snapshot that has arrived. After an interruption it resumes after the received bytes. The
// caller makes sure that nothing else changes the copy meanwhile. Idempotent: a repeated call transfers only new
// snapshots.
//
// Pull returns these errors of package dataset:
//
//   - ErrUnsupported if the peer's pool cannot send snapshots, or Into cannot store copies (use PullFiles then),
//   - ErrOffline if the peer was unreachable for long,
//   - ErrCorrupt if the peer has sent, several times, other data than it announced, or if the data differs from the
//     manifest,
//   - ErrNotFound if the peer has no such dataset or snapshot,
//   - ErrForbidden if this node may not have the dataset,
//   - ErrNoSpace if the pool is nearly full.
//
// After any of them, and after ctx has ended, the copy keeps the data that has arrived.
func (c *Client) Pull(ctx context.Context, p Pull) (out PullResult, err error) {
	into, ok := p.Into.(backends.Copier)
	if !ok {
		return out, dataset.Errorf(dataset.ErrUnsupported, "the pool cannot store copies: only files can be sent to it")
	}
	r := &pullRun{Client: c, Pull: p, into: into, out: &out}
	if err := r.run(ctx); err != nil {
		return out, fmt.Errorf("fetch dataset %s from %s: %w", p.Dataset.ID, p.Peer, err)
	}
	return out, nil
}

// pullRun is one run of Pull.
type pullRun struct {
	*Client
	Pull
	into   backends.Copier
	out    *PullResult
	before int64 // bytes of the finished steps
	total  int64
	bases  []uuid.UUID // planned only because other copies are based on them, or because all replicas must have them
	once   loggedOnce
}

// maxPlans bounds how often a plan is made again because a snapshot that it used was removed.
const maxPlans = 5

func (r *pullRun) run(ctx context.Context) error {
	for try := 1; ; try++ {
		err := r.runPlan(ctx)
		if !errors.Is(err, errReplan) || try == maxPlans {
			return err
		}
	}
}

// errReplan says that the source no longer has a base or a snapshot of the plan.
var errReplan = errors.New("a planned snapshot no longer exists")

func (r *pullRun) runPlan(ctx context.Context) error {
	have, begun, err := r.have(ctx)
	if err != nil {
		return err
	}
	var plan Plan
	err = r.retry(ctx, func() (bool, error) {
		plan, err = r.Plan(ctx, r.Peer, r.Dataset.ID, have, r.Want, r.extraQuery(begun))
		return false, err
	})
	if err != nil {
		return err
	}
	r.out.Gone, r.before, r.total = plan.Gone, 0, plan.Bytes()
	for _, step := range plan.Steps {
		if step.Snapshot.Dataset != r.Dataset.ID {
			return dataset.Errorf(dataset.ErrCorrupt, "the peer has snapshot %s under the UUID of another dataset",
				step.Snapshot.ID)
		}
		if r.Manifest != nil && step.Snapshot.ID == r.Manifest.Snapshot {
			step.Base = r.Manifest.Base
		}
		isBase := step.Snapshot.Kind == dataset.SnapshotTransfer && step.Snapshot.ID != r.Want &&
			step.Snapshot.ID != begun
		if isBase {
			r.bases = append(r.bases, step.Snapshot.ID)
		}
		if err := r.transferStep(ctx, step); err != nil {
			err = fmt.Errorf("snapshot %s: %w", step.Snapshot.ID, err)
			if !r.canDropBases(ctx, isBase, err) {
				return err
			}
			if err := r.dropBases(ctx, err); err != nil {
				return err
			}
			return r.runPlan(ctx)
		}
		r.before += step.Bytes
	}
	return r.checkWanted(ctx)
}

// extraQuery returns the query that asks for additional snapshots.
func (r *pullRun) extraQuery(begun uuid.UUID) url.Values {
	q := url.Values{}
	if r.Bases {
		q.Set("bases", "true")
	}
	if r.Shared {
		q.Set("shared", "true")
	}
	if begun != uuid.Nil && r.Manifest == nil { // with a manifest, writers are blocked: copy only what is needed
		q.Set("begun", begun.String())
	}
	return q
}

// canDropBases reports whether a failed transfer can continue without the snapshots in r.bases.
// It can if one of these snapshots caused the failure, or used too much space. It cannot if the peer is unreachable,
// because then everything else fails as well.
func (r *pullRun) canDropBases(ctx context.Context, isBase bool, err error) bool {
	if len(r.bases) == 0 || ctx.Err() != nil || errors.Is(err, dataset.ErrOffline) {
		return false
	}
	return isBase || errors.Is(err, dataset.ErrNoSpace)
}

// dropBases removes the snapshots in r.bases, so that the transfer continues without them. The other copies that are
// based on them must then be sent again from the beginning.
func (r *pullRun) dropBases(ctx context.Context, why error) error {
	if r.Log != nil {
		r.Log.WithError(why).WithField("dataset",
			r.Dataset.ID).Warn("snapshots that other copies need are not included: once this node is the home, " +
			"their next refresh transfers all data")
	}
	for _, id := range r.bases {
		if err := r.Into.DeleteSnapshot(ctx, r.Dataset.ID, id); err != nil {
			return err
		}
	}
	r.Bases, r.Shared, r.bases = false, false, nil
	return nil
}

// have lists the snapshots of the copy. begun is the snapshot that was transferred in part, or uuid.Nil. It is
// completed first, and then the later changes are transferred. That usually takes fewer bytes than another snapshot.
func (r *pullRun) have(ctx context.Context) (ids []uuid.UUID, begun uuid.UUID, err error) {
	e, err := r.Into.Stat(ctx, r.Dataset.ID)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return nil, begun, err
	}
	for _, s := range e.Snapshots {
		ids = append(ids, s.ID)
	}
	if e.Partial != nil && e.Partial.Bytes > 0 {
		begun = e.Partial.Snapshot
	}
	return ids, begun, nil
}

// checkWanted checks that the requested snapshot has arrived and agrees with the manifest.
func (r *pullRun) checkWanted(ctx context.Context) error {
	if r.Want == uuid.Nil {
		return nil
	}
	got, err := r.into.Received(ctx, r.Dataset.ID, r.Want)
	switch m := r.Manifest; {
	case err != nil:
		return err
	case !got.Complete:
		return dataset.Errorf(dataset.ErrNotFound, "the peer has no snapshot %s", r.Want)
	case m == nil:
		return nil
	case m.Snapshot != r.Want || got.Stream.Base != m.Base || got.Stream.Bytes != m.Bytes || got.Stream.Sum != m.SHA256:
		return dataset.Errorf(dataset.ErrCorrupt,
			"snapshot %s: received %d bytes with checksum %.12s, and its home gave up %d with %.12s of snapshot %s",
			r.Want, got.Stream.Bytes, got.Stream.Sum, m.Bytes, m.SHA256, m.Snapshot)
	}
	return nil
}

// maxAttempts is how often a snapshot, or a tree of files, is transferred if the stream is wrong each time. The last
// attempt requests a complete stream of a snapshot, unless a manifest fixes its base.
const maxAttempts = 3

func (r *pullRun) transferStep(ctx context.Context, step Step) error {
	wrong := 0 // attempts that received a wrong stream
	return r.retry(ctx, func() (bool, error) {
		have, err := r.into.Received(ctx, r.Dataset.ID, step.Snapshot.ID)
		if err != nil || have.Complete {
			return false, err
		}
		d := backends.Delivery{Dataset: r.Dataset, Snapshot: step.Snapshot, Base: step.Base}
		fixed := r.Manifest != nil && step.Snapshot.ID == r.Manifest.Snapshot
		if have.Bytes > 0 && (!fixed || have.Base == step.Base) {
			d.From, d.Base = have.Bytes, have.Base
		}
		got, err := r.receive(ctx, d)
		switch {
		case err == nil:
			r.out.Snapshots = append(r.out.Snapshots, manifest(step.Snapshot, got))
			return false, nil
		case d.From > 0 && (isKind(err, dataset.ErrInvalid) || isKind(err, dataset.ErrNotFound)):
			// The copy no longer has that base, or has fewer bytes than expected, or the peer lacks the snapshot.
			if err := r.Into.DeleteSnapshot(ctx, r.Dataset.ID, step.Snapshot.ID); err != nil {
				return false, err
			}
			return true, connectionError{err}
		case isKind(err, dataset.ErrNotFound):
			return false, fmt.Errorf("%w: %w", errReplan, err)
		case isKind(err, dataset.ErrCorrupt) && !isPeer(err):
			if wrong++; wrong < maxAttempts {
				r.logViolation(err)
				// The base may have changed.
				if !fixed && (errors.Is(err, backends.ErrBaseDiffers) || wrong == maxAttempts-1) {
					step.Base = uuid.Nil
				}
				return true, connectionError{err}
			}
			return false, err
		}
		now, rErr := r.into.Received(ctx, r.Dataset.ID, step.Snapshot.ID)
		return rErr == nil && now.Bytes > d.From, err
	})
}

// receive reads one stream, or the rest of it, into the pool.
func (r *pullRun) receive(ctx context.Context, d backends.Delivery) (backends.Stream, error) {
	q := url.Values{}
	if d.Base != uuid.Nil {
		q.Set("base", d.Base.String())
	}
	if d.From > 0 {
		q.Set("from", strconv.FormatInt(d.From, 10))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := r.open(ctx, http.MethodGet, address(r.Peer, d.Dataset.ID, q, "snapshots", d.Snapshot.ID.String(),
		"stream"))
	if err != nil {
		return backends.Stream{}, err
	}
	in := &frameReader{r: &limitedReader{ctx: ctx, r: body, limit: r.Limit}}
	defer in.close()
	pipe := readAhead(in)
	got, err := r.into.Receive(ctx, d, pipe, func(done, _ int64) {
		if r.Progress != nil {
			r.Progress(min(r.before+done, r.total), r.total)
		}
	})
	cancel() // the bytes that were read ahead are useless after a failure of the pool
	_ = body.Close()
	pipe.close()
	r.out.ReceivedBytes += in.read
	return got, r.classify(pipe.err, err)
}

// classify classifies the error of a transfer. A problem that the peer reported is returned as *peerError, a failure of
// the connection as connectionError. Every other error comes from the pool, and is returned as it is.
func (r *pullRun) classify(read, err error) error {
	var theirs *peerError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &theirs):
		return theirs
	case read != nil && !errors.Is(read, io.EOF):
		if errors.Is(read, errFrame) {
			r.logViolation(read)
		}
		return connectionError{err}
	case errors.Is(err, io.ErrUnexpectedEOF): // the answer ended well, but within the stream
		r.logViolation(err)
		return connectionError{err}
	}
	return err
}

func (r *pullRun) logViolation(err error) { r.once.log(r.Client, r.Dataset.ID, r.Peer, err) }

// loggedOnce logs once that a peer violates the protocol.
type loggedOnce struct{ done bool }

func (o *loggedOnce) log(c *Client, id uuid.UUID, peer string, err error) {
	if o.done || c.Log == nil {
		return
	}
	o.done = true
	c.Log.WithError(err).WithField("dataset", id).WithField("peer", peer).Warn("closed a connection to a peer " +
		"that sent wrong data")
}

// connectionError is a failure on the way to the peer, which is worth another attempt.
type connectionError struct{ error }

func (e connectionError) Unwrap() error { return e.error }

// isKind reports whether err, of this side or of the peer, is of a kind.
func isKind(err error, kind *dataset.Kind) bool {
	var theirs *peerError
	if errors.As(err, &theirs) {
		return dataset.KindByCode(theirs.problem.Code) == kind
	}
	return errors.Is(err, kind)
}

func isPeer(err error) bool {
	var theirs *peerError
	return errors.As(err, &theirs)
}

// The pauses between attempts.
const (
	firstWait = 200 * time.Millisecond
	lastWait  = 8 * time.Second
)

// retry calls try until it succeeds or fails permanently. After an interruption, or if the peer is unreachable, it
// tries again after a pause. It stops after c.Tries attempts without progress.
func (c *Client) retry(ctx context.Context, try func() (progressed bool, err error)) error {
	wait, left := firstWait, c.tries()
	for {
		progressed, err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !isRetryable(err) {
			return finalError(err)
		}
		if progressed {
			wait, left = firstWait, c.tries()
		}
		if left--; left <= 0 {
			return dataset.Errorf(dataset.ErrOffline, "gave up after %d attempts: %w", c.tries(), finalError(err))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.Clock.After(wait):
		}
		wait = min(2*wait, lastWait)
	}
}

// isRetryable reports whether another attempt may succeed.
func isRetryable(err error) bool {
	var cut connectionError
	if errors.As(err, &cut) {
		return true
	}
	return isKind(err, dataset.ErrOffline) || isKind(err, dataset.ErrUnavailable)
}

// finalError returns the error for the caller, with the kind that the peer reported.
func finalError(err error) error {
	var theirs *peerError
	if errors.As(err, &theirs) {
		return peerFailure{theirs.problem.Err()}
	}
	return err
}

// peerFailure is a failure of the peer, with the kind that the peer reported.
type peerFailure struct{ error }

func (e peerFailure) Error() string { return "the peer failed: " + e.error.Error() }
func (e peerFailure) Unwrap() error { return e.error }

// limitedReader reads no faster than the limit.
type limitedReader struct {
	ctx   context.Context
	r     io.Reader
	limit *Limiter
}

func (l *limitedReader) Read(b []byte) (int, error) {
	n, err := l.r.Read(b[:l.limit.piece(len(b))])
	if wErr := l.limit.wait(l.ctx, n); wErr != nil && err == nil {
		err = wErr
	}
	return n, err
}
