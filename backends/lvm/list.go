package lvm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// Delete implements backends.Pool.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id, func(string) error { return p.unused(ctx, id) })
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	return p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int, error) {
		doomed, err := f.Leftovers()
		if err != nil {
			return 0, err
		}
		return len(doomed), p.destroyIn(ctx, f, doomed...)
	})
}

// destroyIn removes names of a folder, with their volumes.
func (p *Pool) destroyIn(ctx context.Context, f *shelf.Folder, names ...string) error {
	dir, err := f.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range names {
		if err := p.destroy(ctx, dir, name); err != nil {
			return err
		}
	}
	return nil
}

// destroy removes a file or a folder. Before that it removes the volumes that the file, or the files in the
// folder, represent. Idempotent. See shelf.Shelf.
func (p *Pool) destroy(ctx context.Context, dir *os.File, name string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{name}
	if info, err := root.Lstat(name); err == nil && info.IsDir() {
		if root, err = root.OpenRoot(name); err != nil {
			return err
		}
		defer root.Close()
		if names, err = shelf.ReadNames(root, "."); err != nil {
			return err
		}
	}
	var doomed []string
	for _, name := range names {
		if !shelf.IsTree(name) {
			continue
		}
		volume, err := volumeOf(root, name)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		default:
			doomed = append(doomed, volume)
		}
	}
	p.step("lvm.destroy.begun")
	if err := p.abandon(doomed); err != nil {
		return err
	}
	if err := p.remove(ctx, doomed); err != nil {
		return err
	}
	p.step("lvm.destroy.removed")
	return tree.Remove(ctx, dir, name)
}

// remove removes volumes, those that are there, in Drover's thin pool and with its tag.
func (p *Pool) remove(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var which []string
	for _, name := range names {
		which = append(which, "lv_name="+name)
	}
	ours := fmt.Sprintf("pool_lv=%s && lv_tags=%s && (%s)", poolName, ourTag, strings.Join(which, " || "))
	return p.change(ctx, "lvremove", "--yes", "--select", ours, p.vg)
}

// List implements backends.Pool. It lists the folders with their volumes, and the volumes without a name in a folder.
func (p *Pool) List(ctx context.Context) ([]backends.Entry, error) {
	root, err := p.shelf.Enter() // another pool in this place is reported before lvm is asked
	if err != nil {
		return nil, err
	}
	_ = root.Close()
	all, err := p.tool.volumes(ctx, p.vg)
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	entries, err := p.shelf.List(func(f *shelf.Folder, e *backends.Entry) { p.describe(ctx, f, e, all, named) })
	if err != nil {
		return nil, err
	}
	strange, err := p.strangers(ctx, all, named)
	return append(entries, strange...), err
}

// Stat implements backends.Pool.
func (p *Pool) Stat(ctx context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.shelf.Describe(f, func(f *shelf.Folder,
		e *backends.Entry) {
		p.describe(ctx, f, e, nil, map[string]bool{})
	}), nil
}

// describe adds to a dataset's entry its snapshots and their problems, and to named the volumes that the
// folder names. What all lacks is looked for again: it may have come since that was listed.
func (p *Pool) describe(ctx context.Context, f *shelf.Folder, e *backends.Entry, all map[string]volume,
	named map[string]bool) {
	shelf.DescribeTrees(f, e)
	links, problems := linksOf(f.Root)
	for _, name := range links {
		named[name] = true
	}
	var need []string
	if head, err := f.Head(); err == nil && e.Record != nil {
		need = append(need, head.Tree)
	}
	for _, s := range e.Snapshots {
		if kept, err := f.Kept(s.ID); err == nil {
			need = append(need, kept.Tree)
		}
	}
	for _, tree := range need {
		if name := links[tree]; name != "" && !ours(all[name]) {
			problems = append(problems, p.gone(ctx, tree, name))
		}
	}
	for _, err := range problems {
		if err != nil {
			shelf.AddProblem(e, err)
		}
	}
}

// gone returns the problem of a volume that was not listed; nil: it exists by now.
func (p *Pool) gone(ctx context.Context, tree, name string) error {
	now, err := p.tool.volumes(ctx, p.ref(name))
	switch {
	case errors.Is(err, errAbsent):
		return dataset.Errorf(dataset.ErrCorrupt, "%s is gone: there is no volume %s", tree, p.ref(name))
	case err == nil && !ours(now[name]):
		return dataset.Errorf(dataset.ErrCorrupt, "%s: volume %s is not one that drover made", tree, p.ref(name))
	}
	return err
}

// ours tells whether Drover made a volume.
func ours(v volume) bool { return v.Pool == poolName && slices.Contains(v.Tags, ourTag) }

// linksOf returns the volumes of the files in a folder.
func linksOf(folder *os.Root) (map[string]string, []error) {
	names, err := shelf.ReadNames(folder, ".")
	if err != nil {
		return nil, []error{err}
	}
	links := map[string]string{}
	var problems []error
	for _, tree := range names {
		if !shelf.IsTree(tree) {
			continue
		}
		name, err := volumeOf(folder, tree)
		switch {
		case err == nil:
			links[tree] = name
		case !errors.Is(err, os.ErrNotExist):
			problems = append(problems, err)
		}
	}
	return links, problems
}

// strangers returns the volumes of the thin pool, and those of Drover's names, that no
// folder names. Other volumes in the volume group belong to others.
func (p *Pool) strangers(ctx context.Context, all map[string]volume, named map[string]bool) ([]backends.Entry, error) {
	var odd []string
	for name, v := range all {
		if name != poolName && name != recordsName && !named[name] &&
			(v.Pool == poolName || volumeName.MatchString(name)) {
			odd = append(odd, name)
		}
	}
	if len(odd) == 0 {
		return nil, nil
	}
	slices.Sort(odd)
	now, err := p.tool.volumes(ctx, p.vg) // a volume that was being removed may be gone
	if err != nil {
		return nil, err
	}
	var found []backends.Entry
	for _, name := range odd {
		v, there := now[name]
		id := datasetOf(v)
		if !there || id != uuid.Nil && p.knows(id, name) {
			continue
		}
		if other, err := p.foreignTo(v); err != nil {
			return nil, err
		} else if other {
			continue
		}
		problem := "drover did not make it: lvremove it when it is of no use"
		if ours(v) {
			problem = fmt.Sprintf("a volume of dataset %s, and no record in the pool names it", id)
		}
		found = append(found, backends.Entry{
			State:   backends.EntryForeign,
			Path:    "/dev/" + p.ref(name),
			Problem: problem,
		})
	}
	return found, nil
}

// datasetOf returns the dataset that a volume was made for.
func datasetOf(v volume) uuid.UUID {
	for _, tag := range v.Tags {
		if text, ok := strings.CutPrefix(tag, datasetTag); ok {
			id, _ := uuid.Parse(text)
			return id
		}
	}
	return uuid.Nil
}

// knows tells whether the folder of a dataset names a volume by now, or is on its way out.
func (p *Pool) knows(id uuid.UUID, name string) bool {
	root, err := p.shelf.Glance(id)
	if errors.Is(err, dataset.ErrNotFound) {
		return p.leaving(id)
	}
	if err != nil {
		return false
	}
	defer root.Close()
	links, _ := linksOf(root)
	return slices.Contains(slices.Collect(maps.Values(links)), name) || p.leaving(id)
}

// leaving reports whether a dataset is being deleted.
func (p *Pool) leaving(id uuid.UUID) bool {
	root, err := p.shelf.Enter()
	if err != nil {
		return false
	}
	defer root.Close()
	names, err := shelf.ReadNames(root, "deleting")
	return err == nil && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, id.String()) })
}
