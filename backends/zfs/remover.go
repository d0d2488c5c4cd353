package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// remover destroys what is deleted, and keeps what clones still need.
type remover struct {
	*storage
	attachments *attachments
}

// Delete implements backends.Pool.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id, func(string) error { return p.attachments.unused(id) })
}

// bury destroys a dataset's objects in ZFS, and hides those that clones of other datasets depend on. Its
// folder is out of sight by then.
func (r *remover) bury(ctx context.Context, id uuid.UUID) error {
	if r.home.fuse {
		if err := r.attachments.unstage(id); err != nil {
			return err
		}
	}
	root := r.root(id)
	all, err := r.tool.below(ctx, root)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	gone, err := r.clear(ctx, all, func(object) bool { return false })
	if err != nil {
		return err
	}
	if len(gone) < len(all) {
		if err := r.tool.patiently(ctx, "rename", root, r.ghosts()+"/"+uuid.NewString()); err != nil {
			return err
		}
	}
	return r.unpin(ctx, root, gone)
}

// clear destroys those of some objects, which are all of a tree, that Drover made and that
// nothing needs: not keep, no clone, no child. It returns them.
func (r *remover) clear(ctx context.Context, all []object, keep func(object) bool) (gone []object, err error) {
	left := slices.Clone(all)
	stays := map[string]bool{}
	for progress := true; progress; {
		progress = false
		for i := len(left) - 1; i >= 0; i-- {
			o := left[i]
			if stays[o.name] || !r.made(o) || keep(o) || needed(o, left) {
				continue
			}
			err := r.tool.patiently(ctx, "destroy", o.name)
			switch {
			case err == nil, errors.Is(err, errAbsent):
				left, gone, progress = slices.Delete(left, i, i+1), append(gone, o), true
			case errors.Is(err, errHeld), errors.Is(err, errBusy):
				stays[o.name] = true
			default:
				return gone, err
			}
		}
	}
	return gone, nil
}

// needed reports whether one of others is a clone of an object, or below it.
func needed(o object, others []object) bool {
	return slices.ContainsFunc(others, func(other object) bool {
		return other.origin == o.name || strings.HasPrefix(other.name, o.name+"/") ||
			strings.HasPrefix(other.name, o.name+"@")
	})
}

// made reports, by its name, whether Drover made an object below the pool's filesystem.
func (r *remover) made(o object) bool {
	fs, snapshot := o.snapshotOf()
	rel, ok := strings.CutPrefix(fs, r.ghosts()+"/")
	if !ok {
		rel, ok = strings.CutPrefix(fs, r.top()+"/")
	}
	id, head, below := strings.Cut(rel, "/")
	ok = ok && isID(id) && (!below || isHead(head))
	if snapshot != "" {
		return ok && o.kind == kindSnapshot && below && isSnapshot(snapshot)
	}
	return ok && o.kind == kindFilesystem
}

// release destroys a snapshot that has no record any more, and its filesystem if that is
// neither a head nor has anything else. Objects with dependants stay.
func (r *remover) release(ctx context.Context, name string) error {
	fs, _, _ := strings.Cut(name, "@")
	id, head, err := r.dataset(fs)
	if err != nil {
		return err
	}
	now, err := r.currentOf(id)
	if err != nil {
		return err
	}
	o, err := r.tool.one(ctx, fs)
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	err = r.tool.zfs(ctx, "destroy", name)
	if err == nil && now != head {
		if err = r.tool.zfs(ctx, "destroy", fs); err == nil {
			return r.unpin(ctx, "", []object{o})
		}
	}
	if errors.Is(err, errAbsent) || errors.Is(err, errHeld) || errors.Is(err, errBusy) {
		return nil
	}
	return err
}

// currentOf is headName for callers that may hold the lock of another dataset, and so must not wait.
func (r *remover) currentOf(id uuid.UUID) (string, error) {
	root, err := r.shelf.Glance(id)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return headName(root, id)
}

// unpin looks after the snapshots that objects which are gone were clones of, other than
// those below within: where no record names one any more, it goes now.
func (r *remover) unpin(ctx context.Context, within string, gone []object) error {
	var errs []error
	for _, o := range gone {
		origin := o.origin
		if origin == "" || within != "" && strings.HasPrefix(origin, within+"/") {
			continue
		}
		if rel, ok := strings.CutPrefix(origin, r.ghosts()+"/"); ok {
			id, _, _ := strings.Cut(rel, "/")
			_, err := r.exorcise(ctx, r.ghosts()+"/"+id)
			errs = append(errs, err)
			continue
		}
		if err := r.forgotten(origin); err != nil {
			continue // it has a record, or is not ours
		}
		errs = append(errs, r.release(ctx, origin))
	}
	return errors.Join(errs...)
}

// forgotten fails unless a snapshot is one that Drover made and that no record names.
func (r *remover) forgotten(name string) error {
	of, snap, _ := strings.Cut(name, "@")
	id, _, err := r.dataset(of)
	if err != nil || !isSnapshot(snap) {
		return fmt.Errorf("%s is not drover's", name)
	}
	text, ofClone := strings.CutPrefix(snap, clonePrefix)
	if ofClone {
		return nil // there is no record of those
	}
	root, err := r.shelf.Glance(id)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = root.Lstat(recordPrefix + strings.TrimPrefix(text, snapPrefix) + recordEnd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s has its record (%v)", name, err)
}

// exorcise destroys what nothing needs of a ghost.
func (r *remover) exorcise(ctx context.Context, ghost string) (whole bool, err error) {
	all, err := r.tool.below(ctx, ghost)
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	gone, err := r.clear(ctx, all, func(object) bool { return false })
	if err != nil {
		return false, err
	}
	return len(gone) == len(all), r.unpin(ctx, ghost, gone)
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	root, err := p.shelf.Enter() // another pool in this place is reported before zfs is asked
	if err != nil {
		return 0, err
	}
	_ = root.Close()
	p.keys.lockIdle()
	all, err := p.tool.below(ctx, p.top())
	if err != nil {
		return 0, err
	}
	trees := p.trees(all)
	n, err := p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int,
		error) {
		return p.remover.tidy(ctx, f, trees[f.ID.String()])
	})
	for name := range trees {
		ghost, ok := strings.CutPrefix(name, "deleted/")
		if !ok || !isID(ghost) || ctx.Err() != nil {
			continue
		}
		whole, eErr := p.remover.exorcise(ctx, p.ghosts()+"/"+ghost)
		if whole {
			n++
		}
		err = errors.Join(err, eErr)
	}
	return n, err
}

// tidy destroys the remains of a crash in a dataset: files, the record of an unfinished restore, and objects
// that no record names. Where a record cannot be read, nothing of ZFS is destroyed: it may be its. The
// objects were listed before; later objects are new, and no name is used twice.
func (r *remover) tidy(ctx context.Context, f *shelf.Folder, all []object) (int, error) {
	if f.State == backends.EntryIncoming {
		return 0, nil // it may be made again
	}
	now, err := headName(f.Root, f.ID)
	if err != nil {
		return 0, nil // List says so
	}
	names, err := shelf.ReadNames(f.Root, ".")
	if err != nil {
		return 0, err
	}
	used, recorded, sure := map[string]bool{now: true}, map[string]bool{}, true
	var doomed []string
	for _, name := range names {
		id, ok := recordID(name)
		if strings.HasPrefix(name, shelf.Temp) {
			doomed = append(doomed, name)
		}
		if !ok {
			continue
		}
		s, err := readSnapshot(f, id)
		switch {
		case err == nil:
			used[s.FS], recorded[r.snapshotName(f.ID, s.FS, id)] = true, true
		case errors.Is(err, dataset.ErrNotFound):
			doomed = append(doomed, name)
		default:
			sure = false
		}
	}
	for _, name := range doomed {
		if err := f.Remove(name); err != nil {
			return 0, err
		}
	}
	if !sure || len(all) == 0 {
		return len(doomed), nil
	}
	root := r.root(f.ID)
	gone, err := r.clear(ctx, all, func(o object) bool {
		fs, snapshot := o.snapshotOf()
		return o.name == root || recorded[o.name] || snapshot == "" && used[strings.TrimPrefix(fs, root+"/")]
	})
	if err != nil {
		return len(doomed), err
	}
	return len(doomed) + len(gone), r.unpin(ctx, root, gone)
}

// recordID returns the snapshot whose record has that name.
func recordID(name string) (uuid.UUID, bool) {
	text, ok := strings.CutSuffix(strings.TrimPrefix(name, recordPrefix), recordEnd)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && name == recordOf(id)
}

var _ backends.Clearer = (*Pool)(nil)

// Clear implements backends.Clearer.
func (p *Pool) Clear(ctx context.Context) (left string, err error) {
	if p.vdevs != nil {
		name := zpoolName(p.vdevs.id)
		return fmt.Sprintf("zpool %s stays, imported and with an empty pool (drover pool adopt takes it "+
			"again by one of its devices; for anything else: zpool destroy %s, then zpool labelclear -f "+
			"each of them)", name, name), p.Close()
	}
	entries, err := p.List(ctx)
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", dataset.Errorf(dataset.ErrConflict, "pool %s holds %s: it is not removed", p.name, entries[0].Path)
	}
	if err := p.attachments.unstageAll(); err != nil {
		return "", err
	}
	if err := p.Raze(ctx); err != nil {
		return "", err
	}
	return "", p.shelf.Clear()
}

// Raze implements backends.StorageRemover.
func (p *Pool) Raze(ctx context.Context) error {
	for _, name := range []string{p.ghosts(), p.top()} {
		if err := p.tool.zfs(ctx, "destroy", name); err != nil && !errors.Is(err, errAbsent) {
			return err
		}
	}
	return nil
}
