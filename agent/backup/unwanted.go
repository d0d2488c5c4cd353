package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/restic"
)

// unwantedFormat is the format of unwanted that this program writes, and the latest that it reads.
const unwantedFormat = 1

// unwanted names backups that are not the result of their operation: incomplete ones, those of a run that was
// interrupted, and those that were cancelled. restic cannot remove them while another process uses the repository. A
// file below the folder of the backups names them until they are removed. The file stays while the repository is not
// recorded, because the repository can be recorded again, under any name, and still has the backups. That of a push
// also stays if the repository is append-only: the next push must not take the withdrawn version for another host's.
type unwanted struct {
	Format     int       `json:"format"`
	Repository string    `json:"repository"`
	URL        string    `json:"url"` // of the repository
	Operation  uuid.UUID `json:"operation"`
	Push       bool      `json:"push,omitempty"` // whether the operation is a push
	Backups    []string  `json:"backups"`        // IDs, or their first 8 digits
}

// noteUnwanted writes a file that names backups of an operation that are not its result, in the repository at a URL:
// removeUnwanted removes them. If the file cannot be written, the backups stay, and the log names them.
func (c *Creator) noteUnwanted(ctx context.Context, op dataset.Operation, url string, ids ...string) {
	if len(ids) == 0 {
		return
	}
	u := unwanted{
		Format: unwantedFormat, Repository: op.Repository, URL: url, Operation: op.ID, Push: op.Push != nil,
		Backups: ids,
	}
	if err := c.writeUnwanted(u); err != nil {
		c.logOf(ctx, op).WithError(err).WithField("backups", ids).
			Warn("cannot remove backups that may be incomplete (remove them with drover backup rm)")
	}
}

// writeUnwanted writes a file that names unwanted backups.
func (c *Creator) writeUnwanted(u unwanted) error {
	text, err := json.Marshal(u)
	if err == nil {
		err = os.MkdirAll(c.folders(), 0o700)
	}
	if err == nil {
		err = durable.Replace(filepath.Join(c.folders(), "remove-"+uuid.NewString()+".json"), text)
	}
	return err
}

// names reports whether the file names a backup, or an entry.
func (u unwanted) names(id string) bool {
	return slices.ContainsFunc(u.Backups, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// noted is the content of a file that names unwanted backups.
type noted struct {
	unwanted
	path string
}

// unwantedFiles returns the paths of the files in a folder that name unwanted backups.
func unwantedFiles(folder string) []string {
	files, _ := filepath.Glob(filepath.Join(folder, "remove-*.json")) // it fails only for a wrong pattern
	return files
}

// notes reads the files that name unwanted backups. It leaves out damaged files, which name nothing.
func (c *Creator) notes() (list []noted, err error) {
	for _, path := range unwantedFiles(c.folders()) {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another push has dropped it
		}
		if err != nil {
			return nil, err
		}
		n := noted{path: path}
		if json.Unmarshal(text, &n.unwanted) == nil {
			list = append(list, n)
		}
	}
	return list, nil
}

// dropNotes removes the files that name unwanted backups of an operation. The caller has a slot, so that no removal
// runs, and decides itself what of the operation is unwanted.
func (c *Creator) dropNotes(op uuid.UUID) error {
	list, err := c.notes()
	if err != nil {
		return err
	}
	for _, n := range list {
		if n.Operation != op {
			continue
		}
		if err := os.Remove(n.path); err != nil {
			return err
		}
	}
	return nil
}

// removeUnwanted removes from a repository the backups that the files name, and the expired ones whose removal was
// postponed: see removing, also for wait. If a backup uses the repository, Create usually calls it again at the end of
// that backup, but not always if the backup was cancelled or control did not record its outcome. Then the next backup
// to the repository calls it.
func (c *Creator) removeUnwanted(ctx context.Context, repository string, wait bool) {
	c.removing(ctx, c.targets.get(repository), wait, func(ctx context.Context) error {
		err := c.removeNoted(ctx, repository)
		if ctx.Err() != nil || restic.IsUnreachable(err) {
			return err
		}
		return errors.Join(err, c.removePostponed(ctx, repository))
	})
}

// removeNoted removes from a repository the backups that the files name, and returns the errors of the repository.
// removing calls it.
func (c *Creator) removeNoted(ctx context.Context, repository string) error {
	files := unwantedFiles(c.folders())
	if len(files) == 0 {
		return nil
	}
	record, err := c.Control.Repository(ctx, repository)
	if err != nil {
		if !errors.Is(err, dataset.ErrNotFound) {
			c.Log.WithError(err).Warn("cannot remove backups that are incomplete: the repositories are not known")
		}
		return nil
	}
	var failed []error
	for _, path := range files {
		err := c.removeNamed(ctx, path, record)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, errKept) {
			c.Log.WithError(err).WithField("file", path).
				Warn("cannot remove backups that are incomplete: trying again after the next backup")
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// errKept says that a file stays without an attempt to remove the backups that it names: see unwanted.
var errKept = errors.New("the backups stay in their repository")

// openRecorded opens a repository. It returns nil if no repository of the name is recorded any more.
func (c *Creator) openRecorded(ctx context.Context, name string) (*restic.Repository, error) {
	record, err := c.Control.Repository(ctx, name)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil, nil //nolint:nilnil // its backups are left alone
	}
	if err != nil {
		return nil, err
	}
	return c.repositories.Restic(ctx, record)
}

// removeNamed removes the backups that a file names if they are in the recorded repository, which can have another name
// than earlier. Those that do not exist are ignored, and those of an append-only repository stay. It fails with errKept
// if the file is still needed.
func (c *Creator) removeNamed(ctx context.Context, path string, record dataset.Repository) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errKept // a backup to another repository has dropped it
	}
	if err != nil {
		return err
	}
	var u unwanted
	if err := dataset.DecodeFormat(text, "the file "+path, unwantedFormat, &u); err != nil {
		return err
	}
	if strings.TrimRight(record.URL, "/") != strings.TrimRight(u.URL, "/") {
		return errKept
	}
	if u.Repository != record.Name { // a push to it under its other name can drop the file meanwhile
		other := c.targets.get(u.Repository)
		if !other.slots.TryAcquire(maxBackups) {
			return errKept
		}
		defer other.slots.Release(maxBackups)
	}
	err = c.removeOnce(ctx, record, u)
	switch {
	case errors.Is(err, restic.ErrAppendOnly) && u.Push:
		return errKept
	case err != nil && !errors.Is(err, restic.ErrAppendOnly):
		return fmt.Errorf("repository %s: %w", record.Name, err)
	}
	return nil
}

// removeFrom removes the backups from a repository. If they are the version of a push, and another version continues
// it, the version stays: the history of a name must have no hole.
func (u unwanted) removeFrom(ctx context.Context, repo *restic.Repository) error {
	// Another backup can have the same first digits.
	list, err := repo.Backups(ctx, OperationTag(u.Operation)) // backups, and the entry of a push
	if err != nil && !errors.Is(err, dataset.ErrCorrupt) {
		return err
	}
	var ids []string
	for _, b := range list {
		if u.names(b.ID) {
			ids = append(ids, b.ID)
		}
	}
	found := len(ids)
	stay, cerr := u.continued(ctx, repo, list)
	if cerr != nil {
		return cerr
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(stay, id) })
	if rerr := repo.Remove(ctx, ids...); rerr != nil {
		return rerr
	}
	if found == len(u.Backups) {
		return nil // the damaged backup is another one
	}
	return err
}

// continued returns the IDs of the entries and the backups of the version that a push made, if another version
// continues it; otherwise nil. list has the backups and the entries of the push. If continued cannot read all entries,
// it fails: one of them could continue the version.
func (u unwanted) continued(ctx context.Context, repo *restic.Repository, list []restic.Backup) (ids []string,
	err error) {
	for _, b := range list {
		v, ok, err := parseEntry(b)
		if err != nil {
			return nil, err
		}
		if ok {
			ids = append(ids, b.ID, v.Backup)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	children, err := repo.Backups(ctx, TagEntry, tagParent+"="+u.Operation.String())
	if err != nil || len(children) == 0 {
		return nil, err
	}
	return ids, nil
}
