package restic_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// backUp64 makes a first backup of 64 MiB that cannot be compressed, with a limit, and with a time limit if it is
// positive. It returns how long the backup took.
func backUp64(t *testing.T, maxRead int64, limit time.Duration) (took time.Duration, o restic.Options, err error) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data"), treetest.Bytes(1, 64<<20), 0o600))
	o = options(t)
	o.MaxRead, o.Unlimited = maxRead, func(reason error) { t.Errorf("not limited: %v", reason) }
	restictest.Make(t, o.URL, password)
	r := open(t, o)
	ctx := t.Context()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	start := time.Now()
	_, _, err = r.Backup(ctx, restic.Request{Dir: dir, Names: []string{"data"}})
	return time.Since(start), o, err
}

// The limit makes the backup take 3 seconds, after the allowance of the first second. What restic reads in the last tick
// can save up to a second. On a slow machine, the backup takes longer.
func TestPacedBackup(t *testing.T) {
	unpaced, _, err := backUp64(t, 0, 0)
	require.NoError(t, err)
	took, _, err := backUp64(t, 16<<20, 0)
	require.NoError(t, err)
	t.Logf("without a limit: %s, with a limit: %s", unpaced, took)
	if took < 2*time.Second || took > 8*time.Second+2*unpaced {
		t.Errorf("the backup took %s, and %s without a limit, want 2 to 8 seconds", took, unpaced)
	}
}

// A cancelled backup is continued, so that restic removes its lock after SIGINT. Most of the time it is stopped.
func TestPacedBackupIsCancelled(t *testing.T) {
	took, o, err := backUp64(t, 4<<20, 2500*time.Millisecond)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	t.Logf("took %s", took)
	locks, err := os.ReadDir(filepath.Join(o.URL, "locks"))
	if err != nil || len(locks) > 0 {
		t.Errorf("restic was killed: it left %d locks, %v", len(locks), err)
	}
}

// Other processes come first while a backup runs. The limit makes it last for a quarter of a minute, unless it is
// cancelled.
func TestBackupRunsBehindOthers(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data"), treetest.Bytes(1, 64<<20), 0o600))
	o := options(t)
	o.MaxRead = 4 << 20
	restictest.Make(t, o.URL, password)
	r := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, err := r.Backup(ctx, restic.Request{Dir: dir, Names: []string{"data"}})
		ended <- err
	}()
	for {
		if pid := resticIn(dir); pid != 0 {
			nice, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
			const fromKernel = 20 // the system call returns 20 less the nice value: getpriority(2)
			if err != nil || fromKernel-nice != 19 {
				t.Errorf("got a nice value of %d, %v", fromKernel-nice, err)
			}
			class, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(pid), 0) // IOPRIO_WHO_PROCESS
			if errno != 0 || class>>13 != 3 {                                        // IOPRIO_CLASS_IDLE
				t.Errorf("got the I/O class %d, %v", class>>13, errno)
			}
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the backup ended before its process was seen: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the cancelled backup succeeded")
	}
}

// resticIn returns the process of restic with the working directory dir, or 0.
func resticIn(dir string) int {
	cwds, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range cwds {
		at, err := os.Readlink(cwd)
		name, rerr := os.ReadFile(filepath.Join(filepath.Dir(cwd), "comm"))
		if err == nil && rerr == nil && at == dir && strings.TrimSpace(string(name)) == "restic" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(cwd)))
			return pid
		}
	}
	return 0
}
