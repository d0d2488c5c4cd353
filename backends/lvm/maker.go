package lvm

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
)

// The filesystems that a volume can hold.
const (
	ext4 = mkfs.Ext4
	xfs  = mkfs.XFS
)

// link represents a volume in a dataset's folder: a file with the name of the tree.
type link struct {
	Volume string `json:"volume"`
	// Size is the number of bytes that can be written to the filesystem in the volume. The volume itself is larger: see
	// package mkfs.
	Size       dataset.Size `json:"size"`
	Filesystem string       `json:"filesystem"`
}

var volumeName = regexp.MustCompile(`^` + namePrefix + `[0-9a-f]{32}$`)

// linkOf returns the link of a tree in a folder.
func linkOf(folder safefile.Dir, tree string) (l link, err error) {
	err = shelf.ReadJSON(folder, tree, &l)
	if errors.Is(err, fs.ErrNotExist) {
		return l, err
	}
	if err != nil || !volumeName.MatchString(l.Volume) || l.Size <= 0 || l.Filesystem == "" {
		return l, dataset.Errorf(dataset.ErrCorrupt, "file %s does not name its volume", tree)
	}
	return l, nil
}

// volumeOf returns the name of a tree's volume.
func volumeOf(folder safefile.Dir, tree string) (string, error) {
	l, err := linkOf(folder, tree)
	return l.Volume, err
}

// headOf returns the name of the head's volume.
func headOf(f *shelf.Folder) (string, error) {
	_, l, err := headLink(f)
	return l.Volume, err
}

// headLink returns the head's tree and its link.
func headLink(f *shelf.Folder) (tree string, l link, err error) {
	h, err := f.Head()
	if err != nil {
		return "", l, err
	}
	if l, err = linkOf(f.Dir, h.Tree); err != nil {
		return "", l, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: %w", f.ID, err)
	}
	return h.Tree, l, nil
}

// recordIntent durably records that a volume will be made for a tree. It records l with a new volume name, and returns
// the name. Before that, it removes the volume of an earlier attempt.
func (p *Pool) recordIntent(ctx context.Context, f *shelf.Folder, tree string, l link) (string, error) {
	if err := p.destroy(ctx, f.Dir, tree); err != nil {
		return "", err
	}
	id := uuid.New()
	l.Volume = namePrefix + hex.EncodeToString(id[:])
	if err := shelf.WriteJSON(f.Dir, tree, l, true); err != nil {
		return "", err
	}
	p.step("lvm.volume.intended")
	return l.Volume, nil
}

// tags returns the tags of a dataset's volume.
func (p *Pool) tags(id uuid.UUID) []string {
	list := []string{"--addtag", ourTag, "--addtag", datasetTag + id.String()}
	if p.inSandbox {
		list = append(list, "--addtag", sandboxTag+p.Shelf.ID().String())
	}
	return list
}

// snapshotVolume makes a volume with the content that the volume source has at one moment. It records the volume as the
// named tree in the folder to. When snapshot returns, the new volume is on the disk, and contains everything that was
// written to source before the call. skip is "y" to set the flag with which LVM skips the volume when it activates the
// group, and otherwise "n".
func (p *Pool) snapshotVolume(ctx context.Context, source link, to *shelf.Folder, tree, skip string) (string, error) {
	name, err := p.recordIntent(ctx, to, tree, source)
	if err != nil {
		return "", err
	}
	args := append([]string{"--yes", "--snapshot", "--name", name, "--setactivationskip", skip, "--activate", "n"},
		p.tags(to.ID)...)
	err = p.change(ctx, "lvcreate", append(args, p.ref(source.Volume))...)
	if errors.Is(err, errAbsent) {
		err = dataset.Errorf(dataset.ErrCorrupt, "volume %s is missing", p.ref(source.Volume))
	}
	if err == nil {
		p.step("lvm.volume.made")
	}
	return name, err
}

// sizeOf asks lvm how large a volume is.
func (p *Pool) sizeOf(ctx context.Context, name string) (dataset.Size, error) {
	all, err := p.tool.volumes(ctx, p.ref(name))
	if errors.Is(err, errAbsent) {
		return 0, dataset.Errorf(dataset.ErrCorrupt, "volume %s is missing", p.ref(name))
	}
	return all[name].Size, err
}

// volumeFor returns the size of a volume whose filesystem has room for size bytes. overhead is the size of the parts of
// the volume outside of the filesystem.
func (p *Pool) volumeFor(fsType string, size, overhead dataset.Size) dataset.Size {
	return p.roundUp(mkfs.Device(fsType, size) + overhead)
}

// extend enlarges a volume. If the volume is large enough, extend does nothing.
func (p *Pool) extend(ctx context.Context, name string, size dataset.Size) error {
	current, err := p.sizeOf(ctx, name)
	if err != nil || current >= size {
		return err
	}
	return p.change(ctx, "lvextend", "--size", bytesText(size), p.ref(name))
}

// Create implements backends.Pool.
func (p *Pool) Create(ctx context.Context, d dataset.Dataset) (_ dataset.Size, err error) {
	defer backends.Wrap(&err, "create dataset %s", d.ID)
	fsType, size, err := p.choose(d)
	if err != nil {
		return 0, err
	}
	var key []byte
	if d.Encryption != nil {
		if key, err = p.keyOf(ctx, d); err != nil {
			return 0, err
		}
	}
	return p.make(ctx, d, func(f *shelf.Folder) (dataset.Size, error) {
		name, err := p.recordIntent(ctx, f, shelf.FirstHead, link{Size: size, Filesystem: fsType})
		if err != nil {
			return 0, err
		}
		args := append([]string{"--yes", "--type", "thin", "--virtualsize",
			bytesText(p.volumeFor(fsType, size, overhead(d))), "--thinpool", poolName, "--name", name,
			"--setactivationskip", "n"}, p.tags(d.ID)...)
		if err := p.change(ctx, "lvcreate", append(args, p.vg)...); err != nil {
			return 0, err
		}
		p.step("lvm.volume.made")
		return size, p.format(ctx, name, fsType, size, d, key)
	})
}

// choose returns the filesystem and the size of a new dataset, or why the request is invalid.
func (p *Pool) choose(d dataset.Dataset) (string, dataset.Size, error) {
	size := cmp.Or(d.Size, defaultSize)
	if err := (*Backend)(nil).CheckSize(d.Profile.Filesystem.Type, size); err != nil {
		return "", 0, err
	}
	r := mkfs.Request{Chosen: d.Profile.Filesystem.Type, Size: size}
	var err error
	r.Filesystem, err = mkfs.Choose(r.Chosen, size, p.info.Capabilities.Filesystems)
	if err == nil {
		err = mkfs.CheckUsable(r.Filesystem) // the program may have been removed since the pool was opened
	}
	if err != nil {
		return "", 0, err
	}
	return r.Filesystem, size, r.Check()
}

// format makes a filesystem on a new volume. Its root is empty, and has the owner of the dataset. The volume reads as
// zeros, so mkfs writes no zeros: they would only take blocks.
func (p *Pool) format(ctx context.Context, name, fsType string, size dataset.Size, d dataset.Dataset,
	key []byte) error {
	dev, err := p.activate(ctx, name)
	if err != nil {
		return err
	}
	node, err := p.nodeOf(ctx, dev)
	if err != nil {
		return err
	}
	make := p.mkfs
	if d.Encryption != nil {
		open, err := p.encrypt(ctx, name, node, d, key)
		if err != nil {
			return err
		}
		defer open.Close()
		p.step("lvm.volume.opened")
		make, node = p.mkfsInContainer, open.Path()
	}
	if err := make(ctx, fsType, size, node); err != nil {
		return err
	}
	p.step("lvm.volume.formatted")
	root, err := mount.Detached(mount.Spec{Source: node, FSType: fsType, Options: mkfs.MountOptions(fsType, nil)})
	if err != nil {
		return err
	}
	return errors.Join(mkfs.PrepareRoot(root, d.Profile.Owner), fsctl.Sync(root), root.Close())
}

func (p *Pool) mkfs(ctx context.Context, fsType string, size dataset.Size, node string) error {
	start := func(more ...string) error {
		args := slices.Concat(mkfs.Args(fsType, size), more, []string{node})
		_, err := p.runner.Run(ctx, run.Command{Name: "mkfs." + fsType, Args: args, Timeout: mkfsTimeout})
		return err
	}
	if fsType == xfs {
		return start()
	}
	ext := func(more string) error {
		return start("-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"+more)
	}
	err := ext(",assume_storage_prezeroed=1")
	var failed *run.Error
	if errors.As(err, &failed) && strings.Contains(failed.Stderr, "assume_storage_prezeroed") {
		err = ext("") // for e2fsprogs before 1.47
	}
	return err
}

// Clone implements backends.Pool. The root keeps the owner and mode of the source. The filesystem of a larger clone is
// grown when the clone is first mounted.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, _ backends.Progress) (
	_ dataset.Size, err error) {
	defer backends.Wrap(&err, "clone dataset %s", src.Dataset)
	return p.make(ctx, d, func(f *shelf.Folder) (dataset.Size, error) {
		from, err := p.Shelf.FindDataset(src.Dataset)
		if err != nil {
			return 0, err
		}
		defer from.Close()
		if err := sameKey(from, d); err != nil {
			return 0, err
		}
		origin, err := source(from, src.Snapshot)
		if err != nil {
			return 0, err
		}
		size, want := origin.Size, d.Size
		if err := mkfs.CheckMax(want); err != nil {
			return 0, err
		}
		origin.Size = max(size, want)
		var name string
		_, err = backends.Frozen(ctx, func() error {
			name, err = p.snapshotVolume(ctx, origin, f, shelf.FirstHead, "n")
			return err
		})
		if err != nil || want <= size {
			return size, err
		}
		return want, p.extend(ctx, name, p.volumeFor(origin.Filesystem, want, overhead(d)))
	})
}

// source returns the link of a snapshot, or of the head if snapshot is nil.
func source(f *shelf.Folder, snapshot uuid.UUID) (l link, err error) {
	if snapshot == uuid.Nil {
		_, l, err = headLink(f)
		return l, err
	}
	s, err := f.ReadSnapshot(snapshot)
	if err != nil {
		return l, err
	}
	return linkOf(f.Dir, s.Tree)
}

// make makes a dataset and returns its size. fill makes the head. If fill fails, make removes the dataset.
func (p *Pool) make(ctx context.Context, d dataset.Dataset,
	fill func(*shelf.Folder) (dataset.Size, error)) (dataset.Size, error) {
	return p.Build(d, func(f *shelf.Folder) (dataset.Size, error) {
		if err := sameKey(f, d); err != nil {
			return 0, dataset.Errorf(dataset.ErrExists, "%s exists from an earlier attempt: %w", d.ID, err)
		}
		_, l, err := headLink(f)
		if err == nil {
			_, err = p.sizeOf(ctx, l.Volume) // it fails if the volume is missing
		}
		return l.Size, err
	}, func(f *shelf.Folder) (dataset.Size, error) {
		p.step("lvm.make.folder")
		if err := p.checkRoom(ctx); err != nil {
			return 0, err
		}
		size, err := fill(f)
		p.step("lvm.make.filled")
		return size, err
	})
}
