package restic

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Limits of Options.CacheDir. restic stores the index, the list of backups and the folders of each repository there. It
// removes the cache of a repository that was not used for 30 days, and has no other limit. A repository can be another
// cluster's, and have any size.
const (
	// minCache and maxCache bound cacheLimit.
	minCache = 256 << 20
	maxCache = 8 << 30
	// minCacheFile is what a file counts for at least. It bounds the number of files: anybody who can write to the
	// repository can store many small ones, which restic caches, until no inode is left. ext4 has one for 16 KiB.
	minCacheFile = 16 << 10
	// maxCacheFile bounds a file. restic's files are at most 128 MiB large, except for an odd index.
	maxCacheFile = 1 << 30
	// While restic runs, the cache is measured every cacheTick. If that is slow, restic runs cacheWait times as long as
	// the measurement took.
	cacheTick = 2 * time.Second
	cacheWait = 20
)

// cacheLimit returns how large a cache may be on a disk with the given size: a twentieth of it, within minCache and
// maxCache.
func cacheLimit(disk int64) int64 { return min(max(disk/20, minCache), maxCache) }

// cacheDir returns the folder in CacheDir for restic's cache of this repository, or "" if there is no CacheDir.
// Each repository has a folder of its own: what one of them makes restic store must not end the runs of the others.
func (o Options) cacheDir() string {
	if o.CacheDir == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(o.URL))
	return filepath.Join(o.CacheDir, hex.EncodeToString(sum[:8]))
}

// emptyCache returns the argument with which a run of restic reads the repository itself, but each folder only once.
func (o Options) emptyCache() (arg string, remove func(), err error) {
	if o.CacheDir == "" {
		return "--no-cache", func() {}, nil
	}
	if err := os.MkdirAll(o.cacheDir(), 0o700); err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(o.cacheDir(), "empty-")
	return "--cache-dir=" + dir, func() { _ = os.RemoveAll(dir) }, err
}

// RemoveLeftCaches removes the caches that runs of restic have left in a CacheDir after a crash. No run may use it.
func RemoveLeftCaches(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*", "empty-*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}

// cacheWatch bounds the cache while restic runs.
type cacheWatch struct {
	dir   string // of the caches of all repositories
	own   string // name of the folder of this repository in dir
	stop  func() // ends restic
	quit  chan struct{}
	ended chan struct{}
	large bool // a file exceeded maxCacheFile; read after ended is closed
}

// watchCache bounds the cache until the caller calls end. If it finds a file that is too large, it calls stop.
func (o Options) watchCache(stop func()) *cacheWatch {
	w := &cacheWatch{
		dir: o.CacheDir, own: filepath.Base(o.cacheDir()), stop: stop, quit: make(chan struct{}),
		ended: make(chan struct{}),
	}
	go func() { // end waits for it
		defer close(w.ended)
		for wait := cacheTick; w.dir != ""; {
			select {
			case <-w.quit:
				return
			case <-time.After(wait):
			}
			begin := clock.Boottime()
			if w.large = trimCache(w.dir, w.own) != nil; w.large {
				w.stop()
				<-w.quit // restic has ended
				for _, path := range trimCache(w.dir, w.own) {
					_ = os.Remove(path)
				}
				return
			}
			wait = max(cacheTick, cacheWait*(clock.Boottime()-begin))
		}
	}()
	return w
}

// end ends the watch. It fails with dataset.ErrCorrupt if it has ended restic.
func (w *cacheWatch) end() error {
	close(w.quit)
	<-w.ended
	if w.large {
		return dataset.Errorf(dataset.ErrCorrupt, "it has a file of more than %d GiB that restic would store in its "+
			"cache (restic makes no such files: do not trust the repository)", maxCacheFile>>30)
	}
	return nil
}

// cached is the cache of one repository.
type cached struct {
	files []string // those that restic does not write now
	size  int64
}

// trimCache empties the largest caches of repositories in dir until all of them together take at most cacheLimit. It
// can be called while restic runs: restic then reads the repository instead. large are the files in the folder own that
// exceed maxCacheFile. They are kept, because the file of a process that still writes it would only lose its name.
// Errors are ignored: the next call tries again.
func trimCache(dir, own string) (large []string) {
	var disk unix.Statfs_t
	if unix.Statfs(dir, &disk) != nil {
		return nil // there is no cache yet
	}
	limit := cacheLimit(int64(disk.Blocks) * disk.Bsize)
	caches, total := map[string]*cached{}, int64(0)
	complete := regexp.MustCompile(`^[0-9a-f]{64}$`)
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // restic removes files meanwhile
		}
		rel, err := filepath.Rel(dir, path)
		info, ierr := e.Info()
		if errors.Join(err, ierr) != nil {
			return nil
		}
		repository, _, _ := strings.Cut(rel, "/")
		c := caches[repository]
		if c == nil {
			c = &cached{}
			caches[repository] = c
		}
		takes := max(info.Size(), minCacheFile)
		c.size += takes
		total += takes
		if info.Size() > maxCacheFile && repository == own {
			large = append(large, path)
		} else if complete.MatchString(e.Name()) {
			c.files = append(c.files, path)
		}
		return nil
	})
	for total > limit && len(caches) > 0 {
		largest := ""
		for name, c := range caches {
			if largest == "" || c.size > caches[largest].size {
				largest = name
			}
		}
		for _, path := range caches[largest].files {
			_ = os.Remove(path)
		}
		total -= caches[largest].size
		delete(caches, largest)
	}
	return large
}
