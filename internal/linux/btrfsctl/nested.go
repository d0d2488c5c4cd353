package btrfsctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocInoLookup    = 0xD0009412 // _IOWR(0x94, 18, struct btrfs_ioctl_ino_lookup_args)
	iocSnapDestroy2 = 0x5000943F // _IOW(0x94, 63, struct btrfs_ioctl_vol_args_v2)

	rootTree = 1      // BTRFS_ROOT_TREE_OBJECTID
	rootRef  = 156    // BTRFS_ROOT_REF_KEY
	flagByID = 1 << 4 // BTRFS_SUBVOL_SPEC_BY_ID
)

// lookupArgs is struct btrfs_ioctl_ino_lookup_args.
type lookupArgs struct {
	tree, object uint64
	name         [4080]byte
}

// ID returns the ID of the subvolume that contains f.
func ID(f *os.File) (uint64, error) {
	args := &lookupArgs{object: rootInode}
	if err := ioctl(f, iocInoLookup, unsafe.Pointer(args)); err != nil {
		return 0, fmt.Errorf("find the subvolume ID of %s: %w", f.Name(), err)
	}
	return args.tree, nil
}

// Nested returns the IDs of the subvolumes directly inside the subvolume whose root directory is dir. Needs
// CAP_SYS_ADMIN.
func Nested(dir *os.File) ([]uint64, error) {
	id, err := ID(dir)
	if err != nil {
		return nil, err
	}
	return nested(dir, id)
}

// nested returns the IDs of the subvolumes whose parent is id, from the tree of roots. f is any file of the filesystem.
func nested(f *os.File, id uint64) ([]uint64, error) {
	var all []uint64
	args := &searchArgs{
		tree: rootTree, minObject: id, maxObject: id, minType: rootRef, maxType: rootRef,
		maxOffset: ^uint64(0), maxTransid: ^uint64(0),
	}
	for {
		args.nItems, args.size = ^uint32(0), searchRoom
		if err := ioctl(f, iocTreeSearchV2, unsafe.Pointer(args)); err != nil {
			return nil, fmt.Errorf("list the subvolumes of subvolume %d of %s: %w", id, f.Name(), err)
		}
		if args.nItems == 0 {
			return all, nil
		}
		rest := args.room[:]
		for range args.nItems {
			child, size, err := reference(rest, id)
			if err != nil {
				return nil, fmt.Errorf("list the subvolumes of subvolume %d of %s: %w", id, f.Name(), err)
			}
			all, rest = append(all, child), rest[size:]
		}
		args.minOffset = all[len(all)-1] + 1
	}
}

// reference reads the ID of a subvolume from one item after its header. The key of the item is (parent, ROOT_REF,
// child).
func reference(b []byte, parent uint64) (child uint64, size int, err error) {
	ne := binary.NativeEndian
	if len(b) < searchHeader {
		return 0, 0, fmt.Errorf("an item is truncated: %w", unix.EBADMSG)
	}
	size = searchHeader + int(ne.Uint32(b[28:]))
	if ne.Uint64(b[8:]) != parent || ne.Uint32(b[24:]) != rootRef || size > len(b) {
		return 0, 0, fmt.Errorf("an item is not a subvolume: %w", unix.EBADMSG)
	}
	return ne.Uint64(b[16:]), size, nil
}

// DeleteAll destroys the subvolume name in dir, after all subvolumes inside it. It also finds subvolumes that are
// created in them meanwhile. It deletes each subvolume by its ID, so that a container cannot redirect the deletion with
// a path. If note is not nil, DeleteAll calls note with each ID before it deletes the subvolume, and returns the error
// of note. It fails with os.ErrNotExist if there is no such name, with ErrNotSubvolume if the name is not a subvolume,
// and with ErrNested if subvolumes are created in it again and again. Needs Linux 5.7.
func DeleteAll(dir *os.File, name string, note func(id uint64) error) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("delete subvolume: %w", err)
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = ErrNotSubvolume
	}
	if err != nil {
		return fmt.Errorf("delete subvolume %s/%s: %w", dir.Name(), name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	ok, err := IsSubvolume(f)
	var id uint64
	if err == nil && ok {
		id, err = ID(f)
	}
	_ = f.Close()
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("delete subvolume %s/%s: %w", dir.Name(), name, ErrNotSubvolume)
	}
	if err := deleteTree(dir, id, note); err != nil {
		return fmt.Errorf("delete subvolume %s/%s: %w", dir.Name(), name, err)
	}
	return nil
}

// tries is how often DeleteAll looks in one subvolume for others that were created meanwhile.
const tries = 8

func deleteTree(dir *os.File, id uint64, note func(id uint64) error) error {
	if note != nil {
		if err := note(id); err != nil {
			return err
		}
	}
	var err error
	for range tries {
		var children []uint64
		if children, err = nested(dir, id); err != nil {
			return err
		}
		if len(children) > 0 {
			if err := unprotect(dir, id); err != nil { // nothing can be removed from it otherwise
				return err
			}
		}
		for _, child := range children {
			if err := deleteTree(dir, child, note); err != nil {
				return err
			}
		}
		args := &volArgsV2{flags: flagByID}
		*(*uint64)(unsafe.Pointer(&args.name)) = id
		err = ioctl(dir, iocSnapDestroy2, unsafe.Pointer(args))
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.ENOTEMPTY):
			err = ErrNested
		default:
			return fmt.Errorf("subvolume %d: %w", id, err)
		}
	}
	return fmt.Errorf("subvolume %d: %w", id, err)
}

// unprotect makes a subvolume writable.
func unprotect(dir *os.File, id uint64) error {
	const withoutParent = 0x4d // FILEID_BTRFS_WITHOUT_PARENT
	handle := make([]byte, 20) // struct btrfs_fid: inode, subvolume, any generation
	binary.NativeEndian.PutUint64(handle, rootInode)
	binary.NativeEndian.PutUint64(handle[8:], id)
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), unix.NewFileHandle(withoutParent, handle),
		unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		return nil // it was deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("open subvolume %d: %w", id, err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("%s (subvolume %d)", dir.Name(), id))
	defer f.Close()
	return setFlags(f, 0)
}
