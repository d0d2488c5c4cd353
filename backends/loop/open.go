package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/growth"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/poolimage"
	"github.com/droverhq/drover/backends/loop/template"
	"github.com/droverhq/drover/backends/loop/transfer"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// Open implements backends.Kind.
func (b *Backend) Open(ctx context.Context, cfg backends.Config) (backends.Pool, error) {
	if !filepath.IsAbs(cfg.Path) || filepath.Clean(cfg.Path) != cfg.Path {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"pool %s: bad path %q: expected an absolute path without . and ..", cfg.Name, cfg.Path)
	}
	p := &Pool{backend: b, name: cfg.Name, dir: &poolDir{name: cfg.Name, path: cfg.Path}}
	p.policies = policies{p.dir}
	var err error
	if cfg.Image > 0 {
		p.image, err = poolimage.Open(ctx, b.runner, p.step, cfg)
		p.dir.path = cfg.Mount
		if err == nil {
			p.dir.imageRoom = p.image.Room
		}
	}
	if len(cfg.Devices) > 0 {
		if p.disk, err = disk.Open(ctx, b.runner, cfg, fsctl.XFS, nil); err == nil {
			cfg.ID = p.disk.ID
		}
	}
	if err == nil {
		err = p.openOrMake(cfg)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool %s: %w", cfg.Name, err), p.Close())
	}
	return p, nil
}

// PathOf implements backends.BlockDeviceKind.
func (b *Backend) PathOf(_, mount string) string { return mount }

// openOrMake makes the pool if cfg.Make is set, reads its identity and prepares it for use.
func (p *Pool) openOrMake(cfg backends.Config) error {
	kind, err := layoutFor(p.dir.path, cfg.Make)
	if err != nil {
		return err
	}
	if p.dir.identity, err = identify(p.dir.path, cfg, kind); err != nil {
		return err
	}
	root, err := p.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if p.image != nil {
		if err := p.image.RefillAtOpen(); err != nil {
			return err
		}
	}
	p.layout = layout.XFS{}
	if p.dir.identity.Layout == layoutBtrfs {
		p.layout = &layout.Btrfs{}
	}
	for _, dir := range layout.Directories() {
		if err := root.Mkdir(dir); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := p.layout.Prepare(root); err != nil {
		return err
	}
	direct, err := layout.DirectIO(root, layout.IdentityFile)
	if err != nil {
		return err
	}
	if p.info, err = infoOf(p, direct); err != nil {
		return err
	}
	assemble(p, direct, cfg)
	return p.containers.DropAllUnused() // removes mappings that a killed process left
}

// infoOf returns the result of Info for a pool. direct reports whether direct I/O works in the pool.
func infoOf(p *Pool, direct bool) (info backends.Info, err error) {
	host := mkfs.DetectHost()
	if err := host.CheckAny(host.Mounts, "no filesystem for the images"); err != nil {
		return info, err
	}
	offline, err := offlineGrow(host.Mounts)
	if err != nil {
		return info, err
	}
	var missing []string
	seals := crypt.Available()
	for _, err := range append(host.Missing, seals) {
		if err != nil {
			missing = append(missing, err.Error())
		}
	}
	note := []string{p.layout.Note()}
	if !direct {
		note = append(note, "without direct I/O, which this filesystem does not support")
	}
	if len(offline) > 0 {
		note = append(note, "ext4 cannot grow while mounted, because this process lacks CAP_SYS_RESOURCE")
	}
	if p.image != nil {
		note = append(note, p.image.Notes()...)
	}
	if p.disk != nil {
		note = append(note, p.disk.Note())
	}
	_, constant := p.layout.(*layout.Btrfs)
	caps := p.backend.MaxCapabilities()
	caps.ConstantSnapshot, caps.Encryption, caps.Filesystems = constant, seals == nil, host.Makes
	caps.OnlineGrow, caps.OfflineGrow = len(offline) < len(host.Mounts), offline
	return backends.Info{
		Capabilities:    caps,
		CopyFilesystems: host.Mounts, Missing: missing, Note: strings.Join(note, "; "), Path: p.dir.path,
		DefaultSize: template.DefaultSize, UsedStartsNoProgram: true,
	}, nil
}

// assemble makes the parts of an open pool.
func assemble(p *Pool, direct bool, cfg backends.Config) {
	run, name, lay := p.backend.runner, p.name, p.layout
	filesystems := p.info.Capabilities.Filesystems
	p.records = layout.RecordWriter{Layout: lay, Direct: direct}
	p.images = imagefile.NewImages(lay, p.Filesystem)
	p.heads = imagefile.NewHeads(lay, p.step)
	p.sharing = imagefile.NewSharing(name, lay, p.images, p.heads, p.step)
	p.containers = attach.NewContainers(run, cfg.Keys, p.ID(), p.info.Capabilities.Encryption, p.step)
	p.attacher = attach.New(name, lay, p.images, p.sharing, p.containers, direct, cfg.MountPath, p.step)
	p.grower = growth.New(run, lay, p.images, p.heads, p.sharing, p.containers, p.attacher, p.step)
	p.templates = template.NewStore(run, p.dir.path, lay, filesystems, p.step)
	p.catalog = &catalog{pool: name, dir: p.dir, layout: lay, images: p.images}
	p.remover = &remover{
		layout: lay, dir: p.dir, catalog: p.catalog, containers: p.containers, attacher: p.attacher, step: p.step,
	}
	p.creator = &creator{
		dir: p.dir, catalog: p.catalog, layout: lay, records: p.records, images: p.images, containers: p.containers,
		remover: p.remover, templates: p.templates, attacher: p.attacher, grower: p.grower, step: p.step,
	}
	p.snapshots = &snapshots{
		dir: p.dir, layout: lay, records: p.records, images: p.images, heads: p.heads, sharing: p.sharing,
		attacher: p.attacher, grower: p.grower, step: p.step,
	}
	p.copier = &copier{
		pool: name, dir: p.dir, catalog: p.catalog, layout: lay, records: p.records, images: p.images,
		sharing: p.sharing, attacher: p.attacher, step: p.step,
	}
	p.receiver = &transfer.Receiver{
		Pool: name, Layout: lay, Records: p.records, Images: p.images, Sharing: p.sharing, Room: p.dir.room,
		DropHead: p.copier.dropHead, Tuning: p.backend.tuning, Step: p.step,
	}
	p.sender = transfer.NewSender(name, lay, p.images)
}

// offlineGrow returns the filesystems that cannot grow while they are mounted.
func offlineGrow(filesystems []string) ([]string, error) {
	if !slices.Contains(filesystems, mkfs.Ext4) {
		return nil, nil
	}
	if grows, err := fsctl.CanGrowExt4(); err != nil || grows {
		return nil, err
	}
	return []string{mkfs.Ext4}, nil
}

// poolDir is the directory of a pool. Each operation opens it, and checks its identity, because the disk below it can
// be replaced between two operations.
type poolDir struct {
	name     string // of the pool
	path     string
	identity identity
	// imageRoom fails if the pool's image lacks blocks. It is nil unless the pool is in an image file.
	imageRoom    func() error
	lastVerified atomic.Pointer[stamp] // version of the identity file that was verified last
	identityMu   sync.Mutex            // held while the identity is rewritten or removed
}

// open opens the pool's directory and checks that it is still this pool. Nothing stays open between operations, so
// the disk of an idle pool can be unmounted.
func (h *poolDir) open() (folder.Dir, error) {
	root, err := folder.Open(h.path)
	if err != nil {
		return folder.Dir{}, h.offlineError("%w", err)
	}
	if err := h.verify(root); err != nil {
		_ = root.Close()
		if errors.Is(err, dataset.ErrUnsupported) {
			return folder.Dir{}, fmt.Errorf("pool %s at %s: %w", h.name, h.path, err)
		}
		return folder.Dir{}, h.offlineError("%w", err)
	}
	return root, nil
}

// stamp identifies a version of a file.
type stamp struct {
	dev, ino uint64
	ctime    unix.Timespec
}

// verify checks the identity of the pool in root. It does not read the identity file if the file has not changed
// since the last time.
func (h *poolDir) verify(root folder.Dir) error {
	st, err := root.Lstat(layout.IdentityFile)
	if err != nil {
		return err
	}
	current := stamp{dev: st.Dev, ino: st.Ino, ctime: st.Ctim}
	if last := h.lastVerified.Load(); last != nil && *last == current {
		return nil
	}
	id, err := h.read(root)
	if err != nil {
		return err
	}
	if id.ID != h.identity.ID {
		return fmt.Errorf("it contains pool %s", id.ID)
	}
	h.lastVerified.Store(&current)
	return nil
}

// read reads the identity file.
func (h *poolDir) read(root folder.Dir) (identity, error) {
	raw, err := root.ReadFile(layout.IdentityFile, layout.MaxRecord)
	if err != nil {
		return identity{}, err
	}
	return decodeIdentity(raw)
}

// generation reads the pool's generation.
func (h *poolDir) generation() (uint64, error) {
	root, err := h.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	id, err := h.read(root)
	if err != nil {
		return 0, h.offlineError("%w", err)
	}
	return id.Generation, nil
}

// changeIdentity durably changes the identity of the pool.
func (h *poolDir) changeIdentity(change func(id *identity)) error {
	h.identityMu.Lock()
	defer h.identityMu.Unlock()
	root, err := h.open()
	if err != nil {
		return err
	}
	defer root.Close()
	id, err := h.read(root)
	if err != nil {
		return h.offlineError("%w", err)
	}
	change(&id)
	return backends.NoSpace(replaceIdentity(root, id))
}

// offlineError returns the error of a pool that cannot be opened.
func (h *poolDir) offlineError(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s at %s is offline: %w", h.name, h.path,
		fmt.Errorf(format, args...))
}

// room fails with ErrNoSpace if the pool is so full that no new work should begin. Otherwise writes to existing
// datasets would soon fail.
func (h *poolDir) room(root folder.Dir) error {
	free, size, err := layout.Space(root)
	if err != nil {
		return err
	}
	if err := backends.CheckRoom(h.name, free, size); err != nil {
		return err
	}
	if h.imageRoom != nil {
		return h.imageRoom()
	}
	return nil
}
