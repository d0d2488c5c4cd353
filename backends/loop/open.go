package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	if p.Shelf, err = shelf.OpenLayout(cfg, Name, kind); err != nil {
		return err
	}
	if err := p.Shelf.KeepCopies(); err != nil {
		return err
	}
	root, err := p.Shelf.Enter()
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
	if p.direct, err = directIO(root, shelf.MarkerFile); err != nil {
		return err
	}
	p.mountPath, p.keys = cfg.MountPath, cfg.Keys
	p.records = recordWriter{Layout: p.layout, Direct: p.direct}
	if err := p.describeHost(); err != nil {
		return err
	}
	p.templates = &templates{
		runner: p.backend.runner, pool: p.Path(), layout: p.layout, filesystems: p.info.Capabilities.Filesystems,
		step: p.step,
	}
	p.BackendNames = []string{templatesDir}
	p.IsComplete, p.Flush, p.CheckUnused, p.Destroy = p.isComplete, p.layout.Flush, p.checkUnused, p.destroy
	return p.dropAllUnused() // removes mappings that a killed process left
}

// describeHost sets the result of Info.
func (p *Pool) describeHost() error {
	host := mkfs.DetectHost()
	caps := p.backend.MaxCapabilities()
	if err := host.Declare(&caps, "no filesystem for the images"); err != nil {
		return err
	}
	seals := crypt.Available()
	note := []string{p.layout.Note()}
	if !p.direct {
		note = append(note, "without direct I/O, which this filesystem does not support")
	}
	if len(caps.OfflineGrow) > 0 {
		note = append(note, "ext4 cannot grow while mounted, because this process lacks CAP_SYS_RESOURCE")
	}
	if p.image != nil {
		note = append(note, p.image.note...)
	}
	if p.disk != nil {
		note = append(note, p.disk.Note())
	}
	_, caps.ConstantSnapshot = p.layout.(*btrfsLayout)
	caps.Encryption = seals == nil
	p.info = backends.Info{
		Capabilities:    caps,
		CopyFilesystems: host.Mounts, Missing: host.MissingWith(seals), Note: strings.Join(note, "; "), Path: p.Path(),
		DefaultSize: defaultSize, UsedStartsNoProgram: true,
	}
	return nil
}

// room fails with ErrNoSpace if the pool is so full that no new work should begin. Otherwise writes to existing
// datasets would soon fail.
func (p *Pool) room() error {
	if err := p.Room(); err != nil || p.image == nil {
		return err
	}
	return p.image.Room()
}
