package restserver

import (
	"context"
	"crypto/rand"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// Directory is a directory with a repository. Safe for concurrent use.
type Directory struct {
	path    string
	clock   clock.Clock
	uploads *Uploads
	count   func() (int64, error) // countFiles; tests replace it

	mu       sync.Mutex
	used     int64         // bytes of the files when they were counted last, with the additions since
	reserved int64         // bytes of the uploads in progress
	counted  bool          // used is known
	at       time.Duration // when the files were counted last
	counting *counting     // the count in progress; nil if there is none
	added    int64         // bytes of the files that were added since the count in progress began
}

// counting is a count in progress.
type counting struct {
	done chan struct{} // is closed at the end
	err  error         // valid when done is closed
}

// Uploads are the uploads in progress of one server, to all of its directories. Safe for concurrent use.
type Uploads struct {
	server string

	mu     sync.Mutex
	active map[string]bool // names of the temporary files
}

// NewUploads returns the uploads of a server. server identifies the server among those that share a directory, now and
// after a restart. It is a part of file names.
func NewUploads(server string) *Uploads { return &Uploads{server: server, active: map[string]bool{}} }

// begin returns the name of the temporary file for a new upload.
func (u *Uploads) begin(o object) string {
	name := o.name + temporary + u.server + "-" + rand.Text()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active[name] = true
	return name
}

func (u *Uploads) end(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.active, name)
}

// isActive reports whether a temporary file is of an upload in progress of this server.
func (u *Uploads) isActive(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.active[name]
}

// isOwn reports whether this server has made a temporary file, now or before a restart.
func (u *Uploads) isOwn(name string) bool { return strings.Contains(name, temporary+u.server+"-") }

// minCharge is what a file counts at least. A file takes a block of the disk and an inode, so that otherwise many tiny
// files could fill the disk within a small quota.
const minCharge = 4096

// charge returns the bytes that a file counts.
func charge(size int64) int64 { return max(size, minCharge) }

// Open returns the directory at a path. It does not access the directory.
func Open(path string, clk clock.Clock, u *Uploads) *Directory {
	d := &Directory{path: path, clock: clk, uploads: u}
	d.count = d.countFiles
	return d
}

// The files are counted repeatedly, because other programs add and remove files, too: the owner of the repository can
// prune it, for example.
const (
	// maxAge is the time after which a count is no longer used.
	maxAge = 10 * time.Minute
	// minPause is the minimum time between two counts while the quota seems to be used up.
	minPause = 10 * time.Second
)

// reserve reserves room for an upload. It fails with status 507 if the directory would have more bytes than the quota.
// If there is a quota, it may have to wait until the files are counted.
func (d *Directory) reserve(ctx context.Context, size, quota int64) error {
	size = charge(size)
	done, err := d.tryReserve(size, quota, false)
	if done || err != nil {
		return err
	}
	if err := d.recount(ctx); err != nil {
		return err
	}
	_, err = d.tryReserve(size, quota, true)
	return err
}

// tryReserve reserves room for an upload. It returns false if the files must be counted before. It does not ask for
// that if they are known to have been counted just now.
func (d *Directory) tryReserve(size, quota int64, isFresh bool) (done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	isFull := d.used+d.reserved+size > quota
	age := d.clock.Steady() - d.at
	switch {
	case quota <= 0:
	case !isFresh && (!d.counted || age > maxAge || isFull && age > minPause):
		return false, nil
	case isFull:
		return false, refuse(http.StatusInsufficientStorage, "the quota of the grant is used up: the repository has "+
			"%d of %d bytes", d.used, quota)
	}
	d.reserved += size
	return true, nil
}

// recount counts the files. Calls at the same time share one count. It continues in the background when ctx ends: while
// the filesystem hangs, nothing can end it. Calls give up after the time idle.
func (d *Directory) recount(ctx context.Context) error {
	d.mu.Lock()
	c := d.startCount()
	d.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-d.clock.After(idle):
		return refuse(http.StatusServiceUnavailable, "the files of the repository are still being "+
			"counted for the quota")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startCount returns the count in progress. If there is none, it starts one. The caller holds the mutex.
func (d *Directory) startCount() *counting {
	if d.counting == nil {
		d.counting, d.added = &counting{done: make(chan struct{})}, 0
		go d.runCount(d.counting)
	}
	return d.counting
}

// runCount counts the files. The mutex is free meanwhile. A file that is added meanwhile may count twice until the next
// count, and one that is removed may still count.
func (d *Directory) runCount(c *counting) {
	bytes, err := d.count()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.used, d.at, d.counted = bytes+d.added, d.clock.Steady(), true
	}
	c.err, d.counting = err, nil
	close(c.done)
}

// Sweep removes the files that interrupted uploads have left. Call it at the start of the server, and from time to
// time: an upload without a quota does not look for these files. It takes as long as a count of all files.
func (d *Directory) Sweep(ctx context.Context) error {
	d.mu.Lock()
	c := d.startCount()
	d.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settle ends a reservation. stored says whether the upload added a file.
func (d *Directory) settle(size int64, stored bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	size = charge(size)
	d.reserved -= size
	if stored {
		d.used += size
		d.added += size
	}
}

// release ends the use of a file that was removed.
func (d *Directory) release(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used -= charge(size)
}

// maxTemporaryAge is the age at which a temporary file of another server is removed. An upload in progress changes its
// file at least every minute, but the clocks of hosts that share a directory can differ.
const maxTemporaryAge = time.Hour

// countFiles returns the bytes that the files in the repository count. It removes what interrupted uploads have left:
// at once if this server made the file, and otherwise after maxTemporaryAge. Until then, the file counts. An upload in
// progress of this server is reserved, and does not count.
func (d *Directory) countFiles() (bytes int64, err error) {
	root, err := openRoot(d.path)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	now := d.clock.Now()
	for _, kind := range kinds() {
		err := eachFile(root, kind, func(folder *os.File, name string, info fs.FileInfo) error {
			switch {
			case !info.Mode().IsRegular() || d.uploads.isActive(name):
			case isTemporary(name) && (d.uploads.isOwn(name) || now.Sub(info.ModTime()) > maxTemporaryAge):
				return unlink(folder, name)
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
