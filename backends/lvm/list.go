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
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// List implements backends.Pool. It lists the folders with their volumes, and the volumes that no folder names.
func (p *Pool) List(ctx context.Context) ([]backends.Entry, error) {
	root, err := p.Shelf.Enter() // fail early if the directory belongs to another pool now
	if err != nil {
		return nil, err
	}
	_ = root.Close()
	all, err := p.tool.volumes(ctx, p.vg)
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	entries, err := p.Shelf.List(func(f *shelf.Folder, e *backends.Entry) { p.describe(ctx, f, e, all, named) })
	if err != nil {
		return nil, err
	}
	strange, err := p.unnamedVolumes(ctx, all, named)
	return append(entries, strange...), err
}

// Stat implements backends.Pool.
func (p *Pool) Stat(ctx context.Context, id uuid.UUID) (backends.Entry, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return backends.Entry{}, err
	}
	defer f.Close()
	return p.Shelf.Describe(f, func(f *shelf.Folder,
		e *backends.Entry) {
		p.describe(ctx, f, e, nil, map[string]bool{})
	}), nil
}

// describe adds to a dataset's entry its snapshots and their problems. all is an earlier listing of the volumes. If a
// volume of the folder is not in it, describe asks LVM again, because the volume may be newer than the listing.
// describe adds the names of the folder's volumes to the set named.
func (p *Pool) describe(ctx context.Context, f *shelf.Folder, e *backends.Entry, all map[string]volume,
	named map[string]bool) {
	shelf.DescribeTrees(f, e)
	links, problems := linksOf(f.Dir)
	for _, name := range links {
		named[name] = true
	}
	var need []string
	if head, err := f.Head(); err == nil && e.Record != nil {
		need = append(need, head.Tree)
	}
	for _, s := range e.Snapshots {
		if snapshot, err := f.ReadSnapshot(s.ID); err == nil {
			need = append(need, snapshot.Tree)
		}
	}
	for _, tree := range need {
		if name := links[tree]; name != "" && !isOurs(all[name]) {
			problems = append(problems, p.checkMissing(ctx, tree, name))
		}
	}
	for _, err := range problems {
		if err != nil {
			shelf.AddProblem(e, err)
		}
	}
}

// checkMissing returns the problem of a volume that was not listed, or nil if it exists now.
func (p *Pool) checkMissing(ctx context.Context, tree, name string) error {
	listed, err := p.tool.volumes(ctx, p.ref(name))
	switch {
	case errors.Is(err, errAbsent):
		return dataset.Errorf(dataset.ErrCorrupt, "%s is missing: no such volume: %s", tree, p.ref(name))
	case err == nil && !isOurs(listed[name]):
		return dataset.Errorf(dataset.ErrCorrupt, "%s: drover did not create volume %s", tree, p.ref(name))
	}
	return err
}

// isOurs reports whether Drover made a volume.
func isOurs(v volume) bool { return v.Pool == poolName && slices.Contains(v.Tags, ourTag) }

// linksOf reads the links in a folder. It returns the name of the volume for each link, by the name of the link.
func linksOf(folder safefile.Dir) (map[string]string, []error) {
	names, err := folder.Names(".")
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

// unnamedVolumes returns the volumes that no folder names and that may be Drover's: they are in the thin pool, or have
// a name of the form that Drover gives.
func (p *Pool) unnamedVolumes(ctx context.Context, all map[string]volume, named map[string]bool) (
	[]backends.Entry, error,
) {
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
	current, err := p.tool.volumes(ctx, p.vg) // a volume that was being removed may be gone
	if err != nil {
		return nil, err
	}
	var found []backends.Entry
	for _, name := range odd {
		v, exists := current[name]
		id := datasetOf(v)
		if !exists || id != uuid.Nil && p.isNamed(id, name) {
			continue
		}
		if other, err := p.isOfOtherPool(v); err != nil {
			return nil, err
		} else if other {
			continue
		}
		problem := "drover did not create it: remove it with lvremove if it is not needed"
		if isOurs(v) {
			problem = fmt.Sprintf("a volume of dataset %s that no record in the pool names", id)
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

// isNamed reports whether the folder of a dataset names a volume now, or the dataset is being deleted.
func (p *Pool) isNamed(id uuid.UUID, name string) bool {
	root, err := p.Shelf.OpenUnclaimed(id)
	if errors.Is(err, dataset.ErrNotFound) {
		return p.isDeleting(id)
	}
	if err != nil {
		return false
	}
	defer root.Close()
	links, _ := linksOf(root)
	return slices.Contains(slices.Collect(maps.Values(links)), name) || p.isDeleting(id)
}

// isDeleting reports whether a dataset is being deleted.
func (p *Pool) isDeleting(id uuid.UUID) bool {
	root, err := p.Shelf.Enter()
	if err != nil {
		return false
	}
	defer root.Close()
	names, err := root.Names("deleting")
	return err == nil && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, id.String()) })
}

// isOfOtherPool reports whether a volume belongs to another pool in the same thin pool: a pool in a sandbox of this
// pool, or the outer pool if this pool is in a sandbox. If neither exists, it returns false.
func (p *Pool) isOfOtherPool(v volume) (bool, error) {
	sandboxOfPool := sandboxTag + p.Shelf.ID().String()
	if p.inSandbox {
		return !slices.Contains(v.Tags, sandboxOfPool), nil
	}
	if !slices.ContainsFunc(v.Tags, func(tag string) bool { return strings.HasPrefix(tag, sandboxTag) }) {
		return false, nil
	}
	list, err := trialdir.Find(p.Shelf.Path())
	return slices.ContainsFunc(list, func(l trialdir.FoundFolder) bool { return l.Foreign == "" }), err
}
