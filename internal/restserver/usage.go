package restserver

import (
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// Directory is a directory with a repository. Safe for concurrent use.
type Directory struct {
	path  string
	clock clock.Clock

	mu       sync.Mutex
	used     int64         // bytes of the files when they were counted last, with the additions since
	reserved int64         // bytes of the uploads in progress
	counted  bool          // used is known
	at       time.Duration // when the files were counted last
}

// minCharge is what a file counts at least. A file takes a block of the disk and an inode, so that otherwise many tiny
// files could fill the disk within a small quota.
const minCharge = 4096

// charge returns the bytes that a file counts.
func charge(size int64) int64 { return max(size, minCharge) }

// Open returns the directory at a path. It does not access the directory.
func Open(path string, clk clock.Clock) *Directory { return &Directory{path: path, clock: clk} }

// The files are counted repeatedly, because other programs add and remove files, too: the owner of the repository can
// prune it, for example.
const (
	// maxAge is the time after which a count is no longer used.
	maxAge = 10 * time.Minute
	// minPause is the minimum time between two counts while the quota seems to be used up.
	minPause = 10 * time.Second
)

// reserve reserves room for an upload. It fails with status 507 if the directory would have more bytes than the quota.
func (d *Directory) reserve(root *os.File, size, quota int64) error {
	size = charge(size)
	d.mu.Lock()
	defer d.mu.Unlock()
	isFull := func() bool { return quota > 0 && d.used+d.reserved+size > quota }
	age := d.clock.Steady() - d.at
	if !d.counted || age > maxAge || isFull() && age > minPause {
		used, err := count(root, d.clock.Now())
		if err != nil {
			return err
		}
		d.used, d.at, d.counted = used, d.clock.Steady(), true
	}
	if isFull() {
		return refuse(http.StatusInsufficientStorage, "the quota of the grant is used up: the repository has %d of %d "+
			"bytes", d.used, quota)
	}
	d.reserved += size
	return nil
}

// settle ends a reservation. stored says whether the upload added a file.
func (d *Directory) settle(size int64, stored bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size = charge(size)
	d.reserved -= size
	if stored {
		d.used += size
	}
}

// release ends the use of a file that was removed.
func (d *Directory) release(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used -= charge(size)
}

// Files that an upload left when the process or the host crashed are removed once they are this old. An upload in
// progress changes its file at least every minute.
const maxTemporaryAge = time.Hour

// count returns the bytes that the files in a repository count. It removes what interrupted uploads have left.
func count(root *os.File, now time.Time) (bytes int64, err error) {
	for _, kind := range kinds() {
		err := eachFile(root, kind, func(folder *os.File, name string, info fs.FileInfo) error {
			switch {
			case !info.Mode().IsRegular():
			case isTemporary(name):
				if now.Sub(info.ModTime()) > maxTemporaryAge {
					return unlink(folder, name)
				}
			default:
				bytes += charge(info.Size())
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return bytes, nil
}
