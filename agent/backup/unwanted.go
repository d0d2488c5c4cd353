package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// removalTime bounds the removal of unwanted backups. Meanwhile no backup starts.
const removalTime = 2 * time.Minute

// unwantedFormat is the format of unwanted that this program writes, and the latest that it reads.
const unwantedFormat = 1

// unwanted names backups that are not the result of their operation: incomplete ones, those of a run that was
// interrupted, and those that were cancelled. restic cannot remove them while another process uses the repository. A
// file below the folder of the backups names them until they are removed.
type unwanted struct {
	Format     int       `json:"format"`
	Repository string    `json:"repository"`
	Operation  uuid.UUID `json:"operation"`
	Backups    []string  `json:"backups"` // IDs, or their first 8 digits
}

// remove removes backups of an operation that are not its result. If that fails, removeUnwanted tries it again later.
func (c *Creator) remove(ctx context.Context, op dataset.Operation, ids ...string) {
	if len(ids) == 0 {
		return
	}
	u := unwanted{Format: unwantedFormat, Repository: op.Repository, Operation: op.ID, Backups: ids}
	if err := c.note(u); err != nil {
		c.logOf(ctx, op).WithError(err).WithField("backups", ids).
			Warn("cannot remove backups that may be incomplete (remove them with drover backup rm)")
		return
	}
	c.removeUnwanted(context.WithoutCancel(ctx))
}

// note writes the file that names unwanted backups.
func (c *Creator) note(u unwanted) error {
	text, err := json.Marshal(u)
	if err == nil {
		err = os.MkdirAll(c.folders(), 0o700)
	}
	if err == nil {
		err = writeFile(filepath.Join(c.folders(), "remove-"+uuid.NewString()+".json"), text)
	}
	return err
}

// removeUnwanted removes the backups that the files name, and the expired ones whose removal was postponed. It does
// nothing while a backup of this host uses a repository: it is called again after that backup.
func (c *Creator) removeUnwanted(ctx context.Context) {
	if !c.using.TryLock() {
		return
	}
	defer c.using.Unlock()
	ctx, cancel := context.WithTimeout(ctx, removalTime)
	defer cancel()
	defer c.removePostponed(ctx)
	files, err := filepath.Glob(filepath.Join(c.folders(), "remove-*.json"))
	if err != nil {
		return
	}
	for _, path := range files {
		err := c.removeNamed(ctx, path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			c.deps.Log.WithError(err).WithField("file", path).
				Warn("cannot remove backups that are incomplete: trying again after the next backup")
		}
	}
}

// openRecorded opens a repository. It returns nil if no repository of the name is recorded any more.
func (c *Creator) openRecorded(ctx context.Context, name string) (*restic.Repository, error) {
	record, err := c.deps.Control.Repository(ctx, name)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil, nil //nolint:nilnil // its backups are left alone
	}
	if err != nil {
		return nil, err
	}
	return c.deps.Open(ctx, record)
}

// removeNamed removes the backups that a file names. Those that do not exist are ignored.
func (c *Creator) removeNamed(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var u unwanted
	if err := dataset.DecodeFormat(text, "the file "+path, unwantedFormat, &u); err != nil {
		return err
	}
	repo, err := c.openRecorded(ctx, u.Repository)
	if err != nil || repo == nil {
		return err
	}
	// Another backup can have the same first digits.
	list, err := repo.Backups(ctx, TagDrover, OperationTag(u.Operation))
	if err != nil && !errors.Is(err, dataset.ErrCorrupt) {
		return err
	}
	var ids []string
	for _, b := range list {
		if slices.ContainsFunc(u.Backups, func(id string) bool { return strings.HasPrefix(b.ID, id) }) {
			ids = append(ids, b.ID)
		}
	}
	if rerr := repo.Remove(ctx, ids...); rerr != nil {
		return fmt.Errorf("repository %s: %w", u.Repository, rerr)
	}
	if len(ids) == len(u.Backups) {
		return nil // the damaged backup is another one
	}
	return err
}
