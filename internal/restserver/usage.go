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
	used     int64 // bytes of the files when they were counted last, with the additions and removals since
	reserved int64 // bytes of the uploads in progress
	uploaded map[object]*reservation
	counted  bool          // used is known
	at       time.Duration // when the files were counted last
	counting *counting     // the count in progress; nil if there is none
}

// reservation is the room for a file that is uploaded. Requests that upload the same file share it.
type reservation struct {
	bytes    int64 // 0 once one of the requests has stored the file
	requests int
}

// counting is a count in progress.
type counting struct {
	done  chan struct{} // is closed at the end
	err   error         // valid when done is closed
	began time.Duration
	// stored has the files of the uploads that run meanwhile, with the bytes that each one counts. These are 0 until
	// the file is stored. The count ignores these files.
	stored map[object]int64
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
	d := &Directory{path: path, clock: clk, uploads: u, uploaded: map[object]*reservation{}}
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
	// maxCount is the time for which an upload that has room by the last count waits for the next one. A count of
	// millions of files can take longer than a client waits.
	maxCount = 10 * time.Second
)

// reserve reserves room for the upload of a file. It fails with status 507 if the directory would have more bytes than
// the quota. If there is a quota, it may have to wait until the files are counted.
func (d *Directory) reserve(ctx context.Context, o object, size, quota int64) error {
	size = charge(size)
	done, err := d.tryReserve(o, size, quota, false)
	if done || err != nil {
		return err
	}
	isFresh, err := d.recount(ctx, o, size, quota)
	if err != nil {
		return err
	}
	if _, err = d.tryReserve(o, size, quota, true); err != nil && !isFresh {
		err = stillCounting() // the new count can find more room
	}
	return err
}

// tryReserve reserves room for the upload of a file. It returns false if the files must be counted before. It does not
// ask for that if isFresh is set.
func (d *Directory) tryReserve(o object, size, quota int64, isFresh bool) (done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hasRoom := d.hasRoom(o, size, quota)
	age := d.clock.Steady() - d.at
	switch {
	case quota <= 0:
	case !isFresh && (!d.counted || age > maxAge || !hasRoom && age > minPause):
		return false, nil
	case !hasRoom:
		return false, refuse(http.StatusInsufficientStorage, "the quota of the grant is used up: the repository has "+
			"%d of %d bytes", d.used, quota)
	}
	r := d.uploaded[o]
	if r == nil {
		r = &reservation{}
		d.uploaded[o] = r
	}
	r.requests++
	d.reserved += max(size-r.bytes, 0)
	r.bytes = max(size, r.bytes)
	if d.counting != nil && d.counting.stored[o] == 0 {
		d.counting.stored[o] = 0
	}
	return true, nil
}

// hasRoom reports whether the upload of a file fits in the quota. The caller holds the mutex.
func (d *Directory) hasRoom(o object, size, quota int64) bool {
	if r := d.uploaded[o]; r != nil {
		size = max(size-r.bytes, 0)
	}
	return d.used+d.reserved+size <= quota
}

// recount counts the files. Calls at the same time share one count. It continues in the background when ctx ends: while
// the filesystem hangs, nothing can end it. Calls give up after the time idle. If the upload of the file fits by the
// last count, calls return when the count has run for maxCount, and isFresh is then false.
func (d *Directory) recount(ctx context.Context, o object, size, quota int64) (isFresh bool, err error) {
	d.mu.Lock()
	c, wait := d.startCount(), idle
	fits := d.counted && d.hasRoom(o, size, quota)
	if fits {
		wait = c.began + maxCount - d.clock.Steady()
	}
	d.mu.Unlock()
	if wait <= 0 {
		return false, nil
	}
	select {
	case <-c.done:
		return true, c.err
	case <-d.clock.After(wait):
		if fits {
			return false, nil
		}
		return false, stillCounting()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// stillCounting returns the refusal of an upload that needs the result of a count. restic repeats the request: version
// 0.14 up to ten times.
func stillCounting() error {
	return refuse(http.StatusServiceUnavailable, "the files of the repository are still being counted for the quota")
}

// startCount returns the count in progress. If there is none, it starts one. The caller holds the mutex.
func (d *Directory) startCount() *counting {
	if d.counting == nil {
		d.counting = &counting{
			done: make(chan struct{}), began: d.clock.Steady(), stored: map[object]int64{},
		}
		for o, r := range d.uploaded {
			if r.bytes > 0 { // otherwise the file is stored, and the count finds it
				d.counting.stored[o] = 0
			}
		}
		go d.runCount(d.counting)
	}
	return d.counting
}

// runCount counts the files. The mutex is free meanwhile. A file that is removed meanwhile may count until the next
// count.
func (d *Directory) runCount(c *counting) {
	bytes, err := d.count()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		for _, n := range c.stored {
			bytes += n
		}
		d.used, d.at, d.counted = bytes, d.clock.Steady(), true
	}
	c.err, d.counting = err, nil
	close(c.done)
}

// isUploaded reports whether a file belongs to an upload that runs during the count in progress.
func (d *Directory) isUploaded(o object) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counting == nil {
		return false
	}
	_, uploaded := d.counting.stored[o]
	return uploaded
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

// Used returns the bytes that the files count for a quota. It returns 0 if they are not counted yet.
func (d *Directory) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.counted {
		return 0
	}
	return d.used
}

// settle ends the reservation of one request. added says whether the request added the file, and stored whether the
// file exists.
func (d *Directory) settle(o object, size int64, added, stored bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.uploaded[o]
	if r.requests--; added || r.requests == 0 {
		d.reserved -= r.bytes
		r.bytes = 0
	}
	if r.requests == 0 {
		delete(d.uploaded, o)
	}
	if added {
		d.used += charge(size)
	}
	if d.counting == nil || !stored {
		return
	}
	if _, uploaded := d.counting.stored[o]; uploaded {
		d.counting.stored[o] = charge(size)
	}
}

// release ends the use of a file that was removed.
func (d *Directory) release(o object, size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used -= charge(size)
	if d.counting == nil {
		return
	}
	if _, uploaded := d.counting.stored[o]; uploaded {
		d.counting.stored[o] = 0
	}
}

// maxTemporaryAge is the age at which a temporary file of another server is removed. An upload in progress changes its
// file at least every minute, but the clocks of hosts that share a directory can differ.
const maxTemporaryAge = time.Hour

// countFiles returns the bytes that the files in the repository count. It removes what interrupted uploads have left:
// at once if this server made the file, and otherwise after maxTemporaryAge. Until then, the file counts. An upload of
// this server that runs meanwhile does not count: see counting.
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
			case !info.Mode().IsRegular() || d.uploads.isActive(name) || d.isUploaded(object{kind, name}):
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
