package backendtest

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/iolimit"
)

// The test reads and writes a file in parts of piece bytes. If the limit is perSecond parts a second, reading or
// writing all parts takes the duration paced. The kernel may finish I/O early by up to one time slice, a tenth of a
// second (DFL_THROTL_SLICE in block/blk-throttle.c). So paced is much longer than a time slice, and the test accepts
// every duration of at least earliest.
const (
	paced     = 600 * time.Millisecond
	earliest  = paced * 7 / 10
	parts     = 30
	piece     = 64 << 10
	perSecond = int64(parts * time.Second / paced)
)

// speedIsLimited sets each speed limit in turn for a dataset's device and a separate control group, moves this process
// to the group, and checks that its direct reads and writes take as long as the limit demands. On a host without a
// suitable control group hierarchy it checks nothing.
func speedIsLimited(f *fixture) {
	if !f.Can.OwnDevice {
		return
	}
	h, err := iolimit.Find()
	if errors.Is(err, iolimit.ErrNone) {
		return
	}
	f.OK(err)
	m := f.Mount(f.Create().ID)
	defer m.Unmount()
	device, is, err := iolimit.DeviceOf(m.Path)
	f.OK(err)
	if !is {
		f.Fatalf("%s is on no device", m.Path)
	}
	// The file is allocated first, so that the test writes only data and no metadata.
	f.OK(os.WriteFile(m.PathOf("file"), make([]byte, parts*piece), 0o600))
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	f.OK(h.RunInGroup("drover-verify-", func(group string) error {
		for _, c := range []struct {
			what   string
			limits iolimit.Limits
			do     func(fd int, b []byte, at int64) (int, error)
		}{
			{"write_bps", iolimit.Limits{WriteBPS: perSecond * piece}, unix.Pwrite},
			{"write_iops", iolimit.Limits{WriteIOPS: perSecond}, unix.Pwrite},
			{"read_bps", iolimit.Limits{ReadBPS: perSecond * piece}, unix.Pread},
			{"read_iops", iolimit.Limits{ReadIOPS: perSecond}, unix.Pread},
		} {
			if err := h.Set(group, device, c.limits); err != nil {
				return err
			}
			held, err := direct(m.PathOf("file"), c.do)
			if err := errors.Join(err, h.Clear(group, device)); err != nil {
				return err
			}
			if held < earliest { // a longer time is not a failure: a disk may be slower than its limit
				f.Errorf("%s: %d calls for %d KiB each took %s under a limit that allows %s", c.what, parts,
					piece>>10, held, paced)
			}
		}
		return nil
	}))
}

// direct reads or writes a file past the cache, a piece at a time.
func direct(path string, do func(fd int, b []byte, at int64) (int, error)) (took time.Duration, err error) {
	buf, err := unix.Mmap(-1, 0, piece, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(buf)) }()
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	began := time.Now()
	for i := range int64(parts) {
		if _, err := do(int(file.Fd()), buf, i*piece); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}
