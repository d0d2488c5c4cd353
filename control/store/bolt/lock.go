package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

const lockTry = 50 * time.Millisecond

// lock takes the lock that bbolt takes too (an exclusive flock), on the same open file, so that bbolt already has it.
func (s *Store) lock(ctx context.Context, f *os.File) error {
	for waited := time.Duration(0); ; waited += lockTry {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("lock: %w", err)
		case waited >= s.opts.LockWait:
			return dataset.Errorf(dataset.ErrInUse,
				"store %s is open in another drover, %s: stop that one, or give this one a --root of its own",
				s.path, safefile.Holders(f))
		}
		select {
		case <-s.opts.Clock.After(lockTry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
