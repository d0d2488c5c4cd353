// Package fault makes system calls fail, to test what happens to data when a disk is full or broken.
// The program under test needs no hooks: a seccomp(2) filter on one thread reports every call that
// changes something on a disk to this package, which lets the call through or makes it fail without
// effect. Commands can fail too, before or after they run: see Runner.
//
// Calls of other threads and of child processes never fail. Only tests use the package: backends/backendtest/crashing,
// and the tests of some backends. The only state is the active Run: an atomic pointer to its watcher, whose list of
// calls a mutex protects. The caller ensures that a process has one Run at a time. Which system calls count as changes
// is in calls.go.
package fault

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Failure defines which calls fail, and how.
type Failure struct {
	At      int        // the index of the first call that fails; if negative, none fails
	Errno   unix.Errno // the error of the calls that fail
	Onwards bool       // all later calls fail too
}

// running is the watcher of the Run that is active, or nil.
var running atomic.Pointer[watcher]

// Run calls do on a separate thread, whose calls fail as f defines. It returns the names of all calls
// that changed something or failed, in order: calls[f.At] is the first that failed.
//
// Run needs root. It fails if the kernel refuses the filter, or if a child process of do is still running ten seconds
// after do has returned. Not safe for concurrent use: a process may have only one Run at a time.
func Run(f Failure, do func()) (calls []string, err error) {
	type result struct {
		calls []string
		err   error
	}
	done := make(chan result)
	onThread(func() {
		w, err := watch(f)
		if err != nil {
			done <- result{nil, err}
			return
		}
		running.Store(w)
		do()
		running.Store(nil)
		close(w.ended)
		go func() { // on another thread: the watcher ends only after this one has ended
			err := <-w.done
			done <- result{w.calls, err}
		}()
	})
	r := <-done
	return r.calls, r.err
}

// onThread calls do on a thread that ends when do returns. It does not use the first thread of the process, which never
// ends.
func onThread(do func()) {
	go func() {
		runtime.LockOSThread() // no unlock, so that the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			do()
			return
		}
		onThread(do)
		runtime.UnlockOSThread()
	}()
}

// watcher decides which calls of one thread fail.
type watcher struct {
	Failure

	listener int
	thread   int
	ended    chan struct{} // closed when do has returned
	done     chan error    // receives one value when the watcher has ended

	mu    sync.Mutex
	calls []string
}

// watch installs the filter on the current thread and starts a watcher for it.
func watch(f Failure) (*watcher, error) {
	program := filter()
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return nil, fmt.Errorf("watch system calls (seccomp, as root): %w", errno)
	}
	w := &watcher{
		Failure:  f,
		listener: int(fd),
		thread:   unix.Gettid(),
		ended:    make(chan struct{}),
		done:     make(chan error, 1),
	}
	go func() {
		err := w.run()
		w.done <- errors.Join(err, unix.Close(w.listener))
	}()
	return w, nil
}

// filter returns the BPF program that reports the watched calls to the listener and allows all others.
//
// It also allows writes of 8 bytes. Go's runtime wakes its poller with such a write, and cannot stop the thread for a
// garbage collection during it. If the write waited for the listener, there would be a deadlock: a garbage collection
// would wait for the thread, and the listener for the garbage collection.
func filter() []unix.SockFilter {
	const number, count = 0, 16 + 2*8 // offsets of the call's number and third argument in struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(value uint32, yes, no int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: uint8(yes), Jf: uint8(no)}
	}
	watched := watched()
	program := []unix.SockFilter{load(number), equal(unix.SYS_WRITE, 0, 3), load(count),
		equal(8, len(watched)+1, 0), load(number)}
	for i, call := range watched {
		program = append(program, equal(uint32(call), len(watched)-i, 0))
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF})
}

// call is struct seccomp_notif of linux/seccomp.h: a call that waits for an answer.
type call struct {
	id          uint64
	pid         uint32 // of the thread
	flags       uint32
	number      int32
	arch        uint32
	instruction uint64
	args        [6]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// patience is how long the thread and its child processes may run on after do has returned.
const patience = 10 * time.Second

// run answers calls until no thread or process has the filter any more.
func (w *watcher) run() error {
	var late <-chan time.Time
	ended := w.ended
	for {
		select {
		case <-ended:
			late, ended = time.After(patience), nil
		case <-late:
			return fmt.Errorf("a child process still runs %s after the test function returned", patience)
		default:
		}
		fds := []unix.PollFd{{Fd: int32(w.listener), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		switch {
		case errors.Is(err, unix.EINTR), n == 0:
			continue
		case err != nil:
			return err
		case fds[0].Revents&unix.POLLIN == 0:
			return nil // hung up
		}
		var c call
		if err := w.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&c)); err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
				continue // a signal interrupted the call, and the thread repeats it
			}
			return err
		}
		a := w.answer(c)
		if err := w.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)); err != nil &&
			!errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}

func (w *watcher) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(w.listener), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// answer decides whether a call is carried out or fails.
func (w *watcher) answer(c call) answer {
	a := answer{id: c.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if int(c.pid) != w.thread { // a call of a child process
		return a
	}
	if name := c.change(); name != "" && w.fails(name) {
		a.flags, a.err = 0, -int32(w.Errno)
	}
	return a
}

// fails counts a call and reports whether it must fail.
func (w *watcher) fails(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.calls)
	w.calls = append(w.calls, name)
	return n == w.At || w.Onwards && w.At >= 0 && n > w.At
}

// path returns the path of the file that is open as fd, or "" if that cannot be found.
func (c call) path(fd uint64) string {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.pid, int32(fd)))
	if err != nil {
		return ""
	}
	return target
}
