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

// Trim tells the device below the filesystem of dir what of it is free (fstrim(8)), and
// returns how many bytes it was told. It may take minutes, and cannot be cut short.
// EOPNOTSUPP: the device, or the filesystem, knows no such thing.
func Trim(dir *os.File) (int64, error) {
	r := trimRange{length: math.MaxUint64}
	if err := ioctl(dir, fiTrim, unsafe.Pointer(&r)); err != nil {
		return 0, fmt.Errorf("trim the filesystem of %s: %w", dir.Name(), err)
	}
	return int64(r.length), nil
}
