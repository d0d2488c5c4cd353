package backendtest

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// asContainer calls do without a capability that containers do not have by default: with CAP_SYS_RESOURCE the
// quotas of ext4 have no effect.
func (f *fixture) asContainer(do func()) {
	f.Helper()
	runtime.LockOSThread() // capabilities are a thread's
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	f.ok(unix.Capget(&header, &had[0]))
	less := had
	less[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	f.ok(unix.Capset(&header, &less[0]))
	defer func() { f.ok(unix.Capset(&header, &had[0])) }()
	do()
}
