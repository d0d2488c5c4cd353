package product_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/backupserver"
	"github.com/droverhq/drover/test/host"
)

// TestBackupServers makes, checks, restores and removes a backup on an S3 and on an SSH server. internal/restic tests a
// REST server.
func TestBackupServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *backupserver.Server{"s3": backupserver.S3, "sftp": backupserver.SFTP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			h := host.Start(t, host.Options{Size: 2 << 30, Profiles: "default: plain\nprofiles: {plain: {}}\n", Env: s.Env})
			secret := filepath.Join(h.Dir, "password")
			writePassword(t, secret, "correct horse battery staple")
			add := []string{"repository", "add", "offsite", s.URL, "--password", "file:" + secret, "--store-records=false"}
			if s.CredentialsFile != "" {
				add = append(add, "--credentials-file", s.CredentialsFile)
			}
			wantOutput(t, h.Exec(t, add...), "made repository ", "added repository offsite\n")
			h.Must(t, "volume", "create", "db")
			content := treetest.Bytes(3, 4<<20)
			h.Plug(t).Within(t, "db", func(root string) { put(t, filepath.Join(root, "data"), content) })
			h.Must(t, "backup", "create", "db")
			wantOutput(t, h.Exec(t, "repository", "check", "offsite", "--read-data", "100"), "repository offsite (",
				"): no data is missing, and 100% of the data was read without errors\n")
			id := h.Must(t, "backup", "ls", "db", "-q")
			h.Must(t, "backup", "restore", id, "copy")
			h.Plug(t).Within(t, "copy", func(root string) {
				if got, err := os.ReadFile(filepath.Join(root, "data")); err != nil || !bytes.Equal(got, content) {
					t.Errorf("restored: %d bytes, %v", len(got), err)
				}
			})
			h.Must(t, "backup", "rm", id, "--yes")
			if got := h.Must(t, "backup", "ls", "db", "-q"); got != "" {
				t.Errorf("the backups are %q after their removal", got)
			}
		})
	}
}
