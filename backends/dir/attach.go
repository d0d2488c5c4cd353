package dir

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/mount"
)

// Attach implements backends.Pool: the head is there already.
func (p *Pool) Attach(_ context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if len(opts.Mount) > 0 {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrUnsupported, "a pool of backend dir has no mount options (asked for %s)", dataset.Have(opts.Mount))
	}
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	name, err := head(f)
	if err != nil {
		return backends.Attachment{}, err
	}
	if info, err := f.Lstat(name); err != nil || !info.IsDir() {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its directory %s is gone", id, name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached[id]++
	var once sync.Once
	return backends.Attachment{
		Mount: backends.Mount{
			Source: filepath.Join(p.shelf.PathOf(f), name),
			FSType: "bind",
			// A device node in a volume is nobody's way to a disk of the host.
			Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		},
		Release: func() error {
			once.Do(func() { p.release(id) })
			return nil
		},
	}, nil
}

func (p *Pool) release(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached[id]--; p.attached[id] == 0 {
		delete(p.attached, id)
	}
}

// idle is unused, saying what cannot be done meanwhile.
func (p *Pool) idle(f *shelf.Folder, what string) error {
	if err := p.unused(f.ID, p.shelf.PathOf(f)); err != nil {
		return fmt.Errorf("%w: it cannot be %s meanwhile, as a pool of backend dir copies file by file (stop its containers, or use a pool of backend loop)", err, what)
	}
	return nil
}

// unused fails with dataset.ErrInUse while a dataset is attached, or something
// of its folder is mounted in this mount namespace.
func (p *Pool) unused(id uuid.UUID, folder string) error {
	p.mu.Lock()
	n := p.attached[id]
	p.mu.Unlock()
	if n > 0 {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is about to be mounted", id)
	}
	at, err := mountedAt(folder)
	if err != nil {
		return fmt.Errorf("find out whether dataset %s is mounted: %w", id, err)
	}
	if at != "" {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is mounted at %s", id, at)
	}
	return nil
}

// mountedAt returns where a directory, or something below it, is mounted, or
// where something is mounted below it; "" when neither is. Bind mounts are told
// by the path in their filesystem that the mount table has for them, as seen
// from the mount that the directory itself lies in (proc_pid_mountinfo(5)).
func mountedAt(folder string) (string, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return "", err
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return "", err
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	if below := table.Under(path); len(below) > 0 {
		return below[0].Mountpoint, nil
	}
	for _, own := range table {
		if uint64(own.ID) != st.Mnt_id {
			continue
		}
		inside, err := filepath.Rel(own.Mountpoint, path)
		if err != nil {
			return "", err
		}
		inside = filepath.Join(own.Root, inside)
		for _, m := range table.Of(own.Major, own.Minor) {
			if m.Root == inside || strings.HasPrefix(m.Root, inside+"/") {
				return m.Mountpoint, nil
			}
		}
		return "", nil
	}
	return "", fmt.Errorf("the mount of %s is not in the mount table", path)
}
