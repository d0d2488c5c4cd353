package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/steps"
)

// hold takes the lock of an operation's dataset and checks that the operation is
// of its epoch. unlock is never nil, and to be called whatever err is; with
// ErrOffline the pool is nil and the dataset is known.
func (a *Agent) hold(ctx context.Context, op dataset.Operation, what string) (d dataset.Dataset, pool backends.Pool,
	unlock func(), err error) {
	unlock, err = a.Locks.Lock(ctx, op.DatasetID, what+" of volume "+op.Volume)
	if err != nil {
		return d, nil, func() {}, err
	}
	d, ok := a.Cache.Dataset(op.DatasetID)
	if !ok {
		if d, err = a.fetch(ctx, op.DatasetID); err != nil {
			return d, nil, unlock, err
		}
		if a.Cache.HasLeftSince(d) {
			return d, nil, unlock, dataset.Errorf(dataset.ErrStale,
				"volume %s: it went to another node after epoch %d, of which control speaks: its store may "+
					"have been put back (%s brings it up to date)", op.Volume, d.Epoch, a.mendStore())
		}
	}
	if d.Home != a.NodeID && d.Home != uuid.Nil {
		return d, nil, unlock, dataset.Errorf(dataset.ErrStale, "volume %s: its home is node %s by now", op.Volume,
			a.nodes.Name(d.Home))
	}
	if d.Epoch != op.Epoch {
		return d, nil, unlock, dataset.Errorf(dataset.ErrStale,
			"volume %s: the operation is of epoch %d, but this is epoch %d", op.Volume, op.Epoch, d.Epoch)
	}
	if err := a.leases.MayChange(d, string(op.Kind)); err != nil {
		return d, nil, unlock, err
	}
	pool, err = a.pools.Online(ctx, d.Pool)
	return d, pool, unlock, err
}

// fetch asks control for the record of a dataset that the agent has not learnt of
// yet.
func (a *Agent) fetch(ctx context.Context, id uuid.UUID) (dataset.Dataset, error) {
	v, err := a.Control.Volume(ctx, id.String())
	if err == nil && v.ID != id {
		err = dataset.Errorf(dataset.ErrNotFound, "no dataset %s", id)
	}
	if err == nil && v.Home == a.NodeID && !a.Cache.HasLeftSince(v.Dataset) {
		a.Cache.Apply(v.Dataset, 0)
	}
	return v.Dataset, err
}

// unused fails with ErrInUse while anybody on this host uses a dataset: by a recorded use, or by a
// mount in any namespace. A mount that nobody uses is taken off, and the guard forgets the dataset.
// what is the work that has to wait. The dataset's lock is held.
func (a *Agent) unused(ctx context.Context, d dataset.Dataset, what string) error {
	if err := a.verifyEnded(ctx, d, what); err != nil {
		return err
	}
	if r := a.uses.Get(d.ID); len(r.IDs) > 0 {
		return a.inUse(d, what, r)
	}
	mounted, err := host.IsMountPoint(a.MountPath(d.ID))
	if err != nil {
		return err
	}
	if mounted {
		err = a.unmountUnheld(ctx, d)
	} else {
		err = a.releaseUnheld(ctx, d)
	}
	if errors.Is(err, dataset.ErrInUse) && d.State != dataset.StatePurging { // what is condemned is tried again
		err = fmt.Errorf("cannot %s volume %s: %w; ask again to %s it after that", what, d.Volume, err, what)
	}
	return err
}

// freeze has a mounted dataset write out what it holds in memory, so that a
// snapshot taken now, with the context that it returns, has it, and quiesces it as its profile
// says. What it returns thaws, and must be called.
func (a *Agent) freeze(ctx context.Context, pool backends.Pool, d dataset.Dataset) (in context.Context,
	thaw func() error, err error) {
	turner, takes := pool.(backends.Serializer)
	if !takes || !d.Profile.QoS.Limited() {
		thaw, err = a.quiesce(pool, d)
		return ctx, thaw, err
	}
	// Its limit is not lifted while others are at work in the pool, nor do they come between the
	// flush and the freeze.
	in, done, err := turner.Turn(ctx)
	if err != nil {
		return ctx, func() error { return nil }, fmt.Errorf("write out volume %s: %w", d.Volume, err)
	}
	back, err := a.quiesce(pool, d)
	if err != nil {
		done()
		return ctx, back, err
	}
	return in, func() error {
		defer done()
		return back()
	}, nil
}

// quiesce is freeze in a pool that has nothing else to do.
func (a *Agent) quiesce(pool backends.Pool, d dataset.Dataset) (thaw func() error, err error) {
	none := func() error { return nil }
	path := a.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || !mounted {
		return none, err
	}
	itself := pool.Info().Freezes && d.Encryption == nil // what it sees is ciphertext then
	freezing := itself || d.Profile.Quiesce == dataset.QuiesceFreeze
	until := a.Clock.Steady() + throttle.LiftSnapshot - longStall // the freeze comes after it
	up, err := a.limits.Suspend(d, throttle.LiftSnapshot)
	if err != nil {
		return none, fmt.Errorf("write out volume %s: %w", d.Volume, err)
	}
	defer func() {
		if err != nil || !freezing {
			up.Resume()
		}
	}()
	written, err := a.writeOutSoon(path, throttle.WriteOutTime)
	if err != nil {
		return none, fmt.Errorf("write out volume %s: %w", d.Volume, err)
	}
	if !written {
		if freezing {
			return none, dataset.Errorf(dataset.ErrPending,
				"volume %s has more to write out than %s allow, and a freeze would hold up its writers for "+
					"as long: try again", d.Volume, throttle.WriteOutTime)
		}
		a.LogOf(d).Warnf("more is to be written out than %s allow: the snapshot holds what a power cut would leave",
			throttle.WriteOutTime)
	}
	if !freezing {
		return none, nil
	}
	if d.Profile.QoS.Limited() {
		if err := a.settled(d, path, until); err != nil {
			return none, err
		}
		up.Extend(throttle.LiftUnmount)
	}
	if itself { // what is written until then is to be written at once
		return func() error { up.Resume(); return nil }, nil
	}
	root, err := os.Open(path)
	if err != nil {
		return none, fmt.Errorf("freeze volume %s: %w", d.Volume, err)
	}
	if err := fsctl.Freeze(root); err != nil {
		return none, errors.Join(fmt.Errorf("freeze volume %s: %w", d.Volume, err), root.Close())
	}
	steps.At("snapshot.frozen")
	return func() error {
		up.Resume() // before anybody writes again
		return errors.Join(fsctl.Thaw(root), root.Close())
	}, nil
}

// writeOutSoon flushes the filesystem mounted on path, which a flush of another one
// cannot hold up, and reports whether that ended within so long. One that did not
// goes on by itself.
func (a *Agent) writeOutSoon(path string, within time.Duration) (done bool, err error) {
	root, err := os.Open(path)
	if err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	through := a.flushes.Begin(path)
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		err := errors.Join(fsctl.Sync(root), root.Close())
		through()
		ended <- err
	}()
	select {
	case err := <-ended:
		return err == nil, err
	case <-a.Clock.After(within):
		return false, nil
	}
}

// note writes the record beside the dataset anew. Not flushed: the store has it;
// this one is for the day when the store is lost.
func (a *Agent) note(ctx context.Context, pool backends.Pool, d dataset.Dataset) error {
	d.Written = a.Cache.Index(d.ID)
	return pool.WriteRecord(context.WithoutCancel(ctx), d, false)
}

// purgeLater destroys a condemned dataset as a job of its own.
func (a *Agent) purgeLater(d dataset.Dataset) {
	op := dataset.Operation{
		ID: uuid.New(), Kind: dataset.OpPurge, Node: a.NodeID,
		Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending, Created: a.Clock.Now(),
	}
	a.background("purge/"+d.ID.String(), op)
}

// background carries an operation out as a job of its own.
func (a *Agent) background(key string, op dataset.Operation) {
	a.Jobs.Start(key, func(ctx context.Context, jb *jobs.Job) error {
		_, err := a.carryOut(ctx, jb, op)
		if err != nil && ctx.Err() == nil {
			level := logrus.ErrorLevel
			if dataset.KindOf(err).HTTP < http.StatusInternalServerError {
				level = logrus.InfoLevel // what was asked for was refused: nothing is wrong here
			}
			a.LogOf(dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).WithError(err).
				WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).Log(level, "operation failed")
		}
		return nil // nobody waits for it
	})
}

// known asks control whether an operation is on record.
func (a *Agent) known(ctx context.Context, id uuid.UUID) (dataset.Operation, bool) {
	op, err := a.Control.Operation(ctx, id.String(), 0)
	return op, err == nil
}
