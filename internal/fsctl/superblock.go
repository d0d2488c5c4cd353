package fsctl

import (
	"encoding/binary"
	"errors"
	"io"
)

// Superblock reads which filesystem an image or a disk holds, and of how many bytes it is:
// "xfs", "ext4", or "" for anything else.
func Superblock(r io.ReaderAt) (fs string, size int64, err error) {
	buf := make([]byte, 2048)
	if _, err := r.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", 0, err
	}
	if string(buf[:4]) == "XFSB" {
		be := binary.BigEndian
		return string(XFS), int64(uint64(be.Uint32(buf[4:])) * be.Uint64(buf[8:])), nil
	}
	le, sb := binary.LittleEndian, buf[1024:]
	if le.Uint16(sb[56:]) == 0xEF53 {
		blocks := uint64(le.Uint32(sb[4:]))
		const incompat64bit = 0x80
		if le.Uint32(sb[96:])&incompat64bit != 0 {
			blocks |= uint64(le.Uint32(sb[0x150:])) << 32
		}
		return string(Ext), int64(blocks << (10 + le.Uint32(sb[24:])&31)), nil
	}
	return "", 0, nil
}
