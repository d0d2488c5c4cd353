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

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// A backup with a time needs no second run of restic to learn its ID. Without the cache, the second run tells the same.
func TestBackupIsWhatTheListSays(t *testing.T) {
	o, dir := options(t), source(t)
	r := initialized(t, o)
	o.CacheDir = ""
	uncached := open(t, o)
	ask := restic.Request{Dir: dir, Names: names(), Tags: []string{"drover", "volume=db"}, Time: time.Now()}
	for _, by := range []*restic.Repository{r, uncached, r} {
		b, _, err := by.Backup(t.Context(), ask)
		require.NoError(t, err)
		listed, err := r.Get(t.Context(), b.ID)
		require.NoError(t, err)
		if b.ID != listed.ID || !b.Time.Equal(listed.Time) || b.Parent != listed.Parent ||
			strings.Join(b.Tags, " ") != strings.Join(listed.Tags, " ") ||
			strings.Join(b.Paths, " ") != strings.Join(listed.Paths, " ") {
			t.Errorf("got %+v, want %+v", b, listed)
		}
		ask.Parent = b.ID
	}
}

// A file in the cache that is not the one of the new backup is not taken for it.
func TestFullIDInCache(t *testing.T) {
	const text, full = "content", "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
	const other = "ed7002b4" + "00000000000000000000000000000000000000000000000000000000"
	for name, c := range map[string]struct {
		files map[string]string
		old   bool
		want  bool // the ID is found without a list
	}{
		"found":           {map[string]string{"r1/snapshots/ed/" + full: text}, false, true},
		"absent":          {map[string]string{"r1/snapshots/00/" + full: text}, false, false},
		"damaged":         {map[string]string{"r1/snapshots/ed/" + full: text + "s"}, false, false},
		"older":           {map[string]string{"r1/snapshots/ed/" + full: text}, true, false},
		"in two caches":   {map[string]string{"r1/snapshots/ed/" + full: text, "r2/snapshots/ed/" + full: text}, false, false},
		"with a neighbor": {map[string]string{"r1/snapshots/ed/" + full: text, "r1/snapshots/ed/" + other: "x"}, false, false},
	} {
		o := options(t)
		commands := fake(t, `case $1 in
backup) echo '{"message_type":"summary","snapshot_id":"ed7002b4"}';;
snapshots) echo '[{"id":"`+other+`"}]';;
esac
`)
		for path, content := range c.files {
			path = filepath.Join(ownCache(o), path)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			write(t, path, content)
			if c.old {
				require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(-time.Minute)))
			}
		}
		b, _, err := open(t, o).Backup(t.Context(), restic.Request{Dir: source(t), Names: names(), Time: time.Now()})
		require.NoError(t, err)
		ran, err := os.ReadFile(commands)
		require.NoError(t, err)
		want, runs := other, "backup\nsnapshots\n"
		if c.want {
			want, runs = full, "backup\n"
		}
		if b.ID != want || string(ran) != runs {
			t.Errorf("%s: got %s by %q", name, b.ID, ran)
		}
	}
}

// A prune can remove data while restic reads them without a lock. Then restic reads again, with a lock.
func TestReadAgainWithLock(t *testing.T) {
	fake(t, `case "$*" in
*--no-lock*) echo 'Fatal: pack 5f: does not exist: blob not found in repository' >&2; exit 1;;
*) echo '{"total_size": 14, "snapshots_count": 1}';;
esac
`)
	r := open(t, options(t))
	got, err := r.File(t.Context(), "0123abcd", "record.json", 100)
	if err != nil || len(got) != 41 {
		t.Errorf("got %q, %v", got, err)
	}
	if size, err := r.RestoreSize(t.Context(), "0123abcd"); err != nil || size != 14 {
		t.Errorf("got the size %d, %v", size, err)
	}
}

// restic ends as soon as a file is too large, also if the file has no end.
func TestEndlessFile(t *testing.T) {
	fake(t, "exec cat /dev/zero\n")
	_, err := open(t, options(t)).File(t.Context(), "0123abcd", "record.json", 100)
	refused(t, err, dataset.ErrInvalid, "file record.json of backup 0123abcd has more than 100 bytes")
}

func TestSizeOfAbsentBackup(t *testing.T) {
	r := initialized(t, options(t))
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	if got, err := r.RestoreSize(t.Context(), b.ID); err != nil || got != 14 {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = r.RestoreSize(t.Context(), strings.Repeat("5f", 32))
	refused(t, err, dataset.ErrNotFound, "it has no such backup")
}

// The version of restic is read once, and again after the program was replaced.
func TestVersionIsReadOnce(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	install := func(version string) {
		t.Helper()
		next := filepath.Join(bin, "next")
		require.NoError(t, os.WriteFile(next, []byte("#!/bin/sh\necho >>"+bin+"/runs\necho restic "+version+"\n"), 0o700))
		require.NoError(t, os.Rename(next, filepath.Join(bin, "restic")))
	}
	var p restic.Program
	open := func(runs int) error {
		t.Helper()
		_, err := p.Open(t.Context(), &run.System{}, options(t))
		if text, rerr := os.ReadFile(filepath.Join(bin, "runs")); rerr != nil || len(text) != runs {
			t.Errorf("got %d runs, %v, want %d", len(text), rerr, runs)
		}
		return err
	}
	install("0.14.0")
	require.NoError(t, open(1))
	require.NoError(t, open(1))
	install("0.12.0")
	refused(t, open(2), dataset.ErrUnsupported, "this node has restic 0.12.0")
	refused(t, open(3), dataset.ErrUnsupported, "this node has restic 0.12.0") // it can be replaced at any time
	install("0.18.0")
	require.NoError(t, open(4))
	require.NoError(t, open(4))
	require.NoError(t, os.Remove(filepath.Join(bin, "restic")))
	t.Setenv("PATH", bin)
	_, err := p.Open(t.Context(), &run.System{}, options(t))
	refused(t, err, dataset.ErrUnsupported, "not installed")
}

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
