package move

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

const (
	// roundsInUse is how often changes are copied at most while a dataset is in use.
	roundsInUse = 6
	// LastRoundBytes ends the rounds while a dataset is in use: a round that copies at most this number of bytes is the
	// last one.
	LastRoundBytes = 32 << 20
	// lastRoundTime bounds the duration of the last round of a dataset that was not in use when the round began. After
	// a longer round, another one follows, because the dataset may have been used meanwhile.
	lastRoundTime = 30 * time.Second
	// minMeasuredBytes is the number of bytes above which the rate of a copy is measured.
	minMeasuredBytes = 8 << 20
)

func (m *moveRun) homeAddress() (string, error) {
	if m.Leases.Peers == nil || m.home.Address == "" {
		return "", dataset.Errorf(dataset.ErrOffline,
			"move of volume %s: node %s has not reported its address", m.op.Volume, m.home.Name)
	}
	return "https://" + m.home.Address, nil
}

// copyInUse copies most of a dataset while its home uses it, until little changes from one round to the next.
func (m *moveRun) copyInUse(ctx context.Context) error {
	if m.op.FileCopy || m.op.Manifest != nil {
		return nil
	}
	if m.op.SameShare {
		return m.checkOnShare(ctx)
	}
	before := int64(-1)
	for range roundsInUse {
		m.jb.Step("copying, in use")
		began := m.Clock.Steady()
		snapshot, err := m.requestSnapshot(ctx)
		if errors.Is(err, dataset.ErrNoSpace) {
			return nil // the home has no space for a snapshot: all is copied after it has relinquished the dataset
		}
		if err != nil {
			return err
		}
		steps.At("move.fresh")
		bytes, err := m.pull(ctx, snapshot.ID, nil)
		if theirs := (peerFailure{}); errors.As(err, &theirs) &&
			(errors.Is(theirs, dataset.ErrNoSpace) || errors.Is(theirs, dataset.ErrNotFound)) {
			return nil // the home has removed the snapshot, because it kept too much space
		}
		if err != nil {
			return err
		}
		steps.At("move.copied")
		if bytes <= LastRoundBytes || before >= 0 && 2*bytes > before || snapshot.Idle &&
			m.Clock.Steady()-began < lastRoundTime {
			return nil
		}
		before = bytes
	}
	return nil
}

// requestSnapshot has the home take a snapshot to copy from. A home that cannot be reached is asked again until
// control reports it as unreachable, or for UnreachableTries times Timing.Retry (20 s). The limit makes a waiting
// mount fail with an error that says what to do, instead of with "pending". A home that is still taking the snapshot
// is asked busyTries times.
func (m *moveRun) requestSnapshot(ctx context.Context) (s TakenSnapshot, err error) {
	peer, err := m.homeAddress()
	if err != nil {
		return s, err
	}
	have, err := host.SnapshotIDs(ctx, m.pool, m.op.DatasetID)
	if err != nil {
		return s, err
	}
	// An idle connection may have been lost without notice: a request on it waits for a minute.
	if t, ok := m.Leases.Peers.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	until, busy := m.Clock.Steady()+UnreachableTries*m.Timing.Retry, busyTries
	for {
		s, err = m.TransferClient.RequestSnapshot(ctx, peer, m.op.DatasetID, have)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, dataset.ErrPending):
			if busy--; busy < 0 {
				return s, m.unreachableError(err)
			}
		case !errors.Is(err, dataset.ErrOffline) && !errors.Is(err, dataset.ErrUnavailable):
			return s, fmt.Errorf("move of volume %s: node %s: %w", m.op.Volume, m.home.Name, err)
		case m.Clock.Steady() >= until:
			return s, m.unreachableError(err)
		default:
			if away, aerr := m.Leases.Nodes.IsUnreachable(ctx, m.op.OtherNode); aerr != nil || away {
				return s, errors.Join(aerr, m.unreachableError(err))
			}
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-m.Clock.After(m.Timing.Retry):
		}
	}
}

// How often a home is asked again for a snapshot, at intervals of Timing.Retry: see requestSnapshot.
const (
	UnreachableTries = 20
	busyTries        = 10
)

// pull copies all snapshots that this node lacks, and the wanted one, and calls removeSnapshots. It returns the number
// of bytes in the streams.
func (m *moveRun) pull(ctx context.Context, want uuid.UUID, manifest *dataset.Manifest) (bytes int64, err error) {
	peer, err := m.homeAddress()
	if err != nil {
		return 0, err
	}
	op := m.op
	unlock, err := m.Locks.Lock(ctx, op.DatasetID, "move of volume "+op.Volume)
	if err != nil {
		return 0, err
	}
	defer unlock()
	began := m.Clock.Steady()
	got, err := m.TransferClient.Pull(ctx, Pull{
		Peer: peer, Dataset: *op.DatasetRecord, Into: m.pool, Want: want, Manifest: manifest,
		Progress: m.jb.SetProgress,
		Bases:    op.Manifest == nil, // with a manifest, writers are blocked: copy only what is needed
	})
	if err != nil {
		if errors.Is(err, dataset.ErrOffline) && ctx.Err() == nil {
			return 0, m.unreachableError(err)
		}
		return 0, fmt.Errorf("move of volume %s: %w", op.Volume, m.Pools.AddHint(ctx, op.DatasetRecord.Pool, err))
	}
	for _, s := range got.Snapshots {
		bytes += s.Bytes
	}
	// The rate is for the estimate of the next move.
	if took := m.Clock.Steady() - began; got.ReceivedBytes >= minMeasuredBytes && took > 0 {
		m.rate.Store(int64(float64(got.ReceivedBytes) / took.Seconds()))
	}
	return bytes, m.removeSnapshots(ctx, got.Gone)
}

// removeSnapshots removes the users' snapshots that the home no longer has. Snapshots that were taken for other nodes
// are removed after this node has become the home: see Retention.Prune. The dataset's lock is held.
func (m *moveRun) removeSnapshots(ctx context.Context, gone []uuid.UUID) error {
	if len(gone) == 0 {
		return nil
	}
	e, err := m.pool.Stat(ctx, m.op.DatasetID)
	if err != nil {
		return err
	}
	gone = slices.DeleteFunc(gone, func(id uuid.UUID) bool {
		i := host.IndexOf(e, id)
		return i >= 0 && host.IsTransfer(e.Snapshots[i])
	})
	return host.DropMissing(ctx, m.pool, m.op.DatasetID, gone, dataset.Snapshot{})
}

// copyRest copies the rest of the relinquished dataset, and checks it against the home's manifest.
func (m *moveRun) copyRest(ctx context.Context) error {
	manifest := m.op.Manifest
	if m.op.SameShare {
		return nil
	}
	m.jb.Step("copying the rest")
	if m.op.FileCopy {
		return m.copyFiles(ctx, manifest)
	}
	lacks, err := m.lacksBase(ctx, manifest)
	if err != nil {
		return err
	}
	if lacks {
		if _, err := m.pull(ctx, manifest.Base, nil); err != nil {
			return err
		}
	}
	if _, err := m.pull(ctx, manifest.Snapshot, manifest); err != nil {
		return err
	}
	steps.At("move.pulled")
	return nil
}

// lacksBase reports whether the move must also copy the base of the last snapshot. The last snapshot is sent as a
// difference to its base, so this node needs either the last snapshot or the base.
func (m *moveRun) lacksBase(ctx context.Context, manifest *dataset.Manifest) (bool, error) {
	copier, can := m.pool.(backends.Copier)
	if !can || manifest.Base == uuid.Nil {
		return false, nil
	}
	for _, id := range []uuid.UUID{manifest.Snapshot, manifest.Base} {
		have, err := copier.Received(ctx, m.op.DatasetID, id)
		if err != nil || have.Complete {
			return false, err
		}
	}
	return true, nil
}

// copyFiles makes the dataset again and fills it file by file. If this node has a copy of the dataset, the files are
// stored beside the copy.
func (m *moveRun) copyFiles(ctx context.Context, manifest *dataset.Manifest) (err error) {
	peer, err := m.homeAddress()
	if err != nil {
		return err
	}
	op := m.op
	unlock, err := m.Locks.Lock(ctx, op.DatasetID, "move of volume "+op.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	op.DatasetRecord.Size = op.DatasetRecord.Profile.Size
	operation.ApplyDefaults(op.DatasetRecord, m.pool, m.pool.Status(ctx))
	made, rec := *op.DatasetRecord, m.recordOf(uuid.Nil)
	if replaces, err := m.replacesCopy(ctx); err != nil {
		return fmt.Errorf("move of volume %s: %w", op.Volume, err)
	} else if replaces || rec.Beside != uuid.Nil {
		made.ID = BesideID(op.DatasetID, op.ID)
	}
	files := Files{
		Peer:     peer,
		Dataset:  op.DatasetID,
		Snapshot: manifest.Snapshot,
		Manifest: manifest,
		Progress: m.jb.SetProgress,
	}
	if op.DatasetRecord.Size, err = m.makeFiles(ctx, made, files, rec.Beside != uuid.Nil); err != nil {
		err = fmt.Errorf("move of volume %s: %w", op.Volume, m.Pools.AddHint(ctx, op.DatasetRecord.Pool, err))
		if made.ID != op.DatasetID && errors.Is(err, dataset.ErrNoSpace) {
			err = fmt.Errorf("%w; it is created beside its copy in pool %s, which stays until all data has "+
				"arrived: free space for both (remove snapshots or volumes "+
				"there)", err, m.Pools.Name(op.DatasetRecord.Pool))
		}
		return err
	}
	if made.ID != op.DatasetID {
		rec.Beside = made.ID
		if err := m.MoveTable.Set(ctx, op.DatasetID, rec); err != nil {
			return err
		}
	}
	steps.At("move.pulled")
	return nil
}

// makeFiles makes a dataset and fills it. complete says that an earlier attempt has recorded that it copied all files
// into it: then makeFiles only returns the size of the dataset. Otherwise the files of an earlier attempt are
// discarded, because the home has all of them. If making or filling fails, makeFiles removes the dataset again.
func (m *moveRun) makeFiles(ctx context.Context, d dataset.Dataset, files Files,
	complete bool) (size dataset.Size, err error) {
	if e, err := m.pool.Stat(ctx, d.ID); complete && err == nil && e.Record != nil {
		return m.pool.Create(ctx, d) // idempotent: the dataset exists, and Create returns its size
	}
	end := m.Keys.BorrowKey(d.ID, m.op.DatasetID)
	defer func() {
		if err != nil {
			err = errors.Join(err, host.Discard(ctx, m.Host, m.pool, d.ID))
		}
		end()
	}()
	if err := m.pool.Delete(ctx, d.ID); err != nil {
		return 0, err
	}
	if size, err = m.pool.Create(ctx, d); err != nil {
		return 0, err
	}
	if files.Into, err = mounting.OpenRoot(ctx, m.pool, d.ID); err != nil {
		return 0, err
	}
	return size, m.fill(ctx, d.ID, files)
}

// fill copies the files into a dataset, and ends before they fill the pool.
func (m *moveRun) fill(ctx context.Context, id uuid.UUID, f Files) error {
	progress := f.Progress
	err := m.Importer.WatchSpace(ctx, m.pool, id, f.Into, func(ctx context.Context, wrote func()) error {
		f.Progress = func(done, total int64) {
			progress(done, total)
			wrote()
		}
		_, err := m.TransferClient.PullFiles(ctx, f)
		return err
	})
	return errors.Join(err, f.Into.Close())
}
