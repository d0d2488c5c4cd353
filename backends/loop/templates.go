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
	"sync"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
)

const mkfsTimeout = 90 * time.Second

// templateSpec says which formatted image a dataset starts from.
type templateSpec struct {
	FS    string
	Size  dataset.Size // a whole number of blocks
	Owner dataset.Owner
}

// templates keeps the formatted images that new datasets share blocks with.
type templates struct {
	runner      run.Runner
	pool        string // the pool's directory
	layout      layout
	filesystems []string // that this host can make
	step        func(string)
	mu          sync.Mutex // held while a template is made
}

// SpecFor returns the template for a dataset. It fails if the filesystem, the size or another property that the dataset
// requests is not possible.
func (s *templates) SpecFor(d dataset.Dataset) (templateSpec, error) {
	t := templateSpec{Size: cmp.Or(d.Size, defaultSize)}
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
func (t templateSpec) Name() string {
	mode := uint32(mkfs.RootMode)
	if t.Owner.Mode != nil {
		mode = *t.Owner.Mode
	}
	return fmt.Sprintf("%s-%d-u%d-g%d-m%o-2%s", t.FS, t.Size, t.Owner.UID, t.Owner.GID, mode, imageSuffix)
}

// Open opens a template's image. If the template does not exist yet, Open makes it. A create starts a program (mkfs)
// only in that case.
func (s *templates) Open(ctx context.Context, root safefile.Dir, t templateSpec) (*os.File, error) {
	path := filepath.Join(templatesDir, t.Name())
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
			safefile.AbsentIsFine(root.Remove(tmp)),
		)
	}
	if err := s.prune(root); err != nil {
		return nil, err
	}
	s.step("template.made")
	if err := root.Rename(tmp, path); err != nil {
		return nil, err
	}
	dir, err := root.Sub(templatesDir)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.layout.Flush(dir), dir.Close()); err != nil {
		return nil, err
	}
	return root.Open(path)
}

// create makes the image of a template with the given file name.
func (s *templates) create(ctx context.Context, root safefile.Dir, name string, t templateSpec) error {
	// The file is not overwritten, because the mkfs of a killed process may still write to it.
	if err := safefile.AbsentIsFine(root.Remove(name)); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(imageFor(t.FS, t.Size, false)); err != nil {
		return err
	}
	path := filepath.Join(s.pool, name)
	if err := s.Mkfs(ctx, t, path, "nodiscard,lazy_itable_init=0,lazy_journal_init=0"); err != nil {
		return err
	}
	setRoot := func(dir *os.File) error { return mkfs.PrepareRoot(dir, &t.Owner) }
	if err := withMountedImage(ctx, path, t.FS, setRoot); err != nil {
		return err
	}
	// Each hole adds an extent to every clone, so only large ones are made.
	if _, err := reflink.PunchZeros(f, 64<<10); err != nil {
		return err
	}
	return f.Sync()
}

// Mkfs makes the filesystem of a template on a device or in an image. extended are the -E options for ext4.
func (s *templates) Mkfs(ctx context.Context, t templateSpec, at, extended string) error {
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

// maxTemplates is the number of templates that a pool keeps. The limit bounds the space of templates for sizes that
// were used only once.
const maxTemplates = 64

// prune removes the oldest templates to make room for one more.
func (s *templates) prune(root safefile.Dir) error {
	type made struct {
		name string
		at   time.Time
	}
	entries, err := root.Entries(templatesDir)
	if err != nil {
		return err
	}
	var all []made
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), imageSuffix) {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		all = append(all, made{e.Name(), fi.ModTime()})
	}
	slices.SortFunc(all, func(a, b made) int { return a.at.Compare(b.at) })
	for len(all) >= maxTemplates {
		if err := root.Remove(filepath.Join(templatesDir, all[0].name)); err != nil {
			return err
		}
		all = all[1:]
	}
	return nil
}

// defaultSize is the size of a dataset that requests none.
const defaultSize = 10 * dataset.GiB

// Clear removes all templates.
func (s *templates) Clear(root safefile.Dir) error {
	names, err := root.Names(templatesDir)
	if err != nil {
		return safefile.AbsentIsFine(err)
	}
	for _, name := range names {
		if strings.HasSuffix(strings.TrimSuffix(name, tmpSuffix), imageSuffix) {
			if err := safefile.AbsentIsFine(root.Remove(filepath.Join(templatesDir, name))); err != nil {
				return err
			}
		}
	}
	return nil
}

// Reap removes unfinished templates, and returns how many there were. It does nothing while a template is being made.
func (s *templates) Reap(root safefile.Dir) (removed int, err error) {
	if !s.mu.TryLock() {
		return 0, nil
	}
	defer s.mu.Unlock()
	entries, err := root.Entries(templatesDir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), imageSuffix+tmpSuffix) {
			continue
		}
		if err := root.Remove(filepath.Join(templatesDir, e.Name())); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}
