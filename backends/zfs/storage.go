package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// storage is what all parts of an open pool use: the records in the directory, the command, and the names of the ZFS
// filesystems. It does not change while the pool is open.
type storage struct {
	name  string // of the pool, for errors
	shelf *shelf.Shelf
	tool  tool
	home  home
}

// top is the pool's filesystem.
func (s *storage) top() string { return s.home.name + "/drover-" + s.shelf.ID().String() }

// ghosts is where deleted datasets wait for their clones to go.
func (s *storage) ghosts() string { return s.top() + "/deleted" }

// root is a dataset's filesystem, below which its heads are.
func (s *storage) root(id uuid.UUID) string { return s.top() + "/" + id.String() }

// trees are the objects of a pool by dataset, those of ghosts by "deleted/" and their name.
func (s *storage) trees(all []object) map[string][]object {
	trees := map[string][]object{}
	for _, o := range all {
		fs, _ := o.snapshotOf()
		rel, ok := strings.CutPrefix(fs, s.top()+"/")
		if !ok || rel == "deleted" {
			continue
		}
		name, below, _ := strings.Cut(rel, "/")
		if name == "deleted" {
			ghost, _, _ := strings.Cut(below, "/")
			name += "/" + ghost
		}
		trees[name] = append(trees[name], o)
	}
	return trees
}

// dataset returns the dataset and the head that a filesystem's name has.
func (s *storage) dataset(fs string) (id uuid.UUID, head string, err error) {
	rel, ok := strings.CutPrefix(fs, s.top()+"/")
	text, head, below := strings.Cut(rel, "/")
	if !ok || !below || !isID(text) || !isHead(head) {
		return id, "", fmt.Errorf("%s is no head of a dataset of this pool", fs)
	}
	id, err = uuid.Parse(text)
	return id, head, err
}

// headOf returns the head's filesystem.
func (s *storage) headOf(ctx context.Context, f *shelf.Folder) (object, error) {
	name, err := headName(f.Root, f.ID)
	if err == nil && name == "" {
		err = dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %s says that it is a copy, and it is none", f.ID,
			currentName)
	}
	if err != nil {
		return object{}, err
	}
	o, err := s.tool.one(ctx, s.root(f.ID)+"/"+name)
	if errors.Is(err, errAbsent) || (err == nil && o.kind != kindFilesystem) {
		return object{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its filesystem %s/%s is gone", f.ID,
			s.root(f.ID), name)
	}
	return o, err
}

func (s *storage) snapshotName(ds uuid.UUID, fs string, id uuid.UUID) string {
	return s.root(ds) + "/" + fs + "@" + snapPrefix + id.String()
}
