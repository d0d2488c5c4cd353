package restic_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/test/require"
)

// ownCache returns the folder of a repository's cache.
func ownCache(o restic.Options) string {
	sum := sha256.Sum256([]byte(o.URL))
	return filepath.Join(o.CacheDir, hex.EncodeToString(sum[:8]))
}

// While restic runs, the largest cache of a repository is emptied if all caches together exceed the limit. The others
// stay, and so does a file that restic writes now.
func TestCacheKeepsItsLimit(t *testing.T) {
	o := options(t)
	plant := func(repository, name string, size int64) string {
		t.Helper()
		path := write(t, filepath.Join(o.CacheDir, repository, "index", "5f", name), "")
		require.NoError(t, os.Truncate(path, size))
		return path
	}
	var complete string
	for _, digit := range strings.Split("123456789", "") { // more than the limit on any disk
		complete = plant("large", strings.Repeat(digit, 64), 1000<<20)
	}
	unfinished, small := plant("large", "tmp-1", 1<<20), plant("small", strings.Repeat("5f", 32), 100)
	// restic ends when the cache was emptied, or with a failure after a while.
	fake(t, "i=0; while [ -e "+complete+" ]; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.2; done\n")
	require.NoError(t, open(t, o).Check(t.Context(), 0))
	for _, path := range []string{small, unfinished} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// A repository with a file that would fill the disk with its cache is refused, and the file is removed.
func TestCacheOfHugeFile(t *testing.T) {
	o := options(t)
	path := filepath.Join(ownCache(o), "repository", "tmp-1")
	fake(t, "mkdir -p "+filepath.Dir(path)+"; truncate -s 2G "+path+"; exec sleep 60\n")
	begin := time.Now()
	refused(t, open(t, o).Check(t.Context(), 0), dataset.ErrCorrupt, "it has a file of more than 1 GiB")
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was not removed")
	}
	if took := time.Since(begin); took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A file that another repository makes restic store ends no run of this one. It stays: a process that still writes it
// would fill the disk where nobody sees it.
func TestCacheOfAnotherRepository(t *testing.T) {
	o := options(t)
	path := write(t, filepath.Join(o.CacheDir, "0123456789abcdef", "repository", "tmp-1"), "")
	require.NoError(t, os.Truncate(path, 2<<30))
	fake(t, "sleep 5\n") // the cache is measured twice meanwhile
	require.NoError(t, open(t, o).Check(t.Context(), 0))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
