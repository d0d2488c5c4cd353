package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/tree"
)

// RecountEvery is the minimum time between two requests for a recount. A recount reads all trees, so recounts without a
// pause would keep the disk busy. When the next one is requested, the kernel may have abandoned the previous one, or
// may still be running it.
const RecountEvery = 5 * time.Minute

// quota is the quotas of the filesystem of an open pool. It is safe for concurrent use.
type quota struct {
	path  string // of the pool, for errors
	mode  btrfsctl.Quota
	clock clock.Clock

	mu      sync.Mutex
	recount time.Duration // the earliest time of the next recount, by the steady clock
}

// newQuota returns the present quotas of the pool's filesystem. dir is the directory of the pool, and path its path.
func newQuota(dir *os.File, path string, c clock.Clock) (*quota, error) {
	mode, _, err := btrfsctl.Quotas(dir)
	return &quota{path: path, mode: mode, clock: c}, err
}

// enableQuotas switches on the quotas of the filesystem on a pool's devices, if the filesystem is empty. If the
// filesystem has files, the mode of its quotas stays as it is.
func enableQuotas(path string) error {
	names, err := os.ReadDir(path)
	if err != nil || len(names) > 0 {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode, _, err := btrfsctl.Quotas(dir)
	if err != nil || mode != btrfsctl.QuotaNone {
		return err
	}
	return btrfsctl.EnableQuotas(dir)
}

// Enabled reports whether quotas were on when the pool was opened.
func (q *quota) Enabled() bool { return q.mode != btrfsctl.QuotaNone }

// Full reports whether the quotas count everything that a subvolume refers to.
func (q *quota) Full() bool { return q.mode == btrfsctl.QuotaFull }

// Note describes to users how sizes are enforced.
func (q *quota) Note() string {
	switch q.mode {
	case btrfsctl.QuotaFull:
		return "sizes by full quotas, a full volume gets EDQUOT"
	case btrfsctl.QuotaSimple:
		return "sizes by simple quotas, a full volume gets EDQUOT: they count data that was written to a volume " +
			"as long as a snapshot contains it, and not data that a clone shares"
	default:
		return "no size limits, because the filesystem's quotas were off when drover started"
	}
}

// Missing says which command enables quotas, so that the pool can enforce sizes. It returns nil if quotas were on when
// the pool was opened.
func (q *quota) Missing() []string {
	if q.Enabled() {
		return nil
	}
	return []string{"sizes need quotas enabled on its filesystem when drover starts (btrfs quota enable " + q.path +
		")"}
}

// Check fails if sizes were enforced when the pool was opened, and are not enforced now. It does not fail if sizes were
// not enforced when the pool was opened: Missing reports that. If the kernel has abandoned full quotas, Check starts a
// recount. The kernel sometimes abandons full quotas when subvolumes with shared blocks are destroyed, including
// subvolumes of others (github.com/kdave/btrfs-progs/issues/922). From then on it enforces no limit.
func (q *quota) Check(dir *os.File) error {
	mode, settled, err := btrfsctl.Quotas(dir)
	switch {
	case err != nil:
		return err
	case mode != q.mode && mode == btrfsctl.QuotaNone:
		return fmt.Errorf("quotas were switched off: no size is enforced (btrfs quota enable %s, then restart drover)",
			q.path)
	case !q.Enabled():
		return nil
	case mode != q.mode:
		return fmt.Errorf("the quotas were %s and are now %s: restart drover", q.mode, mode)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if settled {
		q.recount = 0
		return nil
	}
	if at := q.clock.Steady(); mode == btrfsctl.QuotaFull && at >= q.recount {
		if err = btrfsctl.Recount(dir); err == nil {
			q.recount = at + RecountEvery
		}
	}
	if err != nil {
		return fmt.Errorf("quotas must be rescanned: sizes may not be enforced until then (btrfs quota rescan -w "+
			"%s): %w", q.path, err)
	}
	return fmt.Errorf("quotas are being rescanned: sizes may not be enforced until then (btrfs quota rescan -w "+
		"%s waits for it)", q.path)
}

// Verify fails if the limit of a head's subvolume differs from size, the recorded size of the head. Without quotas it
// returns nil.
func (q *quota) Verify(dir *os.File, size dataset.Size) error {
	if !q.Enabled() {
		return nil
	}
	c, err := btrfsctl.Count(dir)
	switch limit := dataset.Size(c.Limit); {
	case errors.Is(err, os.ErrNotExist):
		return nil // quotas were switched off since: Check reports that
	case err != nil:
		return err
	case limit != size:
		return fmt.Errorf("the limit of its subvolume is %s but its size is %s (0B means none): restart drover",
			limit, size)
	}
	return nil
}

// Assign sets the limit of a subvolume, like Limit. If quotas were off when the pool was opened, it does nothing; the
// size is enforced when the pool is opened with quotas.
func (q *quota) Assign(dir *os.File, size dataset.Size) error {
	if !q.Enabled() {
		return nil
	}
	return Limit(dir, size)
}

// Used returns the usage of a subvolume, including blocks that it shares with others. Full quotas have counted the
// usage. Without full quotas, Used walks the tree of files.
func (q *quota) Used(ctx context.Context, dir *os.File) (dataset.Size, error) {
	if q.Full() {
		c, err := btrfsctl.Count(dir)
		if !errors.Is(err, os.ErrNotExist) { // quotas were switched off since
			return dataset.Size(c.Referenced), err
		}
	}
	size, err := tree.Usage(ctx, dir)
	return dataset.Size(size.Bytes), err
}

// Limit sets the limit of a subvolume. 0 removes it.
func Limit(dir *os.File, size dataset.Size) error {
	err := btrfsctl.Limit(dir, uint64(size))
	off := errors.Is(err, unix.ENOTCONN) || errors.Is(err, os.ErrNotExist)
	switch {
	case off && size == 0:
		return nil // there is no limit, because quotas are off or do not count the subvolume yet
	case off:
		return dataset.Errorf(dataset.ErrUnsupported,
			"quotas were switched off: no size can be set (btrfs quota enable): %w", err)
	}
	return err
}
