package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/linux/mount"
)

// noteFormat is the format of note that this program writes, and the latest that it reads.
const noteFormat = 1

// note names a clone that a backup reads, so that it is removed after a crash, or once nobody holds it.
type note struct {
	Format  int       `json:"format"`
	Pool    uuid.UUID `json:"pool"`
	Clone   uuid.UUID `json:"clone"`
	Dataset uuid.UUID `json:"dataset"` // that is backed up
	Volume  string    `json:"volume"`
}

// maxHeld is how many clones of a dataset may stay because somebody holds them. With as many, no backup of the dataset
// is made.
const maxHeld = 3

// sweepPause is the time between two attempts to remove the clones that somebody holds.
const sweepPause = time.Minute

// heldClones has the clones that could not be removed. Safe for concurrent use.
type heldClones struct {
	mu sync.Mutex
	of map[uuid.UUID]heldClone
}

// heldClone is a clone that could not be removed.
type heldClone struct {
	note
	used dataset.Size
	why  error // names who holds it
}

// add adds a clone, or replaces what is known about it. It returns whether the clone was not known.
func (h *heldClones) add(held heldClone) (isNew bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[uuid.UUID]heldClone{}
	}
	_, known := h.of[held.Clone]
	h.of[held.Clone] = held
	return !known
}

func (h *heldClones) remove(n note) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.of, n.Clone)
}

// Findings reports the clones that could not be removed, and the repositories that refuse to remove backups.
func (c *Creator) Findings(list *condition.List) {
	c.targets.report(list)
	c.held.mu.Lock()
	defer c.held.mu.Unlock()
	for _, h := range c.held.of {
		list.Add(condition.CloneHeld, "volume "+h.Volume, "", h.used.Human(), h.why)
	}
}

// isolate calls do with a folder that only restic sees: it has the file name with a text, and shows tree as DataName.
// No other process can keep the mount of the clone alive by accident, and a crash leaves nothing behind. tree may be
// nil.
func (c *Creator) isolate(tree *os.File, name string, text []byte, do func(dir string) error) error {
	dir := c.MountRoot() // restic must not keep the volumes mounted either
	return mount.InNamespace(tree, filepath.Join(dir, DataName), func() error {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
		return do(dir)
	})
}

// folders is the folder with the notes.
func (c *Creator) folders() string { return filepath.Join(c.Root, "backups") }

// path is the path of a note in the folder of the notes.
func (n note) path(folder string) string {
	return filepath.Join(folder, "clone-"+n.Clone.String()+".json")
}

// writeNote writes a note before its clone is made. The caller has the lock of the clone.
func (c *Creator) writeNote(n note) error {
	n.Format = noteFormat
	text, err := json.Marshal(n)
	if err == nil {
		err = os.MkdirAll(c.folders(), 0o700)
	}
	if err == nil {
		err = durable.Replace(n.path(c.folders()), text)
	}
	return err
}

// cloneNotes returns the notes. It leaves out damaged ones: the pools destroy clones that are not recorded, too.
func (c *Creator) cloneNotes() (list []note, err error) {
	files, err := filepath.Glob(filepath.Join(c.folders(), "clone-*.json"))
	for _, path := range files {
		var n note
		text, rerr := os.ReadFile(path)
		if rerr == nil {
			rerr = dataset.DecodeFormat(text, "the note "+path, noteFormat, &n)
		}
		if rerr == nil && n.path(c.folders()) == path {
			list = append(list, n)
		}
	}
	return list, err
}

// Sweep removes the clones of the backups that do not run. What somebody holds stays until a later call.
func (c *Creator) Sweep(ctx context.Context) {
	notes, err := c.cloneNotes()
	if err != nil {
		c.Log.WithError(err).Warn("cannot read the notes about clones of backups")
	}
	for _, n := range notes {
		_ = c.discard(ctx, n)
	}
}

// RunSweeps calls Sweep every sweepPause until ctx ends.
func (c *Creator) RunSweeps(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.Clock.After(sweepPause):
		}
		c.Sweep(ctx)
	}
}

// Clear removes what a crash left: the clones of the backups that do not run, and the unwanted backups. What cannot be
// removed stays: the next backup to the repository tries again, and so does the next call of Clear.
func (c *Creator) Clear(ctx context.Context) {
	c.Sweep(ctx)
	if len(unwantedFiles(c.folders())) == 0 {
		return
	}
	recorded, err := c.Control.Repositories(ctx)
	if err != nil {
		c.Log.WithError(err).Warn("cannot remove backups that are incomplete: the repositories are not known")
		return
	}
	for _, r := range recorded {
		c.removeUnwanted(ctx, r.Name, false)
	}
}

// discardClones removes the clones of a dataset whose backups do not run. It fails with dataset.ErrInUse if maxHeld of
// them are held.
func (c *Creator) discardClones(ctx context.Context, id uuid.UUID) error {
	notes, err := c.cloneNotes()
	if err != nil {
		return err
	}
	for _, n := range notes {
		if n.Dataset == id {
			_ = c.discard(ctx, n)
		}
	}
	c.held.mu.Lock()
	defer c.held.mu.Unlock()
	var held []error
	for _, h := range c.held.of {
		if h.Dataset == id {
			held = append(held, h.why)
		}
	}
	if len(held) < maxHeld {
		return nil
	}
	return fmt.Errorf("the clones of %d earlier backups cannot be removed: %w", len(held), held[0])
}

// discard destroys the clone that a note names, and removes the note, unless its backup runs or another call removes
// it. Idempotent.
func (c *Creator) discard(ctx context.Context, n note) error {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	unlock, err := c.clones.Lock(ended, n.Clone, "clean-up")
	if err != nil {
		return nil
	}
	defer unlock()
	_, recorded := c.Cache.Dataset(n.Clone)       // a clone of a backup is never recorded
	if !recorded && c.Pools.ByID(n.Pool) != nil { // otherwise the pool was removed, with its data
		pool, err := c.Pools.Online(ctx, n.Pool)
		if err != nil {
			return err
		}
		if err := host.Discard(ctx, c.Host, pool, n.Clone); err != nil {
			used, _ := pool.Used(ctx, n.Clone) // 0 if it is not known
			if c.held.add(heldClone{n, used, err}) {
				c.Log.WithError(err).WithField("volume", n.Volume).Warn("cannot remove the clone of a backup yet")
			}
			return err
		}
	}
	c.held.remove(n)
	if err := os.Remove(n.path(c.folders())); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
