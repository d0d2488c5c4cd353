package btrfsctl_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// sent takes a snapshot, and returns its stream. The stream is also written to w, which can be slow.
func (p pool) sent(src *os.File, name string, w io.Writer) []byte {
	p.Helper()
	if err := btrfsctl.Snapshot(p.dir, name, src, true); err != nil {
		p.Fatal(err)
	}
	var out bytes.Buffer
	if err := btrfsctl.Send(p.Context(), p.open(name), nil, true, io.MultiWriter(&out, w)); err != nil {
		p.Fatal(err)
	}
	return out.Bytes()
}

// nagging is a writer that sends SIGURG to all threads of the process at each write. The Go runtime sends this signal
// to preempt goroutines.
type nagging struct{}

func (nagging) Write(b []byte) (int, error) {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		id := 0
		for _, digit := range filepath.Base(task) {
			id = 10*id + int(digit-'0')
		}
		_ = unix.Tgkill(os.Getpid(), id, syscall.SIGURG)
	}
	return len(b), nil
}

// A signal must not make the kernel restart the stream in the middle.
func TestSendIsNotInterrupted(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	p.write("src/f", string(treetest.Bytes(1, 12<<20)))
	want := p.sent(src, "one", io.Discard)
	for range 5 {
		var got bytes.Buffer
		require.NoError(t, btrfsctl.Send(t.Context(), p.open("one"), nil, true, io.MultiWriter(&got, nagging{})))
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%d bytes, want %d as before", got.Len(), len(want))
		}
	}
}
