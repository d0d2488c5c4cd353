package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/test/require"
)

// A beside repeats the flushes of processes on separate files on the same filesystems: the same pages of a store, or
// a folder made like that of a dataset. It times only the flushes.
type beside struct {
	tb       testing.TB
	events   []event             // path of a file, to our file
	files    map[string]*os.File // by path
	template *os.File            // from the pool: a new dataset shares its blocks
	flushes  int                 // in one round
	round    int
}

// newBeside takes the events of one round. dir returns a folder for files on the filesystem of a path. template is an
// image of the pool.
func newBeside(tb testing.TB, events []event, dir func(path string) string, template string) *beside {
	tb.Helper()
	s := &beside{tb: tb, files: map[string]*os.File{}}
	var err error
	if s.template, err = os.Open(template); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.template.Close() })
	for _, e := range events {
		in := filepath.Join(dir(e.path), "beside")
		require.NoError(tb, os.MkdirAll(in, 0o700))
		switch e.call {
		case "fdatasync", "pwrite64":
			e.path = filepath.Join(in, filepath.Base(e.path))
			s.open(e.path)
		case "fsync", "BTRFS_IOC_START_SYNC": // of a new dataset's folder
			e.path = in
		default:
			tb.Fatalf("%s %s: nothing here repeats it", e.call, e.path)
		}
		if e.isFlush {
			s.flushes++
		}
		s.events = append(s.events, e)
	}
	return s
}

// besideSize is enough for the stores of a bench.
const besideSize = 16 << 20

// open makes a file with every block allocated, once.
func (s *beside) open(path string) {
	if s.files[path] != nil {
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	require.NoError(s.tb, err)
	s.tb.Cleanup(func() { f.Close() })
	_, err = f.WriteAt(make([]byte, besideSize), 0)
	require.NoError(s.tb, err)
	require.NoError(s.tb, f.Sync())
	s.files[path] = f
}

// time repeats one round and returns how long its flushes took, in milliseconds.
func (s *beside) time() (ms float64) {
	for _, e := range s.events {
		var err error
		switch e.call {
		case "pwrite64":
			_, err = s.files[e.path].WriteAt(make([]byte, e.n), e.off)
		case "fdatasync":
			fd := int(s.files[e.path].Fd())
			ms += timed(func() { err = unix.Fdatasync(fd) })
		default:
			s.round++
			var dir *os.File
			if dir, err = s.dataset(filepath.Join(e.path, fmt.Sprint(s.round))); err == nil {
				ms += timed(func() { err = flushFolder(dir, e.call) })
				dir.Close()
			}
		}
		require.NoError(s.tb, err)
	}
	return ms
}

// dataset makes a folder with a record and an image.
func (s *beside) dataset(path string) (*os.File, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"record", "image"} {
		f, err := os.OpenFile(filepath.Join(path, name), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if name == "image" {
			err = clone(f, s.template)
		}
		if err != nil {
			return nil, err
		}
	}
	return os.Open(path)
}

// clone shares the blocks of from. On btrfs, the new file must be NOCOW if from is.
func clone(to, from *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(to.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type == unix.BTRFS_SUPER_MAGIC {
		if err := btrfsctl.SetNOCOW(to); err != nil {
			return err
		}
	}
	return reflink.Clone(to, from)
}

func flushFolder(dir *os.File, call string) error {
	if call == "fsync" {
		return dir.Sync()
	}
	return btrfsctl.Commit(dir)
}
