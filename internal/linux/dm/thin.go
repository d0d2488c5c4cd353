package dm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The format of the metadata of a thin pool, from drivers/md of the kernel: dm-thin-metadata.c and
// persistent-data/dm-btree-internal.h. All numbers are little-endian. A block has 4 KiB and starts with its checksum.
const (
	thinBlock   = 4096
	thinMagicAt = 32
	thinMagic   = 27022010
	thinDetails = 328 // offset in the superblock: the root of the tree of volumes
	thinSuper   = 160774
	thinNode    = 121107

	nodeNumberAt = 8
	nodeUsed     = 16 // offset of the number of entries
	nodeRoom     = 20 // offset of the maximum number of entries
	nodeSize     = 24 // offset of the size of a value
	nodeHeader   = 32
	nodeInternal = 1

	detailsSize = 24 // the first 8 bytes are the number of mapped blocks
	depthMost   = 16
	readTries   = 20
)

// ErrThin means that a device does not have metadata of a thin pool, or that the metadata is damaged.
var ErrThin = errors.New("not the metadata of a thin pool")

// Mapped returns how many blocks of a thin pool each of its volumes has mapped, by the volumes' IDs in the pool.
// Inactive volumes are included. The figures are those of the last commit: see Commit. metadata is the device with the
// pool's metadata. It may be in use, because the metadata of a commit does not change until the next one.
func Mapped(metadata string) (map[uint64]uint64, error) {
	fd, err := unix.Open(metadata, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", metadata, err)
	}
	f := os.NewFile(uintptr(fd), metadata)
	defer f.Close()
	for range readTries {
		var found map[uint64]uint64
		var before, after []byte
		if before, err = thinAt(f, 0, thinSuper); err != nil {
			continue
		}
		found, err = readDetails(f, before)
		if after, _ = thinAt(f, 0, thinSuper); bytes.Equal(before, after) {
			return found, err
		}
		err = fmt.Errorf("%w: it changed during each attempt to read it", ErrThin)
	}
	return nil, fmt.Errorf("read %s: %w", metadata, err)
}

func readDetails(f *os.File, super []byte) (map[uint64]uint64, error) {
	if binary.LittleEndian.Uint64(super[thinMagicAt:]) != thinMagic {
		return nil, ErrThin
	}
	found := map[uint64]uint64{}
	if err := readNode(f, binary.LittleEndian.Uint64(super[thinDetails:]), 0, found); err != nil {
		return nil, err
	}
	return found, nil
}

// readNode reads a node of the tree of volumes, which is in the block with the given number, and all nodes below it.
func readNode(f *os.File, number uint64, depth int, found map[uint64]uint64) error {
	node, err := thinAt(f, number, thinNode)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	used, room, size := int(le.Uint32(node[nodeUsed:])), int(le.Uint32(node[nodeRoom:])),
		int(le.Uint32(node[nodeSize:]))
	internal := le.Uint32(node[4:])&nodeInternal != 0
	want := detailsSize
	if internal {
		want = 8
	}
	if used > room || room > thinBlock/8 || size != want || nodeHeader+room*(8+size) > thinBlock || depth > depthMost {
		return fmt.Errorf("block %d: %w", number, ErrThin)
	}
	for i := range used {
		key, value := le.Uint64(node[nodeHeader+8*i:]), le.Uint64(node[nodeHeader+8*room+size*i:])
		if !internal {
			found[key] = value
		} else if err := readNode(f, value, depth+1, found); err != nil {
			return err
		}
	}
	return nil
}

// thinAt reads a block with direct I/O, because the page cache does not see what the kernel itself writes.
func thinAt(f *os.File, number uint64, salt uint32) ([]byte, error) {
	buf := make([]byte, 2*thinBlock)
	skip := -uintptr(unsafe.Pointer(&buf[0])) % thinBlock
	buf = buf[skip : skip+thinBlock]
	if number > 1<<40 {
		return nil, fmt.Errorf("block %d: %w", number, ErrThin)
	}
	if _, err := f.ReadAt(buf, int64(number)*thinBlock); err != nil {
		return nil, err
	}
	sum := ^crc32.Checksum(buf[4:], crc32.MakeTable(crc32.Castagnoli)) ^ salt
	if le := binary.LittleEndian; le.Uint32(buf) != sum || le.Uint64(buf[nodeNumberAt:]) != number {
		return nil, fmt.Errorf("block %d: %w", number, ErrThin)
	}
	return buf, nil
}
