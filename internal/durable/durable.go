// Package durable writes files so that after a power cut each of them has either its complete old content or its
// complete new content. The agent (agent/member and agent/registration), the guard (guard/hand), the store in a file,
// package pki, and packages nodes and newfile of the command call it. It keeps no state, and it has no lock.
package durable

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace gives the file at path the content b and mode 0600, durably. It first writes path.tmp. A crash may leave that
// file behind, and the next Replace overwrites it. The caller must prevent concurrent calls for one path.
func Replace(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir flushes a directory: after that, creations, renames and removals in it are on disk (fsync(2)).
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
