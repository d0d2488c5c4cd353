package restic

import (
	"context"
	"crypto/rand"
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
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/run"
)

// lockHostFile is the file in the folder of the cache with the host name in the locks of this node.
const lockHostFile = "lock-host"

// lockHost returns the host name that this node's runs of restic write into their locks. Hosts of two clusters can have
// the same name. So the name ends with random digits. The first call chooses it. Each URL has another one: a repository
// can have several, and hold knows only the runs with this URL. lockHost returns "" if there is no CacheDir, or if its
// disk takes no file.
func (o Options) lockHost() (string, error) {
	dir := o.cacheDir()
	if dir == "" {
		return "", nil
	}
	path := filepath.Join(dir, lockHostFile)
	text, err := os.ReadFile(path)
	if err == nil && validHost().Match(text) {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the host name for locks: %w", err)
	}
	host, _ := os.Hostname() // only for people who read the name
	host = regexp.MustCompile(`[^A-Za-z0-9-]+`).ReplaceAllString(host, "-")
	digits := make([]byte, 8)
	_, _ = rand.Read(digits) // never fails, see its documentation
	host = fmt.Sprintf("%.40s-%s", host, hex.EncodeToString(digits))
	err = writeNew(path, []byte(host))
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) {
		return "", nil // a restore must be possible nevertheless; restic then uses the name of the host
	}
	if err != nil {
		return "", fmt.Errorf("choose the host name for locks: %w", err)
	}
	text, err = os.ReadFile(path) // another call can have chosen it
	if err == nil && !validHost().Match(text) {
		err = fmt.Errorf("%s is damaged (remove it)", path)
	}
	return string(text), err
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

// validHost matches a host name that lockHost has chosen.
func validHost() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9-]{0,40}-[0-9a-f]{16}$`) }

// hold locks the file with the host name until it is closed. A run that can have a lock in the repository shares it
// (LOCK_SH), and restic inherits it. While removeEndedLocks has it alone (LOCK_EX), all locks with the host name are of
// processes that have ended. If others have it until ctx ends, hold fails with EWOULDBLOCK.
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

// share returns lockHost. If a run with these arguments can have a lock in the repository, it also inherits the file.
func (o Options) share(ctx context.Context, at *place, args []string) (host string, err error) {
	host, err = o.lockHost()
	if host == "" || err != nil || args[0] == "unlock" || slices.Contains(args, "--no-lock") {
		return host, err
	}
	held, err := o.hold(ctx, unix.LOCK_SH)
	if err == nil {
		at.files = append(at.files, held)
	}
	return host, err
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
	return fmt.Sprintf(", which refreshed its lock %s ago", age.Round(time.Second))
}

// isOwn reports whether the lock that made restic fail has the host name of this node.
func (r *Repository) isOwn(text []byte) bool {
	locked := lockedBy().FindStringSubmatch(withoutJSON(string(text)))
	host, err := r.options.lockHost()
	return locked != nil && err == nil && locked[2] == host
}

// restic unlock also removes the locks of other hosts that were not refreshed for half an hour. A process that was
// stopped for a while, or a clock that is wrong, makes the lock of a process that runs look like one of these.
// removeEndedLocks therefore removes none if there is a lock of another process that is older than maxLockAge. After
// abandonedAge, such a lock is taken for abandoned: restic refreshes its lock every 5 minutes. Otherwise the locks that
// two hosts left in a power cut would protect each other for ever.
//
// At most maxLocks locks are examined, of maxLock bytes.
const (
	maxLockAge   = 20 * time.Minute
	abandonedAge = 24 * time.Hour
	maxLocks     = 50
	maxLock      = 64 << 10
)

// removeEndedLocks removes the locks of processes of this node that have ended. ok is false if it must not.
//
// To find out whether the process of a lock exists, restic unlock sends SIGHUP to its PID. Anybody who can write to the
// repository can write any PID into it. So runOnce starts it in a PID namespace. There it reaches no process, and takes
// all for ended.
func (r *Repository) removeEndedLocks(ctx context.Context) (ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, shortTime) // other runs wait
	defer cancel()
	host, err := r.options.lockHost()
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
	for _, id := range ids {
		if err := r.checkIDs(id); err != nil {
			return false, err
		}
		out = run.NewHead(maxLock)
		_, err := r.runOnce(ctx, command{time: shortTime, stdout: out}, "cat", "lock", id, "--no-lock")
		if err != nil {
			return false, err // it can be one that was removed meanwhile: the caller tries again later
		}
		var l lock
		if err := json.Unmarshal(out.Bytes(), &l); err != nil {
			return false, r.errorf(dataset.ErrInternal, "lock %s is not as expected: %w", id, err)
		}
		age := clock.System{}.Now().Sub(l.Time)
		if l.Host != host && age > maxLockAge && age < abandonedAge {
			return false, nil
		}
	}
	_, err = r.runOnce(ctx, command{time: shortTime}, "unlock")
	return err == nil, err
}
