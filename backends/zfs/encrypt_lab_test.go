//go:build lab

package zfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// TestSuiteEncrypted runs the cases that concern keys with every dataset encrypted.
func TestSuiteEncrypted(t *testing.T) {
	keyed := []string{
		"DatasetLifeCycle", "AttachTwice", "ClonesAndDeletedSources", "RestoreKeepsOldHead", "CopyBecomesHome",
		"CopyIsUpdated",
		"DamagedStreamIsRefused", "CopyHasNoHead", "HomeBecomesCopy", "SupersededHeadIsKept",
	}
	for _, c := range backendtest.Cases() {
		if !slices.Contains(keyed, c.Name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			keys := backendtest.NewKeys()
			c.Run(t, func() (backends.Kind, backends.Config) {
				_, mnt := zpool(t, suiteDisk)
				return zfs.New(&run.System{}, clock.System{}), backends.Config{
					Name: "test",
					Path: filepath.Join(mnt, "pool"),
					Keys: keys,
				}
			})
		})
	}
}

// TestEncryptedOnDisk searches the zpool's disk for the written text, and checks that ZFS has the key only as long as
// it is needed.
func TestEncryptedOnDisk(t *testing.T) {
	home, mnt, image := zpoolOn(t, 192<<20)
	b := &bench{T: t, home: home, left: -1, clock: clock.System{}}
	b.cfg = backends.Config{Name: "test", Path: filepath.Join(mnt, "pool"), Make: true, Keys: backendtest.NewKeys()}
	b.open()
	sealed, open := strings.Repeat("sealed-4f1d9c", 1<<16), strings.Repeat("open-77ab03e1", 1<<16)
	for content, encryption := range map[string]*dataset.Encryption{open: nil, sealed: {ID: uuid.New()}} {
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 64 * dataset.MiB, Encryption: encryption}
		_, err := b.pool.Create(t.Context(), d)
		b.ok(err)
		b.ok(b.pool.Commit(t.Context(), d.ID))
		b.write(d.ID, content)
		scratch.Run(t, "zpool", "sync")
		raw, err := os.ReadFile(image)
		b.ok(err)
		if on := bytes.Contains(raw, []byte(content[:1024])); on != (encryption == nil) {
			t.Errorf("encrypted with %v, and on the disk: %v", encryption, on)
		}
		if encryption == nil {
			continue
		}
		b.ok(b.pool.Close())
		root := b.home + "/drover-" + b.cfg.ID.String() + "/" + d.ID.String()
		if status := lines(t, "get", "-H", "-o", "value", "keystatus", root); status[0] != "unavailable" {
			t.Errorf("with nothing mounted the key is %s", status[0])
		}
		b.open()
		b.holds(d.ID, content)
	}
}
