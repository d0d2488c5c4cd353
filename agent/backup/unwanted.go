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

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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
	// The expired backups of a dataset; then there is no Operation.
	Dataset uuid.UUID           `json:"dataset,omitzero"`
	Expired []api.ExpiredBackup `json:"expired,omitempty"`
}

// remove removes backups of an operation that are not its result. If that fails, removeUnwanted tries it again later.
func (c *Creator) remove(ctx context.Context, op dataset.Operation, ids ...string) {
	if len(ids) == 0 {
		return
	}
	u := unwanted{Format: unwantedFormat, Repository: op.Repository, Operation: op.ID, Backups: ids}
	if err := c.note(u, uuid.New()); err != nil {
		c.logOf(ctx, op).WithError(err).WithField("backups", ids).
			Warn("cannot remove backups that may be incomplete (remove them with drover backup rm)")
		return
	}
	c.removeUnwanted(context.WithoutCancel(ctx))
}

// note writes the file that names unwanted backups.
func (c *Creator) note(u unwanted, name uuid.UUID) error {
	text, err := json.Marshal(u)
	if err == nil {
		err = os.MkdirAll(c.folders(), 0o700)
	}
	if err == nil {
		err = writeFile(filepath.Join(c.folders(), "remove-"+name.String()+".json"), text)
	}
	return err
}

// removeUnwanted removes the backups that the files name. It does nothing while a backup of this host uses a
// repository: it is called again after that backup.
func (c *Creator) removeUnwanted(ctx context.Context) {
	if !c.using.TryLock() {
		return
	}
	defer c.using.Unlock()
	files, err := filepath.Glob(filepath.Join(c.folders(), "remove-*.json"))
	if err != nil || len(files) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, removalTime)
	defer cancel()
	for _, path := range files {
		err := c.removeNamed(ctx, path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			c.deps.Log.WithError(err).WithField("file", path).
				Warn("cannot remove backups that are incomplete or expired: trying again after the next backup")
		}
	}
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
	record, err := c.deps.Control.Repository(ctx, u.Repository)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil // its record was removed
	}
	if err != nil {
		return err
	}
	repo, err := c.deps.Open(ctx, record)
	if err != nil {
		return err
	}
	if u.Dataset != uuid.Nil {
		return c.removeNamedExpired(ctx, repo, u)
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
