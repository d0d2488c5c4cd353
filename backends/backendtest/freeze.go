package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// longestFreeze is the time after which a filesystem is thawed, even if its snapshot is not finished.
const longestFreeze = 20 * time.Second

// freezeHoldsWriters takes a snapshot as a profile with quiesce: freeze has it: it contains writes that were
// not flushed, and a writer meanwhile is blocked, and continues after it. A pool whose datasets have no
// filesystem of their own is never asked to, and one that freezes by itself is not helped with it.
func freezeHoldsWriters(f *fixture) {
	if !f.can.OwnFilesystem {
		return
	}
	d := f.create()
	m := f.mount(d.ID)
	f.ok(os.WriteFile(m.in("before"), []byte("before the freeze"), 0o600))
	s := f.snapshot(d)
	take := func() { f.ok(f.pool.Snapshot(f.ctx, s, nil)) }
	if f.pool.Info().Freezes && d.Encryption == nil { // the device below LUKS is not the filesystem's
		take()
	} else {
		f.frozen(m, take)
		f.fileHolds(m.in("meanwhile"), "written")
	}
	m.unmount()
	c := f.clone(f.source(s))
	f.holds(c.ID, "before", "before the freeze")
	f.holds(c.ID, "meanwhile", "")
}

// frozen calls do while the filesystem of a mount is frozen and a process tries to write to it.
func (f *fixture) frozen(m *mounted, do func()) {
	f.Helper()
	f.ok(fsctl.Freeze(m.root))
	thaw := sync.OnceValue(func() error { return fsctl.Thaw(m.root) })
	late := time.AfterFunc(longestFreeze, func() { _ = thaw() })
	defer late.Stop()
	defer func() { f.ok(thaw()) }() // before it is unmounted, after every failure
	thread, written := make(chan int, 1), make(chan error, 1)
	path := m.in("meanwhile")
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		written <- os.WriteFile(path, []byte("written"), 0o600)
	}()
	held := waits(<-thread, written)
	if held {
		do()
		held = len(written) == 0
	}
	if !held {
		f.Errorf("a filesystem that is frozen is written to")
	}
	f.ok(thaw())
	f.ok(<-written)
}

// waits tells whether a thread waits in the kernel for more than a signal (state D of
// proc_pid_stat(5)), rather than that it ends.
func waits(thread int, ended chan error) bool {
	for range 1000 {
		if len(ended) > 0 {
			return false
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", thread))
		if _, rest, ok := bytes.Cut(stat, []byte(") ")); ok && rest[0] == 'D' {
			return true
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
