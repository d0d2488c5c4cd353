package projects

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/droverhq/drover/cmd/drover/internal/composefile"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
)

// The ends of the names of files beside a Compose file.
const (
	newSuffix     = ".drover-new"     // the changed file, until it replaces the Compose file
	oldSuffix     = ".before-drover"  // the Compose file as it was
	changedSuffix = ".changed-drover" // a file that was edited before --undo
)

// Exchange replaces a Compose file by a changed one, and can be undone. Both directions are idempotent, and at each
// moment the old file exists as Path or as Old. New has the changed file, until it replaces Path.
type Exchange struct {
	Path   string `json:"path"`
	New    string `json:"new"`
	Old    string `json:"old"`
	Before string `json:"before"` // SHA-256 of the old file
	After  string `json:"after"`  // SHA-256 of the changed file
}

// newExchange plans the replacement of a file. The old file gets a name that is free.
func newExchange(before []byte, after composefile.Edited) Exchange {
	taken := func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, fs.ErrNotExist)
	}
	return Exchange{
		Path: after.Path, New: after.Path + newSuffix, Old: free(after.Path+oldSuffix, taken), Before: sum(before),
		After: sum(after.Text),
	}
}

func sum(text []byte) string {
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:])
}

// sumOf returns the checksum of a file, or "" if it does not exist.
func sumOf(path string) (string, error) {
	text, err := safefile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return sum(text), err
}

// writeBeside writes a file with the owner and the mode of the file like, and flushes it. It replaces an existing file.
// It does not flush the directory.
func writeBeside(like, path string, text []byte) error {
	info, err := os.Lstat(like)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if st, ok := info.Sys().(*syscall.Stat_t); ok && err == nil {
		err = f.Chown(int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = f.Chmod(info.Mode().Perm())
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// switched reports whether the changed file has replaced the old one. It fails with dataset.ErrConflict if the file is
// neither of them.
func (x Exchange) switched() (bool, error) {
	now, err := sumOf(x.Path)
	if err != nil || now == x.Before {
		return false, err
	}
	if now != x.After {
		return false, dataset.Errorf(dataset.ErrConflict, "%s was edited meanwhile (undo the move with --undo, and "+
			"begin again)", x.Path)
	}
	return true, nil
}

// do replaces the file.
func (x Exchange) do(h Host) error {
	done, err := x.switched()
	if err != nil || done {
		return err
	}
	if now, err := sumOf(x.New); err != nil || now != x.After {
		return errors.Join(err, dataset.Errorf(dataset.ErrConflict, "%s is missing or was edited (undo the move with "+
			"--undo, and begin again)", x.New))
	}
	if err := keep(x.Path, x.Old, x.Before); err != nil {
		return err
	}
	h.At("kept")
	if err := os.Rename(x.New, x.Path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(x.Path))
}

// keep gives a file a second name, durably: a hard link, or a copy where the filesystem has no links.
func keep(path, second, sum string) error {
	if now, err := sumOf(second); err != nil || now == sum {
		return err
	}
	err := os.Link(path, second)
	if errors.Is(err, fs.ErrExist) {
		return dataset.Errorf(dataset.ErrExists, "%s exists, and is another file (move it away)", second)
	}
	if err != nil {
		var text []byte
		if text, err = safefile.Read(path); err == nil {
			err = writeBeside(path, second, text)
		}
	}
	if err != nil {
		return fmt.Errorf("keep the old Compose file: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// undo puts the old file back. If the file was edited after the exchange, the edited file is kept, and undo returns its
// name.
func (x Exchange) undo(h Host) (edited string, err error) {
	if err := os.Remove(x.New); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	old, err := safefile.Read(x.Old)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // nothing was exchanged
	}
	if err != nil {
		return "", err
	}
	now, err := safefile.Read(x.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if sum(now) == x.Before && sum(old) != x.Before {
		return "", nil // nothing was exchanged: a crash interrupted the copy that keep makes, or Old is another file
	}
	if len(now) > 0 && sum(now) != x.After && !bytes.Equal(now, old) {
		edited = free(x.Path+changedSuffix, func(path string) bool {
			s, err := sumOf(path)
			return err != nil || s != "" && s != sum(now)
		})
		if err := keep(x.Path, edited, sum(now)); err != nil {
			return "", err
		}
	}
	h.At("undo.kept")
	// If both names are links of one file, rename(2) does nothing, and the second name must be removed.
	if err := os.Rename(x.Old, x.Path); err != nil {
		return edited, err
	}
	if err := os.Remove(x.Old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return edited, err
	}
	return edited, durable.SyncDir(filepath.Dir(x.Path))
}
