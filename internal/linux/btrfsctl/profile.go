package btrfsctl

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// Profile returns the RAID profile of a mounted filesystem, such as "raid0" or "raid1". A filesystem
// that is being converted has two profiles, and Profile returns both, such as "raid0 and raid1". what is "data",
// "metadata" or "system". Profile only reads sysfs. It returns "unknown" if sysfs does not show the profile.
func Profile(id uuid.UUID, what string) string {
	entries, err := os.ReadDir(filepath.Join(sysfs, id.String(), "allocation", what))
	if err != nil {
		return "unknown"
	}
	var found []string
	for _, e := range entries {
		if e.IsDir() {
			found = append(found, e.Name())
		}
	}
	return strings.Join(found, " and ")
}
