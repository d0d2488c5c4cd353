package restic

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/run"
)

// lockHostFile is the file in the folder of the cache with the digits of this node in the names of its locks.
const lockHostFile = "lock-host"

// lockHost returns the host name that this node's runs of restic write into their locks: the name of the host, digits
// of this node, and digits of this boot and file. Hosts of two clusters can have the same name, and a copied machine or
// folder has the digits of its original, whose runs it cannot know: its boot, or its file, is another one. Each URL has
// other digits: a repository can have several, and hold knows only the runs with this URL. The first call chooses the
// digits. of is the name without the last digits. Both are "" if there is no CacheDir, or if its disk takes no file.
func (o Options) lockHost() (host, of string, err error) {
	dir := o.cacheDir()
	if dir == "" {
		return "", "", nil
	}
	path := filepath.Join(dir, lockHostFile)
	text, err := os.ReadFile(path)
	if err == nil && !validHost().Match(text) { // a failing disk
		err = os.Remove(path)
		text = nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("read the host name for locks: %w", err)
	}
	if len(text) == 0 {
		name, _ := os.Hostname() // only for people who read the name
		name = regexp.MustCompile(`[^A-Za-z0-9-]+`).ReplaceAllString(name, "-")
		digits := make([]byte, 8)
		_, _ = rand.Read(digits) // never fails, see its documentation
		err = writeNew(path, []byte(fmt.Sprintf("%.32s-%s", name, hex.EncodeToString(digits))))
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) {
			return "", "", nil // a restore must be possible nevertheless; restic then uses the name of the host
		}
		if err == nil {
			text, err = os.ReadFile(path) // another call can have chosen it
		}
		if err != nil {
			return "", "", fmt.Errorf("choose the host name for locks: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", "", fmt.Errorf("read the host name for locks: %w", err)
	}
	boot, err := clock.BootID()
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", boot, st.Dev, st.Ino))
	return fmt.Sprintf("%s-%x", text, sum[:4]), string(text), nil
}

// writeNew writes a file durably, unless it exists. Another call never sees a part of it.
func writeNew(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, lockHostFile+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

// validHost matches what lockHost writes into its file.
func validHost() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9-]{0,32}-[0-9a-f]{16}$`) }

// hold locks the file with the host name until it is closed. A run that can have a lock in the repository shares it
// (LOCK_SH): restic ends with this process (see KillWithParent), and does not inherit it, because its child ssh can
// stay for hours. While removeEndedLocks has it alone (LOCK_EX), all locks with the host name are of processes that
// have ended. If others have it until ctx ends, hold fails with EWOULDBLOCK.
func (o Options) hold(ctx context.Context, how int) (*os.File, error) {
	f, err := os.Open(filepath.Join(o.cacheDir(), lockHostFile))
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err, f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// share returns lockHost. If a run with these arguments can have a lock in the repository, share also returns the file,
// which is open until the run has ended.
func (o Options) share(ctx context.Context, args []string) (host string, held *os.File, err error) {
	host, _, err = o.lockHost()
	if host == "" || err != nil || args[0] == "unlock" || slices.Contains(args, "--no-lock") {
		return host, nil, err
	}
	held, err = o.hold(ctx, unix.LOCK_SH)
	return host, held, err
}

// lock is the content of a lock in a repository.
type lock struct {
	Time time.Time `json:"time"` // when it was made, or refreshed
	Host string    `json:"hostname"`
}

// lockedBy matches restic's message that a repository is locked.
func lockedBy() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^(?:Fatal: )?(?:unable to create lock in backend: )?` +
		`repository is already locked (?:exclusively )?by PID (\d+) on (\S+)`)
}

// lockAge says how old the lock is that made restic fail, if restic says so. A process that runs refreshes its lock
// every 5 minutes, and restic counts from then on.
func lockAge(text string) string {
	found := regexp.MustCompile(`(?m)^lock was created at .* \((\S+) ago\)$`).FindStringSubmatch(text)
	if found == nil {
		return ""
	}
	age, err := time.ParseDuration(found[1])
	if err != nil {
		return ""
	}
	if age < 0 {
		return ", by a clock that was ahead (restic unlock --remove-all removes such a lock)"
	}
	return fmt.Sprintf(", which refreshed its lock %s ago", age.Round(time.Second))
}

// restic unlock removes the locks that were not refreshed for half an hour, by their times and the clock of this host.
// A process refreshes its lock every 5 minutes, and the refreshed lock has another ID. So removeEndedLocks runs unlock
// only if each lock that this could remove is of a process of this node that has ended, or was seen unchanged for
// endedAge by this process: then nobody refreshes it. For the lock of another host, that is abandonedAge, because a
// machine that was suspended continues. No clock but the steady one of this host decides.
//
// At most maxLocks locks are examined, of maxLock bytes.
const (
	youngAge     = 20 * time.Minute // unlock does not remove it, also if the clocks differ a little
	endedAge     = 40 * time.Minute
	abandonedAge = 24 * time.Hour
	maxLocks     = 50
	maxLock      = 64 << 10
)

// seenLocks remembers since when locks were seen, by the URL of their repository and their IDs. The zero value is ready
// to use, and safe for concurrent use.
type seenLocks struct {
	mu sync.Mutex
	of map[string]map[string]time.Duration // by the steady clock
}

// see notes which locks are in a repository at a time, and returns for how long each was seen.
func (s *seenLocks) see(url string, ids []string, now time.Duration) map[string]time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, seen := map[string]time.Duration{}, map[string]time.Duration{}
	for _, id := range ids {
		at, known := s.of[url][id]
		if !known {
			at = now
		}
		since[id], seen[id] = at, now-at
	}
	if s.of == nil {
		s.of = map[string]map[string]time.Duration{}
	}
	s.of[url] = since
	return seen
}

// RemoveKilledLock removes the lock of a run that was killed because its context ended with dataset.ErrNoSpace. If that
// fails, the next run of this node that finds the lock removes it.
func (r *Repository) RemoveKilledLock(ctx context.Context) { _, _ = r.removeEndedLocks(ctx) }

// removeEndedLocks removes the locks of processes that have ended. ok is false if there is none, or if it must not.
//
// To find out whether the process of a lock exists, restic unlock sends SIGHUP to its PID. Anybody who can write to the
// repository can write any PID into it. So runOnce starts it in a PID namespace. There it reaches no process, and takes
// all for ended.
func (r *Repository) removeEndedLocks(ctx context.Context) (ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, shortTime) // other runs wait
	defer cancel()
	host, of, err := r.options.lockHost()
	if host == "" || err != nil {
		return false, err
	}
	// Another run can be about to fail because of the same lock.
	soon, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	alone, err := r.options.hold(soon, unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) && ctx.Err() == nil {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer alone.Close()
	out := run.NewHead(maxLocks * maxLock)
	if _, err := r.runOnce(ctx, command{time: shortTime, stdout: out}, "list", "locks", "--no-lock"); err != nil {
		return false, err
	}
	ids := strings.Fields(string(out.Bytes()))
	if len(ids) > maxLocks {
		return false, nil
	}
	if err := r.checkIDs(ids...); err != nil {
		return false, err
	}
	seen := r.program.locks.see(r.URL(), ids, r.program.clock().Steady())
	for _, id := range ids {
		out = run.NewHead(maxLock)
		var l lock
		_, err := r.runOnce(ctx, command{time: shortTime, stdout: out}, "cat", "lock", id, "--no-lock")
		if err == nil {
			err = json.Unmarshal(out.Bytes(), &l)
		}
		if err != nil && (ctx.Err() != nil || seen[id] < abandonedAge) {
			return false, err // it can be one that was removed meanwhile: the caller tries again later
		}
		least := abandonedAge
		if strings.HasPrefix(l.Host, of+"-") {
			least = endedAge
		}
		switch {
		case l.Host == host, seen[id] >= least:
			ok = true
		case r.program.clock().Now().Sub(l.Time) > youngAge:
			return false, nil
		}
	}
	if !ok {
		return false, nil
	}
	_, err = r.runOnce(ctx, command{time: shortTime}, "unlock")
	return err == nil, err
}
