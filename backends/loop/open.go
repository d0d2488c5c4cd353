package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
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
	p := &Pool{backend: b, name: cfg.Name}
	at := cfg
	var err error
	if cfg.Image > 0 {
		p.image, err = openPoolImage(ctx, b.runner, p.step, cfg)
		at.Path = cfg.Mount
	}
	if len(cfg.Devices) > 0 {
		if p.disk, err = disk.Open(ctx, b.runner, cfg, fsctl.XFS, nil); err == nil {
			at.ID = p.disk.ID
		}
	}
	if err == nil {
		err = p.openOrMake(at)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool %s: %w", cfg.Name, err), p.Close())
	}
	return p, nil
}

// PathOf implements backends.BlockDeviceKind.
func (b *Backend) PathOf(_, mount string) string { return mount }

// openOrMake makes the pool if cfg.Make is set, reads its marker and prepares it for use.
func (p *Pool) openOrMake(cfg backends.Config) error {
	kind, err := layoutFor(cfg.Path, cfg.Make)
	if err != nil {
		return err
	}
	if p.shelf, err = shelf.OpenLayout(cfg, Name, kind); err != nil {
		return err
	}
	if err := p.shelf.KeepCopies(); err != nil {
		return err
	}
	root, err := p.shelf.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	if p.image != nil {
		if err := p.image.RefillAtOpen(); err != nil {
			return err
		}
	}
	p.layout = xfsLayout{}
	if kind == layoutBtrfs {
		p.layout = &btrfsLayout{}
	}
	if err := root.Mkdir(templatesDir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := p.layout.Prepare(root); err != nil {
		return err
	}
	direct, err := directIO(root, shelf.MarkerFile)
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
	_, constant := p.layout.(*btrfsLayout)
	caps := p.backend.MaxCapabilities()
	caps.ConstantSnapshot, caps.Encryption, caps.Filesystems = constant, seals == nil, host.Makes
	caps.OnlineGrow, caps.OfflineGrow = len(offline) < len(host.Mounts), offline
	return backends.Info{
		Capabilities:    caps,
		CopyFilesystems: host.Mounts, Missing: missing, Note: strings.Join(note, "; "), Path: p.shelf.Path(),
		DefaultSize: defaultSize, UsedStartsNoProgram: true,
	}, nil
}

// assemble makes the parts of an open pool.
func assemble(p *Pool, direct bool, cfg backends.Config) {
	run, lay := p.backend.runner, p.layout
	filesystems := p.info.Capabilities.Filesystems
	p.records = recordWriter{Layout: lay, Direct: direct}
	im := &images{pool: p.name, layout: lay, defaultFS: p.Filesystem, step: p.step}
	p.images = im
	p.containers = &containers{
		runner: run, keys: cfg.Keys, suffix: "-" + p.ID().String()[:8], available: p.info.Capabilities.Encryption,
		step: p.step,
	}
	p.attacher = &attacher{images: im, containers: p.containers, direct: direct, mountPath: cfg.MountPath}
	p.grower = &grower{images: im, runner: run, containers: p.containers, attacher: p.attacher}
	p.templates = &templates{runner: run, pool: p.shelf.Path(), layout: lay, filesystems: filesystems, step: p.step}
	p.remover = &remover{images: im, containers: p.containers, attacher: p.attacher}
	p.creator = &creator{
		images: im, shelf: p.shelf, room: p.room, records: p.records, containers: p.containers, templates: p.templates,
		attacher: p.attacher, grower: p.grower,
	}
	p.snapshots = &snapshots{
		images: im, room: p.room, records: p.records, attacher: p.attacher, grower: p.grower,
	}
	p.copier = &copier{images: im, shelf: p.shelf, attacher: p.attacher}
	p.receiver = &receiver{
		images: im, records: p.records, room: p.room, dropHead: p.copier.dropHead, tuning: p.backend.tuning,
	}
	p.sender = &sender{images: im}
	p.shelf.BackendNames = []string{templatesDir}
	p.shelf.IsComplete, p.shelf.Flush = im.isComplete, lay.Flush
	p.shelf.CheckUnused, p.shelf.Destroy = p.remover.checkUnused, p.remover.destroy
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

// room fails with ErrNoSpace if the pool is so full that no new work should begin. Otherwise writes to existing
// datasets would soon fail.
func (p *Pool) room() error {
	st, err := p.shelf.Space()
	if err != nil {
		return err
	}
	return p.checkRoom(st)
}

// checkRoom is room for a known status of the pool's filesystem.
func (p *Pool) checkRoom(st dataset.PoolStatus) error {
	if err := backends.CheckRoom(p.name, st.Free, st.Size); err != nil || p.image == nil {
		return err
	}
	return p.image.Room()
}
