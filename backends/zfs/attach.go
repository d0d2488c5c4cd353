package zfs

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// fsType is the kernel's name of the filesystem type.
const fsType = "zfs"

// isZFS tells whether a mount is one of a ZFS filesystem, and not of a snapshot.
func isZFS(m *mount.Entry) bool {
	return (m.FSType == fsType || m.FSType == fuseType) && !strings.Contains(m.Source, "@")
}

// Attach implements backends.Pool.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	if len(opts.Mount) > 0 {
		return backends.Attachment{}, dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend zfs has no mount options (asked for %s)", dataset.Have(opts.Mount))
	}
	f, err := p.shelf.Find(id)
	if err != nil {
		return backends.Attachment{}, err
	}
	defer f.Close()
	head, err := p.headOf(ctx, f)
	if err != nil {
		return backends.Attachment{}, err
	}
	lock, err := p.unlock(ctx, f, head.name)
	if err != nil {
		return backends.Attachment{}, fmt.Errorf("dataset %s: %w", id, err)
	}
	source, kind := head.name, fsType
	p.hold(id)
	if p.home.fuse {
		if source, err = p.stage(ctx, id, head.name); err != nil {
			p.letGo(id)
			return backends.Attachment{}, err
		}
		kind = "bind"
	}
	var once sync.Once
	return backends.Attachment{
		Mount: backends.Mount{
			Source: source, FSType: kind,
			// A device node in a volume must not give access to a disk of the host.
			Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		},
		Release: func() error {
			once.Do(func() { p.letGo(id); lock() })
			return nil
		},
	}, nil
}

func (p *Pool) hold(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached[id]++
}

func (p *Pool) letGo(id uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attached[id]--; p.attached[id] == 0 {
		delete(p.attached, id)
	}
}

// open opens the root of a head that is not mounted.
func (p *Pool) open(ctx context.Context, id uuid.UUID, head string) (*os.File, error) {
	if !p.home.fuse {
		return mount.Detached(mount.Spec{Source: head, FSType: fsType, Options: []string{"nodev"}})
	}
	dir, err := p.stage(ctx, id, head)
	if err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// Idle implements backends.IdleChecker.
func (p *Pool) Idle(_ context.Context, id uuid.UUID) error { return p.unused(id) }

// unused fails with dataset.ErrInUse while a dataset is attached, or mounted in this mount
// namespace or in another: it says where, or who has it.
func (p *Pool) unused(id uuid.UUID) error {
	p.mu.Lock()
	n := p.attached[id]
	p.mu.Unlock()
	if n > 0 {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is about to be mounted", id)
	}
	at, err := p.mountedAt(id)
	if err != nil {
		return fmt.Errorf("find out whether dataset %s is mounted: %w", id, err)
	}
	if at != "" {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is mounted at %s", id, at)
	}
	if p.home.fuse {
		if err := p.unstage(id); err != nil {
			return err
		}
	}
	others, err := mount.Elsewhere()
	if err != nil {
		return fmt.Errorf("find out whether dataset %s is mounted: %w", id, err)
	}
	for _, h := range others.From(p.root(id)) {
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is in use: %s", id, h)
	}
	return nil
}

// mountedAt returns where a dataset is mounted in this mount namespace, other than for a
// moment by zfs-fuse; "" when it is not.
func (p *Pool) mountedAt(id uuid.UUID) (string, error) {
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table {
		if isZFS(m) && strings.HasPrefix(m.Source, p.root(id)+"/") && m.Mountpoint != p.stageDir(id) {
			return m.Mountpoint, nil
		}
	}
	return "", nil
}
