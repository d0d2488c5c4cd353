package btrfsctl

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// Profile returns how the filesystem of that UUID, which is mounted, spreads what it keeps
// over its devices: "raid0", "raid1", or several while that is being changed. What is
// "data", "metadata" or "system". It only reads sysfs; where that says nothing: "unknown".
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
