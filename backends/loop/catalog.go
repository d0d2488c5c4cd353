package loop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/transfer"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/claims"
)

// catalog finds and lists the datasets of a pool, and keeps the claims on them.
type catalog struct {
	pool    string // its name, for errors
	dir     *poolDir
	layout  layout.Layout
	images  *imagefile.Images
	claims  claims.Claims
	formats layout.Formats
	moves   claims.Moves // counts datasets that became copies; a search is repeated if the count has changed
}

// find opens the directory of a dataset that is ready, or incoming and complete. place is the name of the directory
// below root that contains the dataset. find fails with ErrCorrupt if the name belongs to something else, and with
// ErrConflict if the dataset is a copy.
func (cat *catalog) find(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	dir, place, err = cat.findAny(root, id)
	if err == nil && place == layout.Copies {
		_ = dir.Close()
		return folder.Dir{}, "", layout.NoHeadError(cat.pool, id)
	}
	return dir, place, err
}

// findAny opens directories as find does, and also those of copies. It fails with dataset.ErrUnsupported if the record
// of the dataset has a later format, so that no caller changes the directory.
func (cat *catalog) findAny(root folder.Dir, id uuid.UUID) (dir folder.Dir, place string, err error) {
	for {
		before := cat.moves.Count()
		dir, place, err = cat.search(root, id, layout.Datasets, layout.Incoming)
		if errors.Is(err, dataset.ErrNotFound) { // it may have been committed meanwhile
			dir, place, err = cat.search(root, id, layout.Datasets)
		}
		if err == nil || cat.moves.Count() == before {
			return dir, place, err
		}
	}
}

// search looks for a dataset in places and then among the copies.
func (cat *catalog) search(root folder.Dir, id uuid.UUID, places ...string) (dir folder.Dir, place string, err error) {
	for _, place := range places {
		dir, err := root.Sub(filepath.Join(place, id.String()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return dir, place, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
		}
		if err := cat.formats.Check(dir, id); err != nil {
			return folder.Dir{}, place, errors.Join(err, dir.Close())
		}
		_, err = dir.Lstat(cat.layout.Image(layout.Head))
		if err == nil {
			return dir, place, nil
		}
		if errors.Is(err, os.ErrNotExist) && place == layout.Datasets {
			err = cat.headMissing(dir)
		}
		_ = dir.Close()
		if !errors.Is(err, os.ErrNotExist) {
			return dir, place, err
		}
	}
	dir, err = root.Sub(filepath.Join(layout.Copies, id.String()))
	if err == nil {
		if err := cat.formats.Check(dir, id); err != nil {
			return folder.Dir{}, layout.Copies, errors.Join(err, dir.Close())
		}
		var begun bool
		if begun, err = cat.hasContent(dir); err == nil && begun {
			return dir, layout.Copies, nil
		}
		_ = dir.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return folder.Dir{}, layout.Copies, dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	return folder.Dir{}, "", dataset.Errorf(dataset.ErrNotFound, "pool %s has no dataset %s", cat.pool, id)
}

// headMissing returns the error for a ready dataset without a head.
func (cat *catalog) headMissing(dir folder.Dir) error {
	if _, err := dir.Lstat(layout.RecordFile); err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%s contains no part of a dataset, so drover did not create it",
			dir.Name())
	}
	return fmt.Errorf("%w of %s is missing", errNoHead, dir.Name())
}

// errNoHead says that a dataset exists, and its image was deleted.
var errNoHead = dataset.Errorf(dataset.ErrCorrupt, "the image")

// withHeadless calls f with the open directory of a dataset that is ready and whose image was deleted.
func (cat *catalog) withHeadless(id uuid.UUID, f func(dir folder.Dir) error) error {
	root, err := cat.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer cat.claims.Use(id)()
	dir, err := root.Sub(filepath.Join(layout.Datasets, id.String()))
	if err != nil {
		return err
	}
	defer dir.Close()
	return backends.NoSpace(f(dir))
}

// withDataset calls f with the open directory of a dataset that is not a copy, and claims the dataset meanwhile.
func (cat *catalog) withDataset(id uuid.UUID, f func(dir folder.Dir) error) error {
	root, err := cat.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer cat.claims.Use(id)()
	dir, _, err := cat.find(root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return backends.NoSpace(f(dir))
}

// withDatasetOrCopy does the work of withDataset, and also accepts copies. place is the directory of the pool that
// contains the dataset.
func (cat *catalog) withDatasetOrCopy(id uuid.UUID, f func(dir folder.Dir, place string) error) error {
	root, err := cat.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer cat.claims.Use(id)()
	dir, place, err := cat.findAny(root, id)
	if err != nil {
		return err
	}
	defer dir.Close()
	return backends.NoSpace(f(dir, place))
}

// hasContent reports whether the directory of a copy contains a record or an image. A directory that was made just
// before a crash has neither.
func (cat *catalog) hasContent(dir folder.Dir) (bool, error) {
	c, err := layout.ContentsOf(cat.layout, dir)
	return len(c.Items)+len(c.Records)+len(c.Foreign) > 0, err
}

// List implements backends.Pool.
func (p *Pool) List(ctx context.Context) ([]backends.Entry, error) {
	root, err := p.dir.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for {
		before := p.catalog.moves.Count()
		list, err := p.catalog.list(ctx, root)
		if err != nil {
			return nil, fmt.Errorf("list pool %s: %w", p.name, err)
		}
		if p.catalog.moves.Count() == before {
			return list, nil
		}
	}
}

// list reads the directories of the pool in the order in which a dataset moves through them, so that it misses no
// dataset that moves meanwhile.
func (cat *catalog) list(ctx context.Context, root folder.Dir) ([]backends.Entry, error) {
	list, err := cat.foreign(root)
	if err != nil {
		return nil, err
	}
	seen := map[uuid.UUID]int{}
	for _, place := range []struct {
		dir   string
		state backends.EntryState
	}{
		{layout.Incoming, backends.EntryIncoming},
		{layout.Copies, backends.EntryCopy},
		{layout.Datasets, backends.EntryReady},
		{layout.Deleting, backends.EntryDeleting},
	} {
		entries, err := root.Entries(place.dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			// ok is false if the dataset was moved meanwhile, or was never complete.
			entry, ok := cat.entry(root, filepath.Join(place.dir, e.Name()), place.state)
			if !ok {
				continue
			}
			if i, before := seen[entry.ID]; before && entry.State == backends.EntryReady {
				list[i] = entry // it was committed meanwhile
				continue
			}
			if place.state == backends.EntryIncoming || place.state == backends.EntryCopy {
				seen[entry.ID] = len(list)
			}
			list = append(list, entry)
		}
	}
	return list, nil
}

// foreign lists the files in the pool's directory that do not belong to a pool.
func (cat *catalog) foreign(root folder.Dir) ([]backends.Entry, error) {
	entries, err := root.Entries(".")
	if err != nil {
		return nil, err
	}
	ownNames := append(layout.Directories(), layout.IdentityFile, layout.IdentityFile+layout.TmpSuffix)
	var list []backends.Entry
	for _, e := range entries {
		if !slices.Contains(ownNames, e.Name()) && !trialdir.IsSandbox(cat.dir.path, e.Name()) {
			list = append(list, cat.foreignEntry(e.Name(), "not part of a pool"))
		}
	}
	return list, nil
}

// foreignEntry returns the entry of something that does not belong to the pool.
func (cat *catalog) foreignEntry(name, problem string) backends.Entry {
	return backends.Entry{State: backends.EntryForeign, Path: filepath.Join(cat.dir.path, name), Problem: problem}
}

// emptyFolderProblem is the problem of a directory that has the name of a dataset but none of its files.
const emptyFolderProblem = "its name is the UUID of a dataset, but drover did not create it: it contains no dataset"

// entry reads the directory of one dataset. It returns false for a dataset that is being made or was removed.
func (cat *catalog) entry(root folder.Dir, name string, state backends.EntryState) (e backends.Entry, ok bool) {
	base := filepath.Base(name)
	id, err := layout.ParseID(base)
	if state == backends.EntryDeleting {
		id, err = layout.DeletedID(base)
	}
	if err != nil {
		return cat.foreignEntry(name, "its name is not the UUID of a dataset"), true
	}
	e = backends.Entry{ID: id, State: state, Path: root.Path(name)}
	dir, err := root.Sub(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return e, false
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return cat.foreignEntry(name, "its name is the UUID of a dataset, but it is not a directory"), true
	case err != nil:
		e.Problem = fmt.Sprintf("cannot read its directory: %v", err)
		return e, true
	}
	defer dir.Close()
	c, err := layout.ContentsOf(cat.layout, dir)
	if err != nil { // one bad directory must not hide the rest of the pool
		e.Problem = fmt.Sprintf("cannot read its directory: %v", err)
		return e, !errors.Is(err, os.ErrNotExist)
	}
	headless := !slices.Contains(c.Items, layout.Head)
	switch {
	case state == backends.EntryIncoming && headless && len(c.Foreign) == 0:
		return e, false
	case state == backends.EntryCopy && len(c.Items)+len(c.Records)+len(c.Foreign) == 0:
		return e, false
	case state == backends.EntryCopy && len(c.Items)+len(c.Records) == 0:
		return cat.foreignEntry(name, emptyFolderProblem), true
	case state == backends.EntryReady && headless && !slices.Contains(c.Records, layout.RecordFile):
		return cat.foreignEntry(name, emptyFolderProblem), true
	}
	cat.fillEntry(&e, dir, c)
	return e, true
}

// fillEntry adds the content of the records in dir to an entry, and the problems of the dataset.
func (cat *catalog) fillEntry(e *backends.Entry, dir folder.Dir, c layout.Contents) {
	var problems []string
	var err error
	if e.Record, err = layout.DatasetRecord(dir, e.ID); err != nil {
		e.Record = nil
		problems = append(problems, fmt.Sprintf("cannot read its record: %v", err))
	}
	headless := !slices.Contains(c.Items, layout.Head)
	switch e.State {
	case backends.EntryCopy:
		e.Promoted = !headless
		if partial, err := transfer.ReadPartial(dir); err == nil && slices.Contains(c.Items, layout.Part) {
			e.Partial = &backends.Partial{
				Snapshot: partial.Header.Snapshot,
				Base:     partial.Header.Base,
				Bytes:    partial.Mark.Offset,
			}
		}
	case backends.EntryDeleting:
	default:
		_, _, err := cat.images.Inspect(dir, layout.Head)
		switch absent := errors.Is(err, os.ErrNotExist); {
		case absent && headless: // on btrfs a listing can miss an item that is renamed meanwhile
			problems = append(problems, "its image is missing")
		case err != nil && !absent: // an absent image may have been renamed meanwhile
			problems = append(problems, dataset.OneLine(err))
		}
	}
	for _, item := range c.Items {
		id, err := uuid.Parse(item)
		if err != nil {
			continue // head, next, part
		}
		s := dataset.Snapshot{}
		err = layout.ReadRecord(dir, layout.SnapshotRecord(id), &s)
		if err == nil && (s.ID != id || s.Dataset != e.ID) {
			err = fmt.Errorf("it belongs to snapshot %s of dataset %s", s.ID, s.Dataset)
		}
		if s.Kind == dataset.SnapshotRestore {
			if unfinished, err := cat.images.Unfinished(dir, item); err == nil && unfinished {
				continue
			}
		}
		if errors.Is(err, os.ErrNotExist) && cat.wasRemoved(dir, item) {
			continue
		}
		if err != nil {
			s = dataset.Snapshot{ID: id, Dataset: e.ID}
			problems = append(problems, fmt.Sprintf("cannot read the record of snapshot %s: %v", id, err))
		}
		e.Snapshots = append(e.Snapshots, s)
	}
	slices.SortFunc(e.Snapshots, func(a, b dataset.Snapshot) int { return a.Created.Compare(b.Created) })
	e.ForeignFiles = c.Foreign
	if len(c.Foreign) > 0 {
		problems = append(problems, "it contains foreign files: "+strings.Join(c.Foreign, ", "))
	}
	e.Problem = strings.Join(problems, "; ")
}

// wasRemoved reports whether an item was removed after it was listed. Readers hold no lock, and deleting a snapshot
// removes its record last.
func (cat *catalog) wasRemoved(dir folder.Dir, item string) bool {
	contents, err := layout.ContentsOf(cat.layout, dir)
	return err == nil && !slices.Contains(contents.Items, item)
}

// Stat implements backends.Pool. With the error about a missing image it returns the snapshots.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	root, err := p.dir.open()
	if err != nil {
		return backends.Entry{}, err
	}
	defer root.Close()
	dir, place, err := p.catalog.findAny(root, id)
	if errors.Is(err, errNoHead) { // the snapshots may still be there
		e := backends.Entry{ID: id, State: backends.EntryReady}
		lost := p.catalog.withHeadless(id, func(dir folder.Dir) error {
			c, err := layout.ContentsOf(p.layout, dir)
			if err == nil {
				p.catalog.fillEntry(&e, dir, c)
			}
			return err
		})
		return e, cmp.Or(lost, err)
	}
	if err != nil {
		return backends.Entry{}, err
	}
	defer dir.Close()
	e := backends.Entry{ID: id, State: backends.EntryReady, Path: dir.Name()}
	switch place {
	case layout.Incoming:
		e.State = backends.EntryIncoming
	case layout.Copies:
		e.State = backends.EntryCopy
	}
	c, err := layout.ContentsOf(p.layout, dir)
	if err != nil {
		return backends.Entry{}, fmt.Errorf("check dataset %s: %w", id, err)
	}
	p.catalog.fillEntry(&e, dir, c)
	return e, nil
}

// Used implements backends.Pool. It reads the number of allocated blocks from the inode of the head's image. If
// newUsage has the number for a new dataset, Used returns that number once, without searching for the dataset.
func (p *Pool) Used(_ context.Context, id uuid.UUID) (dataset.Size, error) {
	if used, known := p.newUsage.take(id); known {
		return used, nil
	}
	var used dataset.Size
	err := p.catalog.withDataset(id, func(dir folder.Dir) error {
		f, err := dir.Open(p.layout.Image(layout.Head))
		if err != nil {
			return err
		}
		defer f.Close()
		if used, err = allocated(f); err != nil {
			return err
		}
		_, _, err = imagefile.InspectFile(f)
		return err
	})
	if err != nil {
		return used, fmt.Errorf("used space of dataset %s: %w", id, err)
	}
	return used, nil
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	root, err := p.dir.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	r := reaper{layout: p.layout, catalog: p.catalog, images: p.images, remover: p.remover, root: root}
	err = errors.Join(
		r.incoming(ctx, drop),
		r.deleting(ctx),
		r.reapDatasets(ctx, layout.Datasets),
		r.reapDatasets(ctx, layout.Copies),
	)
	templates, tErr := p.templates.Reap(root)
	r.count += templates
	if err = errors.Join(err, tErr); err != nil {
		err = fmt.Errorf("reap pool %s: %w", p.name, err)
	}
	return r.count, err
}
