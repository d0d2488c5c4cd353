package pool_test

import (
	"maps"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
)

// The name of a pool's lock can be read by everyone. An unprivileged user who takes the name while Drover is down
// does not keep the pool offline. Doctor reports that the pool is not protected from another Drover.
func TestPoolNameTakenByUnprivilegedUser(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	names := slices.Collect(maps.Keys(r.Pools.PoolLocks.Sockets))
	if len(names) != 1 {
		t.Fatalf("holds %q", names)
	}
	cfg := r.Config
	r.Stop()
	fd, done := -1, make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its user ID
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		var err error
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + names[0]})
		}
		if err == nil {
			err = unix.Listen(fd, 16)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r.StartWith(cfg)
	if err := r.Create(t.Context(), "new", nil); err != nil {
		t.Error(err)
	}
	list, err := r.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := false
	for _, f := range list {
		said = said || f.Level == host.Warning && f.Subject == "pool default" && strings.Contains(f.Text, "uid 65534")
	}
	if !said {
		t.Errorf("doctor does not say it: %+v", list)
	}
}
