// Package trialdir manages sandboxes: private folders in an operator's pool in which other pools are made for a trial
// and then removed. `drover backend verify` makes a sandbox for each run and tests the backend in it.
//
// A sandbox is in the directory of the pool, and so on the same filesystem:
//
//	<pool>/drover-verify-<uuid>/corner.json   the mark, locked with flock(2) while the sandbox is used
//	<pool>/drover-verify-<uuid>/…             trial pools, and other files of the trial
//
// A killed process or a crashed host leaves its sandbox behind. A remaining sandbox is recognized by its name together
// with its mark. A folder with only one of them is never removed. The exception is a folder that has the name of a
// sandbox and is empty, or contains only an empty mark: an interrupted process leaves such a folder while it makes a
// sandbox. The method List of a pool calls [IsSandbox], and does not list sandboxes.
//
// # Callers and state
//
// The command (cmd/drover/internal/verification) makes and removes a sandbox, and thaws the filesystems of a process
// that it kills. backends/verify clears the folder of each case. The agent finds remaining sandboxes: agent/doctor
// reports them, and agent/pooladmin removes them (`drover doctor --gc`) and refuses to remove a pool that has one.
// Backend lvm and package shelf recognize sandboxes in their pools. All state is on disk. The lock
// on the mark protects a used sandbox from being removed. How a sandbox is made, marked and recognized is in
// sandbox.go, what is removed with it in remove.go, and which filesystems are thawed in thaw.go.
package trialdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/safefile"
)

const (
	prefix     = "drover-verify-"
	markName   = "corner.json"
	markerName = "pool.json" // the marker that every pool in a directory has
)

// mark is the content of corner.json. It names the pool that contains the sandbox, and the backend of that pool.
type mark struct {
	ID      uuid.UUID `json:"id"`
	Pool    uuid.UUID `json:"pool"`
	Backend string    `json:"backend"`
}

// Sandbox is an existing sandbox.
type Sandbox struct {
	ID      uuid.UUID
	Path    string
	Backend string
	lock    *os.File
}

// Make makes a sandbox in the pool at path and locks its mark. It fails with dataset.ErrOffline if path does not have
// that pool. The caller must close the sandbox. Close does not remove it.
func Make(path string, pool uuid.UUID, backend string) (*Sandbox, error) {
	found, err := markerOf(path)
	if err == nil && (found.ID != pool || found.Backend != backend) {
		err = fmt.Errorf("it contains pool %s of backend %s", found.ID, found.Backend)
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrOffline,
			"cannot access pool %s at %s from here: %w (run this on the node that has it, as root)", pool, path,
			err)
	}
	c := &Sandbox{ID: uuid.New(), Backend: backend}
	c.Path = filepath.Join(path, prefix+c.ID.String())
	if err := os.Mkdir(c.Path, 0o700); err != nil {
		return nil, fmt.Errorf("create a sandbox in pool %s: %w", pool, err)
	}
	if err := c.createMark(mark{c.ID, pool, backend}); err != nil {
		return nil, fmt.Errorf("create a sandbox in pool %s: %w", pool,
			errors.Join(err, c.Close(), os.RemoveAll(c.Path)))
	}
	return c, nil
}

// markerOf reads the ID and the backend of the pool at path from its marker.
func markerOf(path string) (found mark, err error) {
	raw, err := safefile.Read(filepath.Join(path, markerName))
	if err == nil {
		err = json.Unmarshal(raw, &found)
	}
	return found, err
}

// createMark creates the mark, locks it and writes it.
func (c *Sandbox) createMark(m mark) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if c.lock, err = os.OpenFile(filepath.Join(c.Path, markName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if err := c.lockNewMark(); err != nil {
		return err
	}
	if _, err := c.lock.Write(raw); err != nil {
		return err
	}
	return c.lock.Sync()
}

// lockNewMark locks the mark that createMark just created. Only Find and Remove can have locked the new mark, and
// neither keeps the lock for long. So lockNewMark does not wait longer than a second. If Remove had locked the mark,
// Remove has also removed the folder, because it contained nothing else. Then the caller fails when it uses the folder.
func (c *Sandbox) lockNewMark() error {
	const tries, pause = 100, 10 * time.Millisecond
	for try := 1; ; try++ {
		err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if try == tries {
			return dataset.Errorf(dataset.ErrInUse, "%s holds a lock on %s", safefile.Holders(c.lock), c.lock.Name())
		}
		<-clock.System{}.After(pause)
	}
}

// Close unlocks the sandbox. It does not remove the sandbox.
func (c *Sandbox) Close() error {
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}

// IsSandbox reports whether name, in the pool at path, is a sandbox.
func IsSandbox(path, name string) bool {
	if !hasSandboxName(name) {
		return false
	}
	l := newFoundFolder(path, name)
	return l.readMark() == nil
}

func newFoundFolder(path, name string) FoundFolder {
	id := uuid.MustParse(strings.TrimPrefix(name, prefix))
	return FoundFolder{Sandbox: Sandbox{Path: filepath.Join(path, name), ID: id}}
}

func hasSandboxName(name string) bool {
	id, ok := strings.CutPrefix(name, prefix)
	_, err := uuid.Parse(id)
	return ok && err == nil && id == strings.ToLower(id) && len(id) == len(uuid.Nil.String())
}

// FoundFolder is a folder that Find found: a sandbox, or a foreign folder with the name of one.
type FoundFolder struct {
	Sandbox
	Foreign string // why the folder is no sandbox in spite of its name, and is never changed; empty for a sandbox
	Busy    bool   // a process has locked the mark
}

// Find returns the sandboxes in the pool at path, and foreign folders with the name of a sandbox.
func Find(path string) ([]FoundFolder, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("find sandboxes: %w", err)
	}
	var list []FoundFolder
	for _, e := range entries {
		if !hasSandboxName(e.Name()) {
			continue
		}
		sandbox := newFoundFolder(path, e.Name())
		if err := sandbox.readMark(); err != nil {
			sandbox.Foreign = err.Error()
		} else if f, err := sandbox.lockMark(); f != nil {
			sandbox.Busy = errors.Is(err, unix.EWOULDBLOCK)
			_ = f.Close()
		}
		list = append(list, sandbox)
	}
	return list, nil
}

// readMark reads the backend from the mark. It returns an error if the folder is not a sandbox. A folder without other
// content is a sandbox even if the mark is empty or absent.
func (l *FoundFolder) readMark() error {
	if info, err := os.Lstat(l.Path); err != nil {
		return err
	} else if !info.IsDir() {
		return errors.New("not a directory")
	}
	f, err := os.OpenFile(filepath.Join(l.Path, markName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	var raw []byte
	if err == nil {
		defer f.Close()
		raw, err = io.ReadAll(io.LimitReader(f, 1<<12))
	}
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case len(raw) > 0:
	case l.isEmpty():
		return nil // a process was interrupted while it made the sandbox
	case err == nil:
		return fmt.Errorf("its %s is empty, and it contains other files", markName)
	default:
		return fmt.Errorf("it has the name of a sandbox of drover backend verify, but lacks its %s", markName)
	}
	var m mark
	if err := json.Unmarshal(raw, &m); err != nil || m.ID != l.ID {
		return fmt.Errorf("its %s is not that of a sandbox of drover backend verify", markName)
	}
	l.Backend = m.Backend
	return nil
}

// isEmpty reports whether the folder contains at most a mark.
func (l *FoundFolder) isEmpty() bool {
	entries, err := os.ReadDir(l.Path)
	return err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != markName })
}

// lockMark locks the mark, and returns it open. The caller closes the file, if it is not nil. The error is
// unix.EWOULDBLOCK if another process has locked the mark.
func (l *FoundFolder) lockMark() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(l.Path, markName), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}
