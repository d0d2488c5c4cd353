package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Delete implements backends.Pool: one rename, one flush, then the bytes.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	root, err := p.open()
	if err != nil {
		return fmt.Errorf("delete dataset %s: %w", id, err)
	}
	defer root.Close()
	defer p.claims.Use(id)()
	if err := p.delete(ctx, root, id); err != nil {
		return fmt.Errorf("delete dataset %s: %w", id, err)
	}
	return nil
}

func (p *Pool) delete(ctx context.Context, root folder, id uuid.UUID) error {
	dir, place, err := p.findAny(root, id)
	if err == nil {
		defer dir.Close()
		err = p.hide(ctx, root, dir, filepath.Join(place, id.String()))
	}
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	// What is incoming and not whole was not located, nor a copy that was just begun.
	for _, place := range []string{incoming, copies} {
		if err := p.destroy(root, filepath.Join(place, id.String())); err != nil {
			return err
		}
	}
	hidden, err := p.hidden(root, id)
	if err != nil {
		return err
	}
	for _, name := range hidden {
		name = filepath.Join(deleting, name)
		if err := p.flushDir(root, name); err != nil {
			return err
		}
		p.step("delete.hidden")
		if err := p.destroy(root, name); err != nil {
			return err
		}
	}
	return nil
}

// hide moves an idle dataset from its path to where deletions are finished.
func (p *Pool) hide(ctx context.Context, root, dir folder, path string) error {
	if err := p.idle(ctx, dir); err != nil {
		return err
	}
	// A dataset of that ID may have been deleted before, and be there still.
	to := filepath.Join(deleting, filepath.Base(path))
	for n := 1; ; n++ {
		if _, err := root.lstat(to); errors.Is(err, os.ErrNotExist) {
			return root.rename(path, to)
		} else if err != nil {
			return err
		}
		to = filepath.Join(deleting, filepath.Base(path)+"."+strconv.Itoa(n))
	}
}

// hidden returns the names under which deletions of a dataset wait.
func (p *Pool) hidden(root folder, id uuid.UUID) ([]string, error) {
	entries, err := root.entries(deleting)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if of, err := hiddenID(e.Name()); err == nil && of == id {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// hiddenID returns the dataset of a name in the directory of deletions.
func hiddenID(name string) (uuid.UUID, error) {
	id, n, numbered := strings.Cut(name, ".")
	if numbered {
		if i, err := strconv.Atoi(n); err != nil || i < 1 || strconv.Itoa(i) != n {
			return uuid.Nil, fmt.Errorf("%q is no name that Drover gives", name)
		}
	}
	return parseID(id)
}

// destroy removes a dataset's directory with what this package puts into one. Anything
// else stays, and so the directory: ErrCorrupt. An absent one is fine.
func (p *Pool) destroy(root folder, path string) error {
	dir, err := root.sub(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	c, err := p.contents(dir)
	if err == nil {
		err = p.abandon(dir)
	}
	if err != nil {
		return err
	}
	for _, item := range c.items {
		if err := p.layout.remove(dir, item); err != nil {
			return err
		}
	}
	if len(c.foreign) > 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "%s holds what no pool has: %s: left as it is", dir.Name(),
			strings.Join(c.foreign, ", "))
	}
	for _, name := range slices.Concat(c.tmp, c.records) {
		if err := absentIsFine(dir.remove(name)); err != nil {
			return err
		}
	}
	return root.rmdir(path)
}

// contents is what lies in a dataset's directory.
type contents struct {
	items   []string // head, next, part, and snapshots by their UUID
	records []string // names of files
	tmp     []string // names of files that are worthless
	foreign []string // names that are quoted
}

func (p *Pool) contents(dir folder) (contents, error) {
	entries, err := dir.entries(".")
	if err != nil {
		return contents{}, err
	}
	var c contents
	for _, e := range entries {
		name := e.Name()
		item, isItem := p.layout.item(name)
		owner, isRecord := strings.CutSuffix(name, recordSuffix)
		_, err := parseID(owner)
		switch {
		case isItem:
			c.items = append(c.items, item)
		case isRecord && (err == nil || name == recordFile || name == partFile):
			c.records = append(c.records, name)
		case strings.HasPrefix(name, tmpPrefix) && e.Type().IsRegular():
			c.tmp = append(c.tmp, name)
		default:
			c.foreign = append(c.foreign, strconv.Quote(name))
		}
	}
	return c, nil
}
