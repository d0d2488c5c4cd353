package run

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/process"
)

// Head keeps the first bytes that are written to it. Use it as Command.Stdout for an output that may be longer than
// MaxStdout. It is safe for concurrent use, because the output of a stuck command may still arrive while the caller
// reads the earlier output.
type Head struct {
	// Full, if not nil, is called for each write of which a part is not kept.
	Full func()

	mu        sync.Mutex
	max       int
	buf       []byte
	truncated bool
}

// NewHead returns a Head that keeps the first max bytes.
func NewHead(max int) *Head { return &Head{max: max} }

// Write implements io.Writer. It never fails.
func (h *Head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := min(h.max-len(h.buf), len(p))
	h.buf = append(h.buf, p[:room]...)
	h.truncated = h.truncated || room < len(p)
	if h.truncated && h.Full != nil {
		h.Full()
	}
	return len(p), nil
}

// Bytes returns a copy of the bytes that were kept.
func (h *Head) Bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]byte(nil), h.buf...)
}

// Overflowed reports whether more bytes were written than are kept.
func (h *Head) Overflowed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.truncated
}

// Tail keeps the last bytes that are written to it. Use it as Command.Stdout for an output of any length whose end
// matters. It is safe for concurrent use, as Head is.
type Tail struct {
	mu  sync.Mutex
	max int
	buf []byte
}

// NewTail returns a Tail that keeps the last max bytes.
func NewTail(max int) *Tail { return &Tail{max: max} }

// Write implements io.Writer. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.max; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

// Bytes returns a copy of the bytes that were kept.
func (t *Tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.buf...)
}

// startWithoutSync starts a command on which sync(2) has no effect. The command inherits the filter of a thread, which
// ends: such a command cannot get a signal when its parent dies (Command.KillWithParent).
func startWithoutSync(cmd *exec.Cmd) (err error) {
	process.RunOnThread(func() {
		if err = ignoreSync(); err == nil {
			err = cmd.Start()
		}
	})
	return err
}

// ignoreSync makes sync(2) do nothing in this thread and in the processes that it starts (seccomp(2)).
func ignoreSync() error {
	arch, known := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !known {
		return nil
	}
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS // from struct seccomp_data: the number is at 0, the ABI at 4
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, K: arch, Jf: 3},
		{Code: load, K: 0},
		{Code: equal, K: unix.SYS_SYNC, Jf: 1},
		{Code: end, K: unix.SECCOMP_RET_ERRNO},
		{Code: end, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER,
		uintptr(unsafe.Pointer(&program)), 0, 0) //nolint:gosec // the only way to pass a program to the kernel
	if err == unix.EINVAL || err == unix.ENOSYS { // a kernel without filters
		return nil
	}
	return err
}

// start starts a command from the thread of the caller. If hostname is not empty, the command gets it as its host name,
// in a UTS namespace (uts_namespaces(7)). Without the right to make one, the command sees the name of the host.
func start(cmd *exec.Cmd, hostname string) (err error) {
	if hostname == "" {
		return cmd.Start()
	}
	runtime.LockOSThread()
	was, err := os.Open("/proc/thread-self/ns/uts")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	if unix.Unshare(unix.CLONE_NEWUTS) != nil {
		runtime.UnlockOSThread()
		return errors.Join(cmd.Start(), was.Close())
	}
	defer func() {
		if unix.Setns(int(was.Fd()), unix.CLONE_NEWUTS) == nil {
			runtime.UnlockOSThread()
		} // otherwise this thread ends with the goroutine
		err = errors.Join(err, was.Close())
	}()
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return err
	}
	return cmd.Start() // the process inherits the namespace of this thread
}
