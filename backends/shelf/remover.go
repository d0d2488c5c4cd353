package shelf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// Delete removes a dataset in any area. It fails if CheckUnused fails. Otherwise it durably moves the folder to the
// area of deletions, and removes its bytes. If ctx ends while the bytes are removed, Reap removes the rest, and Delete
// returns nil. Idempotent: an absent dataset is not an error. If the folder in the area of ready datasets is empty,
// Drover did not make it: Delete leaves the folder and fails with dataset.ErrCorrupt.
func (s *Shelf) Delete(ctx context.Context, id uuid.UUID) error {
	root, err := s.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	defer s.claims.Use(id)()
	f, err := s.findFolder(root, id)
	if errors.Is(err, dataset.ErrNotFound) {
		return s.finishDeletion(ctx, root, id)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	folderName, err := s.moveAway(ctx, root, f)
	if err != nil {
		return err
	}
	return s.remove(ctx, root, folderName, Deleting, areaOf(f.State))
}

// finishDeletion finishes an earlier deletion, which may have been interrupted before its flush or later.
func (s *Shelf) finishDeletion(ctx context.Context, root safefile.Dir, id uuid.UUID) error {
	names, err := root.Names(Deleting)
	if err != nil {
		return err
	}
	if s.Flush == nil { // also if the earlier deletion has removed everything
		if err := s.syncMove(root, root, s.areas()...); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range names {
		if deleted, ok := parseName(Deleting, name); ok && deleted == id {
			errs = append(errs, s.remove(ctx, root, name))
		}
	}
	return errors.Join(errs...)
}

// moveAway moves a folder to the area of deletions, and returns its name there. It fails if CheckUnused fails.
func (s *Shelf) moveAway(ctx context.Context, root safefile.Dir, f *Folder) (string, error) {
	if s.CheckUnused != nil {
		if err := s.CheckUnused(ctx, f); err != nil {
			return "", err
		}
	}
	id := f.ID
	folderName := id.String()
	for n := 1; ; n++ {
		_, err := root.Lstat(filepath.Join(Deleting, folderName))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", err
		}
		folderName = fmt.Sprintf("%s.%d", id, n)
	}
	return folderName, root.Rename(filepath.Join(areaOf(f.State), id.String()), filepath.Join(Deleting, folderName))
}

// remove removes a folder from the area of deletions. Before that, it makes the folder's move between areas durable:
// otherwise a power cut could bring back a part of the dataset. If ctx ends meanwhile, Reap removes the rest, and
// remove returns nil.
func (s *Shelf) remove(ctx context.Context, root safefile.Dir, folderName string, areas ...string) error {
	folder, err := root.Sub(filepath.Join(Deleting, folderName))
	if err == nil {
		err = errors.Join(s.syncMove(root, folder, areas...), folder.Close())
	}
	if err != nil {
		return safefile.AbsentIsFine(err)
	}

	err = s.removeOutside(ctx, folderName)
	if err == nil {
		err = s.destroy(ctx, root, Deleting, folderName)
	}
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("dataset %s was deleted, but not all of its data: %w", folderName, err)
	}
	return nil
}

// destroy removes a name in an area with everything below it. Idempotent.
func (s *Shelf) destroy(ctx context.Context, root safefile.Dir, area, name string) error {
	in, err := root.Sub(area)
	if err != nil {
		return err
	}
	defer in.Close()
	if s.Destroy != nil {
		return s.Destroy(ctx, in, name)
	}
	return tree.Remove(ctx, in.File, name)
}

// removeOutside removes the parts of a deleted dataset that are outside its folder. If a dataset with the same ID was
// made since, the parts belong to the new dataset and stay.
func (s *Shelf) removeOutside(ctx context.Context, folderName string) error {
	id, ok := parseName(Deleting, folderName)
	if s.Outside == nil || !ok {
		return nil
	}
	successor, err := s.OpenUnclaimed(id)
	if err == nil {
		return successor.Close()
	}
	if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	return s.Outside(ctx, id)
}

// Reap removes the deleting datasets, the incoming datasets that drop selects, and temporary files. tidy removes the
// backend's temporary files in a folder and returns their number. Reap does not touch a dataset that another call uses.
// It returns how many things it removed.
func (s *Shelf) Reap(ctx context.Context, drop func(uuid.UUID) bool, tidy func(*Folder) (int, error)) (int, error) {
	root, err := s.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	count, err := s.removeTemporary(root)
	errs := []error{err}
	for _, area := range s.areas() {
		names, err := root.Names(area)
		errs = append(errs, err)
		for _, name := range names {
			if ctx.Err() != nil {
				return count, errors.Join(append(errs, ctx.Err())...)
			}
			n, err := s.reapOne(ctx, root, area, name, drop, tidy)
			count += n
			errs = append(errs, err)
		}
	}
	return count, errors.Join(errs...)
}

// ReapTrees is Reap for a backend that keeps trees, which Destroy removes.
func (s *Shelf) ReapTrees(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	return s.Reap(ctx, drop, func(f *Folder) (int, error) {
		doomed, err := f.Leftovers()
		if err != nil || len(doomed) == 0 {
			return 0, err
		}
		return len(doomed), s.Destroy(ctx, f.Dir, doomed...)
	})
}

func (s *Shelf) reapOne(ctx context.Context, root safefile.Dir, area, name string, drop func(uuid.UUID) bool,
	tidy func(*Folder) (int, error)) (int, error) {
	id, ok := parseName(area, name)
	if !ok {
		return 0, nil
	}
	done, ok := s.claims.Reap(id)
	if !ok {
		return 0, nil
	}
	defer done()
	if st, err := root.Lstat(filepath.Join(area, name)); err != nil || !safefile.IsDir(st) {
		return 0, nil
	}
	if area != Deleting {
		if laterFormat, err := hasLaterFormat(root, area, id); laterFormat {
			return 0, err // List reports it
		}
	}
	if area == Incoming && drop(id) {
		f, err := openFolder(root, area, id, func() {})
		if err != nil {
			return 0, nil // foreign: List reports it
		}
		name, err = s.moveAway(ctx, root, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
		area = Deleting
	}
	if area == Deleting {
		if err := s.remove(ctx, root, name, Deleting, Incoming); err != nil || ctx.Err() != nil {
			return 0, err
		}
		return 1, nil
	}
	return s.tidy(root, area, id, tidy)
}

// hasLaterFormat reports whether the record of a dataset has a later format.
func hasLaterFormat(root safefile.Dir, area string, id uuid.UUID) (bool, error) {
	f, err := openFolder(root, area, id, func() {})
	if err != nil {
		return false, nil // foreign: List reports it
	}
	return f.checkFormat() != nil, f.Close()
}

// tidy removes the temporary files in a folder that stays.
func (s *Shelf) tidy(root safefile.Dir, area string, id uuid.UUID, tidy func(*Folder) (int, error)) (int, error) {
	f, err := openFolder(root, area, id, func() {})
	if err != nil {
		return 0, nil // foreign: List reports it
	}
	defer f.Close()
	if area == Copies && f.isEmpty() {
		return 1, s.destroy(context.Background(), root, area, id.String())
	}
	n, err := tidy(f)
	if _, lErr := f.Lstat(Temp + RecordFile); lErr == nil {
		n++
		err = errors.Join(err, f.Remove(Temp+RecordFile))
	}
	return n, err
}
