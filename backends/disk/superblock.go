package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/safefile"
)

// superblock is a device's description of its filesystem. The zero value means no known filesystem.
type superblock struct {
	kind       fsctl.Kind
	id         uuid.UUID
	label      string
	unfinished bool   // mkfs did not finish
	device     uint64 // the number of the device in the filesystem
	devices    uint64 // how many devices the filesystem has
}

// The places and the fields of the superblocks (xfs_format.h, btrfs_tree.h).
const (
	xfsMagic      = "XFSB"
	xfsUUID       = 32
	xfsName       = 108
	xfsNameLen    = 12
	xfsInProgress = 126

	btrfsAt       = 64 << 10
	btrfsMagic    = "_BHRfS_M"
	btrfsMaking   = "!BHRfS_M"
	btrfsUUID     = 0x20
	btrfsMagicAt  = 0x40
	btrfsDevices  = 0x88
	btrfsDevice   = 0xC9
	btrfsLabel    = 0x12B
	btrfsLabelLen = 256
)

// readSuperblock reads the superblock of the device at path. It changes nothing.
func readSuperblock(path string) (superblock, error) {
	f, err := safefile.OpenDisk(path)
	if err != nil {
		return superblock{}, fmt.Errorf("read device: %w", err)
	}
	defer f.Close()
	sb, err := parseSuperblock(f)
	if err != nil {
		return sb, fmt.Errorf("read device %s: %w", path, err)
	}
	return sb, nil
}

func parseSuperblock(r io.ReaderAt) (superblock, error) {
	buf := make([]byte, 4096)
	// A device that is too short for a superblock has none.
	if _, err := r.ReadAt(buf, btrfsAt); err == nil {
		magic := string(buf[btrfsMagicAt : btrfsMagicAt+len(btrfsMagic)])
		if magic == btrfsMagic || magic == btrfsMaking {
			le := binary.LittleEndian
			return superblock{
				kind: fsctl.Btrfs, id: uuid.UUID(buf[btrfsUUID : btrfsUUID+16]), unfinished: magic == btrfsMaking,
				label:  text(buf[btrfsLabel : btrfsLabel+btrfsLabelLen]),
				device: le.Uint64(buf[btrfsDevice:]), devices: le.Uint64(buf[btrfsDevices:]),
			}, nil
		}
	} else if !errors.Is(err, io.EOF) {
		return superblock{}, err
	}
	if _, err := r.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return superblock{}, err
	}
	if string(buf[:len(xfsMagic)]) != xfsMagic {
		return superblock{}, nil
	}
	return superblock{
		kind: fsctl.XFS, id: uuid.UUID(buf[xfsUUID : xfsUUID+16]), unfinished: buf[xfsInProgress] != 0,
		label: text(buf[xfsName : xfsName+xfsNameLen]), device: 1, devices: 1,
	}, nil
}

func text(field []byte) string {
	end := bytes.IndexByte(field, 0)
	if end < 0 {
		end = len(field)
	}
	return string(field[:end])
}
