package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/repositories"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
)

// exportStorer stores exports of the records in repositories, from the process of control: only control may read all
// records. It reads passwords and runs their programs by the same rules as an agent. It implements
// repositories.Repositories.
type exportStorer struct {
	*process
	checker *backup.Checker // one for all exports: it remembers the locks that it has seen
}

// newExportStorer returns the storer of a process. It has the cache of the agent, and its name in restic's locks: each
// of the two then removes the locks that the other one left.
func newExportStorer(p *process) exportStorer {
	return exportStorer{p, newChecker(p.Options, filepath.Join(p.Root, "restic-cache"))}
}

// Store implements repositories.Repositories.
func (s exportStorer) Store(ctx context.Context, r dataset.Repository, e repositories.Export) error {
	opened, err := s.checker.Restic(ctx, r)
	if err != nil {
		return err
	}
	removal, err := Store(ctx, opened, filepath.Join(s.Root, "export"), e)
	if removal != nil && ctx.Err() == nil {
		s.Log.WithError(removal).WithField("repository", r.Name).
			Warn("cannot remove expired exports of the records: trying again after the next export")
	}
	return err
}

// OpenRepository returns the repository of a record. It checks the record and the password program as an agent does:
// see backup.Checker. cacheDir is a private folder for restic's cache. OpenRepository does not reach the
// repository.
func OpenRepository(ctx context.Context, o Options, cacheDir string, r dataset.Repository) (*restic.Repository, error) {
	return newChecker(o, cacheDir).Restic(ctx, r)
}

func newChecker(o Options, cacheDir string) *backup.Checker {
	return backup.NewChecker(cacheDir, nil, &host.Programs{Runner: &run.System{}, Allowed: o.FencePrograms})
}

// The tags of an export in restic's repository. tagRecords has no value. The others have the form KEY=VALUE.
const (
	tagRecords = "drover-records"
	tagCluster = "cluster"
	tagVolumes = "volumes"
)

// fileName is the name of the file in an export.
const fileName = "records.jsonl"

// removeAtOnce is how many exports are removed together. restic has the repository for itself during a removal, so that
// a backup which begins meanwhile fails. Hence a removal is made about once a day, and not after each export.
const removeAtOnce = 24

// Stored is an export in a repository.
type Stored struct {
	ID      string    `json:"id"` // that restic gave it
	Taken   time.Time `json:"taken"`
	Cluster uuid.UUID `json:"cluster"`
	Volumes int       `json:"volumes"`
}

// Store stores an export in a repository. If removeAtOnce exports of the same cluster are not kept, it removes them.
// dir is a private folder for the file of the export, which Store makes and removes. Only one Store may use it at a
// time. removal is the failure of the removal: for example, another process uses the repository.
func Store(ctx context.Context, r *restic.Repository, dir string, e repositories.Export) (removal, err error) {
	if err := write(dir, e); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	_, _, err = r.Backup(ctx, restic.Request{
		Dir: dir, Names: []string{fileName}, Time: e.Taken,
		Tags: []string{tagRecords, tagCluster + "=" + e.Cluster.String(), tagVolumes + "=" + strconv.Itoa(e.Volumes)},
	})
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return nil, err
	}
	return removeExpired(ctx, r, e.Cluster, e.Taken), nil
}

// write writes an export to a file in dir. An earlier Store may have been interrupted.
func write(dir string, e repositories.Export) error {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(e.Write(f), f.Close())
}

// removeExpired removes the exports of a cluster that are not kept. If the list cannot be read completely, it removes
// nothing.
func removeExpired(ctx context.Context, r *restic.Repository, cluster uuid.UUID, now time.Time) error {
	list, err := r.Backups(ctx, tagRecords, tagCluster+"="+cluster.String())
	if err != nil {
		return err
	}
	return r.Remove(ctx, expired(list, now)...)
}

// expired returns the IDs of the exports to remove: those that are not kept, or none if they are fewer than
// removeAtOnce. An export of the future stays, and replaces no other one: its clock was wrong.
func expired(list []restic.Backup, now time.Time) (ids []string) {
	list = slices.DeleteFunc(slices.Clone(list), func(b restic.Backup) bool { return b.Time.After(now) })
	slices.SortStableFunc(list, func(x, y restic.Backup) int { return y.Time.Compare(x.Time) }) // newest first
	times := make([]time.Time, len(list))
	for i, b := range list {
		times[i] = b.Time
	}
	// The exports of the last day have the latest changes. One export of each day before has what was later changed by
	// mistake.
	for i, kept := range (dataset.Keep{Hourly: 24, Daily: 30}).Retained(times, time.UTC) {
		if !kept {
			ids = append(ids, list[i].ID)
		}
	}
	if len(ids) < removeAtOnce {
		return nil
	}
	return ids
}

// List returns the exports in a repository, newest first. If some cannot be read, it returns the others and an error.
func List(ctx context.Context, r *restic.Repository) (list []Stored, err error) {
	found, err := r.Backups(ctx, tagRecords)
	for _, b := range found {
		s := Stored{ID: b.ID, Taken: b.Time}
		for _, tag := range b.Tags {
			switch key, value, _ := strings.Cut(tag, "="); key {
			case tagCluster:
				s.Cluster, _ = uuid.Parse(value)
			case tagVolumes:
				s.Volumes, _ = strconv.Atoi(value)
			}
		}
		list = append(list, s)
	}
	slices.SortStableFunc(list, func(x, y Stored) int { return y.Taken.Compare(x.Taken) })
	return list, err
}

// Read writes the file of an export to w. The caller checks it with dump.Check.
func Read(ctx context.Context, r *restic.Repository, s Stored, w io.Writer) error {
	return r.Dump(ctx, s.ID, fileName, w)
}
