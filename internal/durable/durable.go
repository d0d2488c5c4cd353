// Package durable writes files so that after a power cut each of them has either its complete old content or its
// complete new content. The agent (agent/backup, agent/controlsync, agent/controlsync), the guard (guard/hand), the
// store in a file, package pki, and packages nodes and newfile of the command call it. It keeps no state, and it has no
// lock.
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
	if err := finish(f, path, b); err != nil {
		_ = os.Remove(tmp) // already renamed if only the flush of the folder failed
		return err
	}
	return nil
}

// finish writes b to the temporary file f, and renames f to path.
func finish(f *os.File, path string, b []byte) error {
	_, err := f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// ReplaceShared does what Replace does in a folder where other users can create files, such as /tmp. Its temporary file
// is always a new one with an unpredictable name, and is removed after an error. A file of another user could keep its
// owner and mode.
func ReplaceShared(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".drover-") // mode 0600
	if failed := (*os.PathError)(nil); errors.As(err, &failed) {
		failed.Path = path // the user does not know the temporary file
	}
	if err != nil {
		return err
	}
	if err := finish(f, path, b); err != nil {
		_ = os.Remove(f.Name()) // already renamed if only the flush of the folder failed
		return err
	}
	return nil
}

// SyncDir flushes a directory: after that, creations, renames and removals in it are on disk (fsync(2)).
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
