package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/long"
)

// overwrittenFiles are so many that a snapshot falls between the first and the last of them.
const overwrittenFiles = 2000

// exactRounds are the snapshots that exactWhileWritten takes. Without the freeze, one in three is wrong on XFS.
const (
	exactRounds     = 2
	exactRoundsLong = 25
)

// exactWhileWritten takes exact snapshots while files are overwritten in place and another writer flushes, so that the
// log has times whose data is not on the disk. A backup does not read a file again that has the times of its parent, so
// a file of the snapshot with the times of the head must have the content of the head.
func exactWhileWritten(f *fixture) {
	d := f.Create()
	byPool := f.Pool.Info().Exact && d.Encryption == nil // on LUKS, the pool does not see the filesystem
	if !byPool && !f.Can.OwnFilesystem {
		return
	}
	m := f.Mount(d.ID)
	overwrite(f, m, 0, func(int) {})
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	for round := 1; round <= long.Rounds(exactRounds, exactRoundsLong); round++ {
		nextSecond()
		s := f.NewSnapshot(d)
		taken := make(chan error, 1)
		flusher := f.journal(m)
		flusher.await(1)
		overwrite(f, m, byte(round), func(file int) {
			if file == overwrittenFiles*(1+round%8)/10 {
				go func() {
					in := f.Ctx
					if !byPool {
						in = backends.WithFreeze(in, freezing(m.Root))
					}
					taken <- f.Pool.Snapshot(in, s, nil)
				}()
			}
		})
		f.OK(<-taken)
		flusher.stop()
		f.OK(unix.Syncfs(int(m.Root.Fd())))
		c := f.Clone(f.Source(s))
		f.checkUnchangedFiles(m, f.Mount(c.ID))
		f.OK(f.Pool.Delete(f.Ctx, c.ID))
		f.OK(f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID))
	}
	m.Unmount()
}

// nextSecond waits for a time that no file has yet: zfs-fuse keeps whole seconds.
func nextSecond() { time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) }

// freezing returns the function of backends.WithFreeze that freezes the filesystem of root.
func freezing(root *os.File) backends.WhileFrozen {
	return func(take func() error) (exact bool, err error) {
		if err := fsctl.Freeze(root); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, fsctl.Thaw(root)) }()
		return true, take()
	}
}

// overwrite writes each file in place with blocks of one byte, and calls before ahead of each.
func overwrite(f *fixture, m *Mounted, content byte, before func(file int)) {
	f.Helper()
	block := bytes.Repeat([]byte{content}, 4096)
	for i := range overwrittenFiles {
		before(i)
		file, err := os.OpenFile(m.PathOf(fmt.Sprint("overwritten-", i)), os.O_CREATE|os.O_WRONLY, 0o600)
		f.OK(err)
		_, err = file.Write(block)
		f.OK(errors.Join(err, file.Close()))
	}
}

// checkUnchangedFiles fails if a file of copied has the times, but not the content of the same file in head. It
// unmounts copied.
func (f *fixture) checkUnchangedFiles(head, copied *Mounted) {
	f.Helper()
	defer copied.Unmount()
	stale, same := 0, 0
	for i := range overwrittenFiles {
		name := fmt.Sprint("overwritten-", i)
		if ctimeOf(f, head.PathOf(name)) != ctimeOf(f, copied.PathOf(name)) {
			continue
		}
		same++
		now, err := os.ReadFile(head.PathOf(name))
		f.OK(err)
		then, err := os.ReadFile(copied.PathOf(name))
		f.OK(err)
		if !bytes.Equal(now, then) {
			stale++
		}
	}
	if same == 0 {
		f.Errorf("no file of the snapshot has the times of the head")
	}
	if stale > 0 {
		f.Errorf("%d of %d files of the snapshot have the times of the head with other content", stale, same)
	}
}

func ctimeOf(f *fixture, path string) unix.Timespec {
	f.Helper()
	var st unix.Stat_t
	f.OK(unix.Lstat(path, &st))
	return st.Ctim
}
