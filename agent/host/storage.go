package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// CheckTight checks whether a pool has room for a snapshot of a dataset that no user requested: a scheduled one, or one
// for another node. It fails with ErrNoSpace if the free space of the pool is less than a tenth of the dataset's used
// bytes, or less than backends.Reserve, and with ErrOffline if the pool is offline. After a snapshot that shares
// blocks, every block that is overwritten needs a new block. If no block is free, the writer gets an error (EIO). Such
// a snapshot must not break a database in this way. Pools whose snapshots are copies do not have this problem.
func CheckTight(ctx context.Context, pool backends.Pool, d dataset.Dataset) error {
	if !pool.Info().Capabilities.InstantSnapshot {
		return nil
	}
	st := pool.Status(ctx)
	if !st.Online {
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	}
	used, err := pool.Used(ctx, d.ID)
	if err != nil {
		return err
	}
	least := max(used/10, backends.Reserve(st.Size))
	if st.Free >= least {
		return nil
	}
	remedy := "free some space: drover snapshot ls --size and drover trash ls list what can be freed"
	if st.Free >= backends.Reserve(st.Size) && st.Reason == "" { // otherwise the pool refuses manual snapshots too
		remedy = "free some space, or take a snapshot manually"
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"no scheduled snapshot while the pool has less than %s free (it has %s): data that is overwritten after "+
			"a snapshot needs new blocks (%s)", least.Human(), st.Free.Human(), remedy)
}

// Remedy returns the commands with which a volume whose data is damaged or missing can continue: from the newest of its
// snapshots, from its copies, or from its backups.
func Remedy(d dataset.Dataset, snapshots []dataset.Snapshot) string {
	var ways []string
	for i := len(snapshots) - 1; i >= 0; i-- {
		if s := snapshots[i]; s.Kind != dataset.SnapshotRestore && !s.Created.IsZero() {
			ways = append(ways, fmt.Sprintf("drover snapshot restore %s %s continues from its newest snapshot, of "+
				"%s, and keeps the current data", d.Volume, s.ID.String()[:8],
				s.Created.UTC().Format("2006-01-02 15:04 MST")))
			break
		}
	}
	if len(d.Copies) > 0 {
		ways = append(ways, fmt.Sprintf("drover volume inspect %s lists its copies", d.Volume))
	}
	if d.Profile.Backup.To != "" {
		ways = append(ways, fmt.Sprintf("drover backup restore %[1]s %[1]s-restored makes a volume from its newest "+
			"backup", d.Volume))
	}
	if len(ways) == 0 {
		return fmt.Sprintf("it has no snapshot, copy or scheduled backup here; drover backup ls %[1]s lists the "+
			"backups that were made by hand, drover volume rm %[1]s --dry-run shows what is lost", d.Volume)
	}
	return strings.Join(ways, "; ")
}

// WithRemedy adds Remedy to an error that says that the data of a volume is damaged or missing.
func WithRemedy(ctx context.Context, pool backends.Pool, d dataset.Dataset, err error) error {
	if d.State != dataset.StateReady || !errors.Is(err, dataset.ErrCorrupt) && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	e, _ := pool.Stat(ctx, d.ID) // it has the snapshots even if it returns an error about the head
	return fmt.Errorf("%w (%s)", err, Remedy(d, e.Snapshots))
}

// discardTime is how long the caller of Discard waits for the removal of a dataset.
var discardTime = 30 * time.Second

// Discard removes a dataset that was made but not recorded, if there is one. It fails with ErrConflict for a dataset
// that is ready in its pool: control recorded it, and its store may have been restored from an older copy since.
//
// A backend that keeps files can need minutes for the removal. After discardTime, the dataset does not exist any more,
// and a job of the host removes the rest of its bytes, which the agent awaits when it stops. If the agent stops before,
// the next start removes the rest.
func Discard(ctx context.Context, h *Host, pool backends.Pool, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTime)
	defer cancel()
	e, err := pool.Stat(ctx, id)
	switch kind := dataset.KindOf(err); {
	case e.State == backends.EntryReady:
		return dataset.Errorf(dataset.ErrConflict, "dataset %s was recorded once, and may be the only data of a "+
			"volume: it stays (drover store recover --from-pools records it again)", id)
	case err != nil && kind != dataset.ErrNotFound && kind != dataset.ErrCorrupt:
		return err
	}
	err = pool.Delete(ctx, id)
	if ctx.Err() != nil { // then Delete returns nil although bytes are left: see backends.Pool
		h.Jobs.StartAgain(discardKey(pool), func(ctx context.Context, _ *Job) error {
			// Reap removes only what Delete has left. A dataset that was made again with the same ID stays.
			_, err := pool.Reap(ctx, func(uuid.UUID) bool { return false })
			if err != nil && ctx.Err() == nil {
				h.Log.WithError(err).WithField("pool", pool.Info().Path).
					Warn("cannot remove all bytes of deleted datasets: the next start tries again")
			}
			return err
		})
	}
	return err
}

// IsDiscarding reports whether a job that Discard has started removes the bytes of deleted datasets of a pool.
func IsDiscarding(h *Host, pool backends.Pool) bool { return h.Jobs.IsRunning(discardKey(pool)) }

// discardKey is the key of the job that removes the bytes of deleted datasets of a pool.
func discardKey(pool backends.Pool) string { return "discard/" + pool.Info().Path }

// DiscardSnapshot removes a snapshot that was taken but not recorded.
func DiscardSnapshot(ctx context.Context, pool backends.Pool, s dataset.Snapshot) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return pool.DeleteSnapshot(ctx, s.Dataset, s.ID)
}
