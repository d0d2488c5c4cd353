package loop

import (
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
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
)

// List implements backends.Pool.
func (p *Pool) List(ctx context.Context) ([]backends.Entry, error) {
	root, err := p.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for {
		before := p.back.Count()
		list, err := p.list(ctx, root)
		if err != nil {
			return nil, fmt.Errorf("list pool %s: %w", p.name, err)
		}
		if p.back.Count() == before {
			return list, nil
		}
	}
}

// list goes through the places in the order in which a dataset does: it misses none that moves on
// meanwhile.
func (p *Pool) list(ctx context.Context, root folder) ([]backends.Entry, error) {
	list, err := p.foreign(root)
	if err != nil {
		return nil, err
	}
	seen := map[uuid.UUID]int{}
	for _, place := range []struct {
		dir   string
		state backends.EntryState
	}{{incoming, backends.EntryIncoming}, {copies, backends.EntryCopy}, {datasets, backends.EntryReady},
		{deleting, backends.EntryDeleting}} {
		entries, err := root.entries(place.dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			// Otherwise it was moved on meanwhile, or never whole.
			entry, ok := p.entry(root, filepath.Join(place.dir, e.Name()), place.state)
			if !ok {
				continue
			}
			if i, before := seen[entry.ID]; before && entry.State == backends.EntryReady {
				list[i] = entry // it was committed since
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

// foreign lists what lies in the pool's directory and is none of its own.
func (p *Pool) foreign(root folder) ([]backends.Entry, error) {
	entries, err := root.entries(".")
	if err != nil {
		return nil, err
	}
	own := []string{identityFile, identityFile + tmpSuffix, incoming, datasets, copies, deleting, templates}
	var list []backends.Entry
	for _, e := range entries {
		if !slices.Contains(own, e.Name()) && !trialdir.Is(p.path, e.Name()) {
			list = append(list, p.stranger(e.Name(), "not a thing that a pool has"))
		}
	}
	return list, nil
}

func (p *Pool) stranger(name, problem string) backends.Entry {
	return backends.Entry{State: backends.EntryForeign, Path: filepath.Join(p.path, name), Problem: problem}
}

// entry reads one directory of a dataset; not ok for one that is being made, or gone.
func (p *Pool) entry(root folder, name string, state backends.EntryState) (e backends.Entry, ok bool) {
	base := filepath.Base(name)
	id, err := parseID(base)
	if state == backends.EntryDeleting {
		id, err = hiddenID(base)
	}
	if err != nil {
		return p.stranger(name, "its name is not the UUID of a dataset"), true
	}
	e = backends.Entry{ID: id, State: state, Path: root.path(name)}
	dir, err := root.sub(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return e, false
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return p.stranger(name, "a dataset's name, but no directory"), true
	case err != nil:
		e.Problem = fmt.Sprintf("its directory can't be read: %v", err)
		return e, true
	}
	defer dir.Close()
	c, err := p.contents(dir)
	if err != nil { // of one bad directory the rest of the pool is not to suffer
		e.Problem = fmt.Sprintf("its directory can't be read: %v", err)
		return e, !errors.Is(err, os.ErrNotExist)
	}
	headless := !slices.Contains(c.items, head)
	switch {
	case state == backends.EntryIncoming && headless && len(c.foreign) == 0:
		return e, false
	case state == backends.EntryCopy && len(c.items)+len(c.records)+len(c.foreign) == 0:
		return e, false
	case state == backends.EntryCopy && len(c.items)+len(c.records) == 0:
		return p.stranger(name, "a dataset's name, but nothing of a dataset in it: drover made no such thing"), true
	case state == backends.EntryReady && headless && !slices.Contains(c.records, recordFile):
		return p.stranger(name, "a dataset's name, but nothing of a dataset in it: drover made no such thing"), true
	}
	p.read(&e, dir, c)
	return e, true
}

// read fills in what the records in dir say, and what is wrong with them.
func (p *Pool) read(e *backends.Entry, dir folder, c contents) {
	var problems []string
	var err error
	if e.Record, err = datasetRecord(dir, e.ID); err != nil {
		e.Record = nil
		problems = append(problems, fmt.Sprintf("its record can't be read: %v", err))
	}
	headless := !slices.Contains(c.items, head)
	switch e.State {
	case backends.EntryCopy:
		e.Promoted = !headless
		if have, err := readPartial(dir); err == nil && slices.Contains(c.items, part) {
			e.Partial = &backends.Partial{Snapshot: have.Snapshot, Base: have.Header.Base, Bytes: have.Mark.Offset}
		}
	case backends.EntryDeleting:
	default:
		_, _, err := p.inspect(dir, head)
		switch gone := errors.Is(err, os.ErrNotExist); {
		case gone && headless: // a list alone misses on btrfs what gets its name meanwhile
			problems = append(problems, "its image is missing")
		case err != nil && !gone: // it may have gone meanwhile
			problems = append(problems, dataset.OneLine(err))
		}
	}
	for _, item := range c.items {
		id, err := uuid.Parse(item)
		if err != nil {
			continue // head, next, part
		}
		s := dataset.Snapshot{}
		err = readRecord(dir, snapshotRecord(id), &s)
		if err == nil && (s.ID != id || s.Dataset != e.ID) {
			err = fmt.Errorf("it is that of snapshot %s of dataset %s", s.ID, s.Dataset)
		}
		if s.Kind == dataset.SnapshotRestore {
			if waits, err := p.unfinished(dir, item); err == nil && waits {
				continue
			}
		}
		if errors.Is(err, os.ErrNotExist) && p.went(dir, item) {
			continue
		}
		if err != nil {
			s = dataset.Snapshot{ID: id, Dataset: e.ID}
			problems = append(problems, fmt.Sprintf("the record of snapshot %s can't be read: %v", id, err))
		}
		e.Snapshots = append(e.Snapshots, s)
	}
	slices.SortFunc(e.Snapshots, func(a, b dataset.Snapshot) int { return a.Created.Compare(b.Created) })
	if len(c.foreign) > 0 {
		problems = append(problems, "it holds what no pool has: "+strings.Join(c.foreign, ", "))
	}
	e.Problem = strings.Join(problems, "; ")
}

// went reports whether an item that was there is gone: nobody who looks holds a lock, and a
// snapshot that is deleted loses its record last.
func (p *Pool) went(dir folder, item string) bool {
	now, err := p.contents(dir)
	return err == nil && !slices.Contains(now.items, item)
}

// Stat implements backends.Pool.
func (p *Pool) Stat(_ context.Context, id uuid.UUID) (backends.Entry, error) {
	root, err := p.open()
	if err != nil {
		return backends.Entry{}, err
	}
	defer root.Close()
	dir, place, err := p.findAny(root, id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer dir.Close()
	e := backends.Entry{ID: id, State: backends.EntryReady, Path: dir.Name()}
	switch place {
	case incoming:
		e.State = backends.EntryIncoming
	case copies:
		e.State = backends.EntryCopy
	}
	c, err := p.contents(dir)
	if err != nil {
		return backends.Entry{}, fmt.Errorf("look at dataset %s: %w", id, err)
	}
	p.read(&e, dir, c)
	return e, nil
}

// Used implements backends.Pool: the blocks of the head's image, from its inode.
func (p *Pool) Used(_ context.Context, id uuid.UUID) (dataset.Size, error) {
	var used dataset.Size
	err := p.within(id, func(dir folder) error {
		f, err := dir.open(p.layout.image(head))
		if err != nil {
			return err
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		const unit = 512 // of st_blocks: stat(2)
		used = dataset.Size(st.Blocks) * unit
		_, _, err = look(f, head)
		return err
	})
	if err != nil {
		return used, fmt.Errorf("used bytes of dataset %s: %w", id, err)
	}
	return used, nil
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	root, err := p.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	r := reaper{pool: p, root: root}
	err = errors.Join(r.incoming(ctx, drop), r.deleting(ctx), r.within(ctx, datasets), r.within(ctx, copies),
		r.templates())
	if err != nil {
		err = fmt.Errorf("reap pool %s: %w", p.name, err)
	}
	return r.count, err
}
