// Package trialdir keeps a place in somebody's pool for pools that are made to be tried and
// removed again, such as those of drover backend verify.
//
// A corner is a folder beside a pool's own, so that it lies on the same filesystem:
//
//	<pool>/drover-verify-<uuid>/corner.json   the mark, held with flock(2) while it is used
//	<pool>/drover-verify-<uuid>/…             pools, and whatever else is tried
//
// The name and the mark are how a corner that was left is known: by a process that was killed,
// or a host that fell. Nothing without both is ever removed, but an empty folder of that name.
// A pool's List passes corners over: see Is.
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
	markerName = "pool.json" // of every pool in a directory
)

// mark says whose a corner is.
type mark struct {
	ID      uuid.UUID `json:"id"`
	Pool    uuid.UUID `json:"pool"`
	Backend string    `json:"backend"`
}

// Corner is one that is there.
type Corner struct {
	ID      uuid.UUID
	Path    string
	Backend string
	lock    *os.File
}

// Make makes a corner in the pool at path, which must be that pool: dataset.ErrOffline otherwise. The caller
// closes it, which leaves it there.
func Make(path string, pool uuid.UUID, backend string) (*Corner, error) {
	there, err := markerOf(path)
	if err == nil && (there.ID != pool || there.Backend != backend) {
		err = fmt.Errorf("what lies there is pool %s of backend %s", there.ID, there.Backend)
	}
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrOffline,
			"pool %s is not to be seen at %s from here: %w (run this on the node that has it, as root)", pool, path,
			err)
	}
	c := &Corner{ID: uuid.New(), Backend: backend}
	c.Path = filepath.Join(path, prefix+c.ID.String())
	if err := os.Mkdir(c.Path, 0o700); err != nil {
		return nil, fmt.Errorf("make a corner in pool %s: %w", pool, err)
	}
	if err := c.sign(mark{c.ID, pool, backend}); err != nil {
		return nil, fmt.Errorf("make a corner in pool %s: %w", pool, errors.Join(err, c.Close(), os.RemoveAll(c.Path)))
	}
	return c, nil
}

// markerOf reads the pool at path, and its backend.
func markerOf(path string) (there mark, err error) {
	raw, err := safefile.Read(filepath.Join(path, markerName))
	if err == nil {
		err = json.Unmarshal(raw, &there)
	}
	return there, err
}

// sign writes the mark, and holds it.
func (c *Corner) sign(m mark) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if c.lock, err = os.OpenFile(filepath.Join(c.Path, markName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	if err := c.hold(); err != nil {
		return err
	}
	if _, err := c.lock.Write(raw); err != nil {
		return err
	}
	return c.lock.Sync()
}

// hold locks the mark that sign just created. Only Find can have it open by now, and releases it
// at once; who holds it for longer is not waited for.
func (c *Corner) hold() error {
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

// Close closes a corner.
func (c *Corner) Close() error {
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}

// Is tells whether name in the pool at path is a corner, used or not.
func Is(path, name string) bool {
	if !named(name) {
		return false
	}
	l := newLeft(path, name)
	return l.look() == nil
}

func newLeft(path, name string) Left {
	return Left{Corner: Corner{Path: filepath.Join(path, name), ID: uuid.MustParse(strings.TrimPrefix(name, prefix))}}
}

func named(name string) bool {
	id, ok := strings.CutPrefix(name, prefix)
	_, err := uuid.Parse(id)
	return ok && err == nil && id == strings.ToLower(id) && len(id) == len(uuid.Nil.String())
}

// Left is a corner that was found.
type Left struct {
	Corner
	Foreign string // why it is none, but for its name; it is never touched then
	Busy    bool   // it is used now
}

// Find returns the corners in the pool at path.
func Find(path string) ([]Left, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("look for corners: %w", err)
	}
	var list []Left
	for _, e := range entries {
		if !named(e.Name()) {
			continue
		}
		one := newLeft(path, e.Name())
		if err := one.look(); err != nil {
			one.Foreign = err.Error()
		} else if f, err := one.take(); f != nil {
			one.Busy = errors.Is(err, unix.EWOULDBLOCK)
			_ = f.Close()
		}
		list = append(list, one)
	}
	return list, nil
}

// look reads whose the corner is from its mark; an error says why it is none.
func (l *Left) look() error {
	if info, err := os.Lstat(l.Path); err != nil {
		return err
	} else if !info.IsDir() {
		return errors.New("it is no directory")
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
	case l.bare():
		return nil // it was being made
	case err == nil:
		return fmt.Errorf("its %s is empty, and something lies beside it", markName)
	default:
		return fmt.Errorf("it has the name of a corner of drover backend verify, and not its %s", markName)
	}
	var m mark
	if err := json.Unmarshal(raw, &m); err != nil || m.ID != l.ID {
		return fmt.Errorf("its %s is not that of a corner of drover backend verify", markName)
	}
	l.Backend = m.Backend
	return nil
}

// bare reports whether it has only a mark.
func (l *Left) bare() bool {
	inside, err := os.ReadDir(l.Path)
	return err == nil && !slices.ContainsFunc(inside, func(e os.DirEntry) bool { return e.Name() != markName })
}

// take holds the mark of a corner, if that has one; the caller closes it.
func (l *Left) take() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(l.Path, markName), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}
