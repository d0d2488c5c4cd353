package restic

import (
	"bytes"
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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
)

// lockHostFile is the file in Options.CacheDir with the host name in the locks of this node.
const lockHostFile = "lock-host"

// lockHost returns the host name that this node's runs of restic write into their locks. restic identifies the process
// of a lock by its host name and PID, and hosts of two clusters can have the same name. So the name ends with random
// digits. The first call chooses it. lockHost returns "" if there is no CacheDir, or if its disk takes no file.
func (o Options) lockHost() (string, error) {
	dir := o.CacheDir
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

// lock is the content of a lock in a repository.
type lock struct {
	Time time.Time `json:"time"` // when it was made, or refreshed
	Host string    `json:"hostname"`
	PID  int       `json:"pid"`
}

// isEnded reports whether the lock is of a process of this node that has ended. It also returns true if another program
// has the PID of that process now.
func (l lock) isEnded(lockHost string) bool {
	if lockHost == "" || l.Host != lockHost || l.PID <= 0 {
		return false
	}
	name := l.program()
	return name != "restic" && name != "?"
}

// program returns the name of the program that runs with the PID of the lock. It returns "" if there is none, and "?"
// if that cannot be found out.
func (l lock) program() string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.PID))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return ""
	case err != nil:
		return "?"
	}
	return strings.TrimSpace(string(name))
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

// ownerEnded reports whether the lock that made restic fail is of a process of this node that has ended.
func (r *Repository) ownerEnded(text []byte) bool {
	locked := lockedBy().FindStringSubmatch(withoutJSON(string(text)))
	if locked == nil {
		return false
	}
	host, err := r.options.lockHost()
	pid, perr := strconv.Atoi(locked[1])
	return err == nil && perr == nil && lock{Host: locked[2], PID: pid}.isEnded(host)
}

// restic unlock also removes the locks of other hosts that were not refreshed for half an hour. A process that was
// stopped for a while, or a clock that is wrong, makes the lock of a process that runs look like one of these.
// removeEndedLocks therefore removes none if there is a lock of another process that is older than maxLockAge. After
// abandonedAge, such a lock is taken for abandoned: restic refreshes its lock every 5 minutes. Otherwise the locks that
// two hosts left in a power cut would protect each other for ever.
//
// To find out whether the process of a lock of this node exists, restic unlock sends it SIGHUP. A lock that is younger
// than signalAge could therefore make it signal another process that has the PID now, or that somebody wrote into the
// repository. restic judges older locks by their age alone.
//
// At most maxLocks locks are examined.
const (
	maxLockAge   = 20 * time.Minute
	signalAge    = 31 * time.Minute
	abandonedAge = 24 * time.Hour
	maxLocks     = 50
)

// forbidsUnlock reports whether restic unlock must not run while there is a lock of this age.
func (l lock) forbidsUnlock(lockHost string, age time.Duration) bool {
	if l.Host == lockHost && age < signalAge {
		name := l.program()
		return l.PID <= 0 || name != "" && name != "restic"
	}
	return !l.isEnded(lockHost) && age > maxLockAge && age < abandonedAge
}

// removeEndedLocks removes the locks of processes of this node that have ended. ok is false if it must not.
func (r *Repository) removeEndedLocks(ctx context.Context) (ok bool, err error) {
	host, err := r.options.lockHost()
	if err != nil {
		return false, err
	}
	var out bytes.Buffer
	c := command{time: shortTime, stdout: &out}
	if _, err := r.runOnce(ctx, c, "list", "locks", "--no-lock"); err != nil {
		return false, err
	}
	ids := strings.Fields(out.String())
	if len(ids) > maxLocks {
		return false, nil
	}
	for _, id := range ids {
		if err := r.checkIDs(id); err != nil {
			return false, err
		}
		out.Reset()
		_, err := r.runOnce(ctx, c, "cat", "lock", id, "--no-lock")
		if err != nil {
			return false, err // it can be one that was removed meanwhile: the caller tries again later
		}
		var l lock
		if err := json.Unmarshal(out.Bytes(), &l); err != nil {
			return false, r.errorf(dataset.ErrInternal, "lock %s is not as expected: %w", id, err)
		}
		if l.forbidsUnlock(host, (clock.System{}).Now().Sub(l.Time)) {
			return false, nil
		}
	}
	_, err = r.runOnce(ctx, command{time: shortTime}, "unlock")
	return err == nil, err
}
