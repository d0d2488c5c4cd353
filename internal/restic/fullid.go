package restic

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fullID returns the full ID of a backup that restic has stored since began. id is the ID in restic's summary. restic
// 0.14 reports only the first 8 digits there, but keeps a copy of the backup's file in its cache, and the name of that
// file is the full ID. So fullID needs no further run of restic. It returns "" if the cache does not have exactly one
// such file: restic continues without a cache that it cannot write to.
func (r *Repository) fullID(id string, began time.Time) string {
	if len(id) == hex.EncodedLen(sha256.Size) {
		return id // later versions of restic
	}
	if r.options.CacheDir == "" || r.checkIDs(id) != nil {
		return ""
	}
	repositories, err := os.ReadDir(r.options.cacheDir())
	if err != nil {
		return ""
	}
	var found []string
	for _, e := range repositories {
		dir := filepath.Join(r.options.cacheDir(), e.Name(), "snapshots", id[:2])
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // the cache of a repository without such a backup
		}
		for _, f := range files {
			if strings.HasPrefix(f.Name(), id) {
				found = append(found, filepath.Join(dir, f.Name()))
			}
		}
	}
	if len(found) != 1 {
		return ""
	}
	// A file that is older is of another backup with the same first digits. The time of a file has the precision of the
	// kernel's clock tick, so it can be a few milliseconds earlier than time.Now.
	info, err := os.Stat(found[0])
	if err != nil || info.ModTime().Before(began.Add(-time.Second)) {
		return ""
	}
	text, err := os.ReadFile(found[0])
	sum := sha256.Sum256(text)
	if full := hex.EncodeToString(sum[:]); err == nil && full == filepath.Base(found[0]) {
		return full
	}
	return ""
}
