package loop

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"golang.org/x/sys/unix"
)

// home is the directory of a pool. Each operation opens it, and checks its identity, because the disk below it can
// be replaced between two operations.
type home struct {
	name     string // of the pool
	path     string
	identity identity
	// imageRoom fails if the pool's image lacks blocks. It is nil unless the pool is in an image file.
	imageRoom func() error
	seen      atomic.Pointer[stamp] // of the last identity that was recognised
	raising   sync.Mutex            // held while the identity is rewritten
}

// open opens the pool's directory and checks that it is still this pool. Nothing stays open between operations, so
// the disk of an idle pool can be unmounted.
func (h *home) open() (folder.Dir, error) {
	root, err := folder.Open(h.path)
	if err != nil {
		return folder.Dir{}, h.offline("%w", err)
	}
	if err := h.recognise(root); err != nil {
		_ = root.Close()
		if errors.Is(err, dataset.ErrUnsupported) {
			return folder.Dir{}, fmt.Errorf("pool %s at %s: %w", h.name, h.path, err)
		}
		return folder.Dir{}, h.offline("%w", err)
	}
	return root, nil
}

// stamp identifies a version of a file.
type stamp struct {
	dev, ino uint64
	ctime    unix.Timespec
}

// recognise checks the identity of the pool in root. It does not read the identity file if the file has not changed
// since the last time.
func (h *home) recognise(root folder.Dir) error {
	st, err := root.Lstat(layout.IdentityFile)
	if err != nil {
		return err
	}
	now := stamp{dev: st.Dev, ino: st.Ino, ctime: st.Ctim}
	if last := h.seen.Load(); last != nil && *last == now {
		return nil
	}
	id, err := h.read(root)
	if err != nil {
		return err
	}
	if id.ID != h.identity.ID {
		return fmt.Errorf("pool %s lies there", id.ID)
	}
	h.seen.Store(&now)
	return nil
}

// read reads the identity file.
func (h *home) read(root folder.Dir) (identity, error) {
	raw, err := root.ReadFile(layout.IdentityFile, layout.MaxRecord)
	if err != nil {
		return identity{}, err
	}
	return decodeIdentity(raw)
}

// generation reads the pool's generation.
func (h *home) generation() (uint64, error) {
	root, err := h.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	id, err := h.read(root)
	if err != nil {
		return 0, h.offline("%w", err)
	}
	return id.Generation, nil
}

// raise records another generation of the pool.
func (h *home) raise(generation uint64) error {
	h.raising.Lock()
	defer h.raising.Unlock()
	root, err := h.open()
	if err != nil {
		return err
	}
	defer root.Close()
	id, err := h.read(root)
	if err != nil {
		return h.offline("%w", err)
	}
	id.Generation = generation
	return layout.NoSpace(replaceIdentity(root, id))
}

// offline returns the error of a pool that cannot be opened.
func (h *home) offline(format string, args ...any) error {
	return dataset.Errorf(dataset.ErrOffline, "pool %s at %s is offline: %w", h.name, h.path,
		fmt.Errorf(format, args...))
}

// room fails with ErrNoSpace if the pool is so full that nothing new should begin in it. Otherwise the existing
// datasets would get the errors.
func (h *home) room(root folder.Dir) error {
	free, size, err := layout.Space(root)
	if err != nil {
		return err
	}
	if err := backends.Room(h.name, free, size); err != nil {
		return err
	}
	if h.imageRoom != nil {
		return h.imageRoom()
	}
	return nil
}
