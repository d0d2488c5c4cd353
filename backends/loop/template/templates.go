// Package template keeps templates: formatted images whose blocks new datasets share, so that a create need not run
// mkfs. Package loop calls it. Templates are files of the pool. A mutex ensures that a pool makes one template at a
// time.
package template

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/run"
)

const mkfsTimeout = 90 * time.Second

// Spec says which formatted image a dataset starts from.
type Spec struct {
	FS    string
	Size  dataset.Size // a whole number of blocks
	Owner dataset.Owner
}

// Store keeps the formatted images that new datasets share blocks with.
type Store struct {
	runner      run.Runner
	pool        string // the pool's directory
	layout      layout.Layout
	filesystems []string // that this host can make
	step        func(string)
	mu          sync.Mutex // held while a template is made
}

// NewStore returns the store of the templates in a pool's directory. filesystems are those that this host can make.
func NewStore(runner run.Runner, pool string, l layout.Layout, filesystems []string, step func(string)) *Store {
	return &Store{runner: runner, pool: pool, layout: l, filesystems: filesystems, step: step}
}

// SpecFor returns the template for a dataset. It fails if the filesystem, the size or another property that the dataset
// requests is not possible.
func (s *Store) SpecFor(d dataset.Dataset) (Spec, error) {
	t := Spec{Size: cmp.Or(d.Size, DefaultSize)}
	if d.Profile.Owner != nil {
		t.Owner = *d.Profile.Owner
	}
	var err error
	if t.FS, err = mkfs.Choose(d.Profile.Filesystem.Type, t.Size, s.filesystems); err != nil {
		return t, err
	}
	return t, mkfs.Request{Chosen: d.Profile.Filesystem.Type, Filesystem: t.FS, Size: t.Size}.Check()
}

// Name returns the name of a template. It contains all properties in which templates differ, and the version of the
// rule for the length of its image, which is 2 (see package mkfs). A template of another rule is not used.
func (t Spec) Name() string {
	mode := uint32(mkfs.RootMode)
	if t.Owner.Mode != nil {
		mode = *t.Owner.Mode
	}
	return fmt.Sprintf("%s-%d-u%d-g%d-m%o-2%s", t.FS, t.Size, t.Owner.UID, t.Owner.GID, mode, layout.ImageSuffix)
}

// Open opens a template's image. If the template does not exist yet, Open makes it. A create starts a program (mkfs)
// only in that case.
func (s *Store) Open(ctx context.Context, root folder.Dir, t Spec) (*os.File, error) {
	path := filepath.Join(layout.Templates, t.Name())
	f, err := root.Open(path)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, err := root.Open(path); !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	tmp := path + ".tmp"
	if err := s.create(ctx, root, tmp, t); err != nil {
		return nil, errors.Join(
			fmt.Errorf("format an image with %s: %w", t.FS, err),
			folder.AbsentIsFine(root.Remove(tmp)),
		)
	}
	if err := s.prune(root); err != nil {
		return nil, err
	}
	s.step("template.made")
	if err := root.Rename(tmp, path); err != nil {
		return nil, err
	}
	dir, err := root.Sub(layout.Templates)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.layout.Flush(dir), dir.Close()); err != nil {
		return nil, err
	}
	return root.Open(path)
}

// create makes the image of a template with the given file name.
func (s *Store) create(ctx context.Context, root folder.Dir, name string, t Spec) error {
	// The file is not overwritten, because the mkfs of a killed process may still write to it.
	if err := folder.AbsentIsFine(root.Remove(name)); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(imagefile.ImageFor(t.FS, t.Size, false)); err != nil {
		return err
	}
	path := filepath.Join(s.pool, name)
	if err := s.Mkfs(ctx, t, path, "nodiscard,lazy_itable_init=0,lazy_journal_init=0"); err != nil {
		return err
	}
	setRoot := func(dir *os.File) error { return mkfs.PrepareRoot(dir, &t.Owner) }
	if err := attach.WithMountedImage(ctx, path, t.FS, setRoot); err != nil {
		return err
	}
	// Each hole adds an extent to every clone, so only large ones are made.
	if _, err := reflink.PunchZeros(f, 64<<10); err != nil {
		return err
	}
	return f.Sync()
}

// Mkfs makes the filesystem of a template on a device or in an image. extended are the -E options for ext4.
func (s *Store) Mkfs(ctx context.Context, t Spec, at, extended string) error {
	more := []string{"-F", "-E", extended, at}
	if t.FS == mkfs.XFS {
		// Sectors must be as large as the blocks of the loop device, or the filesystem could not be mounted.
		more = []string{"-f", "-s", "size=4096", at}
	}
	if err := mkfs.CheckUsable(t.FS); err != nil { // the program may have been removed since the pool was opened
		return err
	}
	_, err := s.runner.Run(ctx, run.Command{
		Name:    "mkfs." + t.FS,
		Args:    append(mkfs.Args(t.FS, t.Size), more...),
		Timeout: mkfsTimeout,
	})
	return err
}

// MaxTemplates is the number of templates that a pool keeps. The limit bounds the space of templates for sizes that
// were used only once.
const MaxTemplates = 64

// prune removes the oldest templates to make room for one more.
func (s *Store) prune(root folder.Dir) error {
	type made struct {
		name string
		at   time.Time
	}
	entries, err := root.Entries(layout.Templates)
	if err != nil {
		return err
	}
	var all []made
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), layout.ImageSuffix) {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		all = append(all, made{e.Name(), fi.ModTime()})
	}
	slices.SortFunc(all, func(a, b made) int { return a.at.Compare(b.at) })
	for len(all) >= MaxTemplates {
		if err := root.Remove(filepath.Join(layout.Templates, all[0].name)); err != nil {
			return err
		}
		all = all[1:]
	}
	return nil
}

// DefaultSize is the size of a dataset that requests none.
const DefaultSize = 10 * dataset.GiB

// Reap removes unfinished templates, and returns how many there were. It does nothing while a template is being made.
func (s *Store) Reap(root folder.Dir) (removed int, err error) {
	if !s.mu.TryLock() {
		return 0, nil
	}
	defer s.mu.Unlock()
	entries, err := root.Entries(layout.Templates)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), layout.ImageSuffix+layout.TmpSuffix) {
			continue
		}
		if err := root.Remove(filepath.Join(layout.Templates, e.Name())); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}
