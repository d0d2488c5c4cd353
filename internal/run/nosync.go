package run

import (
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/process"
)

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
