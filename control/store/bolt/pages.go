package bolt

import (
	"fmt"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// ReleasePages removes the mapped pages of the file from the memory of this process. They stay in the page cache of the
// kernel, and the next read maps them again (madvise(2), MADV_DONTNEED on a shared mapping). A store that cannot be
// used now has no pages, so ReleasePages does nothing. Idempotent, and safe for concurrent use.
func (s *Store) ReleasePages() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return nil
	}
	return s.recoverPanics(func() error {
		// bbolt does not move the mapping while a read transaction is open.
		return s.db.View(func(tx *bbolt.Tx) error {
			_, _, errno := unix.Syscall(unix.SYS_MADVISE, tx.DB().Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
			if errno != 0 {
				return fmt.Errorf("release the pages of %s: %w", s.path, errno)
			}
			return nil
		})
	})
}
