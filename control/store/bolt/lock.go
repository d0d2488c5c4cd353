package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

const lockTry = 50 * time.Millisecond

// lock takes the lock that bbolt takes too (flock, exclusive), on the same open
// file, so that bbolt has it already.
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
				"store %s is open in another drover%s: stop that one, or give this one a --root of its own", s.path, holder(f))
		}
		select {
		case <-s.opts.Clock.After(lockTry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// holder names the process that has f locked as /proc/locks does (proc(5)), if
// it can be told.
func holder(f *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer locks.Close()
	dev := uint64(st.Dev) //nolint:unconvert // not everywhere the same type
	place := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), st.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 718 fd:00:1234 0 EOF
		f := strings.Fields(lines.Text())
		if len(f) >= 6 && f[1] == "FLOCK" && f[5] == place && !strings.HasPrefix(f[4], "-") && f[4] != "0" {
			return " (pid " + f[4] + ")"
		}
	}
	return ""
}
