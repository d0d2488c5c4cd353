package operation_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// state is what a snapshot has of a file.
type state struct {
	ctime   unix.Timespec
	content [2]byte // its first and last byte
}

// rewriteFiles overwrites files in place, again and again, until stop is closed. A journal is flushed meanwhile, which
// commits the times of the files before their content is written.
func rewriteFiles(t *testing.T, dir string, count int, stop <-chan struct{}) (wait func()) {
	wal, err := os.Create(filepath.Join(dir, "wal"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	go func() {
		var err error
		for err == nil && running() {
			if _, err = wal.WriteAt(make([]byte, 512), 0); err == nil {
				err = wal.Sync()
			}
		}
		ended <- err
	}()
	go func() {
		var err error
		for n := count; err == nil && running(); n++ {
			var f *os.File
			if f, err = os.OpenFile(filepath.Join(dir, fmt.Sprint(n%count)), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				_, err = f.WriteAt(bytes.Repeat([]byte{byte(n / count)}, 8192), 0)
				f.Close()
			}
		}
		ended <- err
	}()
	return func() {
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		wal.Close()
	}
}

// In snapshots that were taken under a writer, a file with the same times has the same content. Their records say that
// they are exact.
func TestSnapshotUnderWriterIsExact(t *testing.T) {
	const files, snapshots = 3000, 5
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db", nil)
	path := f.A.MustMount("db", "user")
	stop := make(chan struct{})
	wait := rewriteFiles(t, path, files, stop)
	var last map[int]state
	for i := range snapshots {
		if i == snapshots-1 { // the last one has what the writer wrote
			close(stop)
			wait()
		}
		name := fmt.Sprintf("s%d", i)
		if err := f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: name}); err != nil {
			t.Fatal(err)
		}
		s, err := f.A.Control.Snapshot(t.Context(), "db", name)
		if err != nil || !s.Exact {
			t.Fatalf("snapshot %+v, %v", s, err)
		}
		now := statesOf(t, f.A, d, s.ID)
		for n, was := range last {
			if is := now[n]; is.ctime == was.ctime && is.content != was.content {
				t.Errorf("%s: file %d has another content than before and the same times", name, n)
			}
		}
		last = now
	}
	f.A.MustUnmount("db", "user")
}

// statesOf reads a snapshot through a clone.
func statesOf(t *testing.T, h *agenttest.Host, d dataset.Dataset, snapshot uuid.UUID) map[int]state {
	t.Helper()
	clone := d
	clone.ID, clone.Size = uuid.New(), 0
	if _, err := h.Pool().Clone(t.Context(), clone, dataset.Source{Dataset: d.ID, Snapshot: snapshot}, nil); err != nil {
		t.Fatal(err)
	}
	root, err := mounting.OpenRoot(t.Context(), h.Pool(), clone.ID, backends.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]state{}
	for n := 0; ; n++ {
		fd, err := unix.Openat(int(root.Fd()), fmt.Sprint(n), unix.O_RDONLY, 0)
		if err != nil {
			break
		}
		var st unix.Stat_t
		var s state
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		_, _ = unix.Pread(fd, s.content[:1], 0)
		_, _ = unix.Pread(fd, s.content[1:], 8191)
		s.ctime = st.Ctim
		all[n] = s
		unix.Close(fd)
	}
	root.Close()
	if err := h.Pool().Delete(t.Context(), clone.ID); err != nil {
		t.Fatal(err)
	}
	return all
}
