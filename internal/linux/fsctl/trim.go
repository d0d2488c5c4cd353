package fsctl

import (
	"fmt"
	"math"
	"os"
	"unsafe"
)

const fiTrim = 0xC0185879 // _IOWR('X', 121, struct fstrim_range)

// trimRange is struct fstrim_range.
type trimRange struct{ start, length, least uint64 }

// Trim discards the free space of the filesystem of dir on its device (fstrim(8)), and returns the number of discarded
// bytes. It may take minutes, and cannot be cancelled. It fails with EOPNOTSUPP if the device does not support
// discards, and with EOPNOTSUPP or ENOTTY if the filesystem does not.
func Trim(dir *os.File) (int64, error) {
	r := trimRange{length: math.MaxUint64}
	if err := ioctl(dir, fiTrim, unsafe.Pointer(&r)); err != nil {
		return 0, fmt.Errorf("trim the filesystem of %s: %w", dir.Name(), err)
	}
	return int64(r.length), nil
}
