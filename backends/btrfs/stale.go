package btrfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// staleDir has an empty file for each subvolume that was destroyed, named by its number, until
// nothing that quotas have counted of it is left: see forgetGone. A note and the end of its
// subvolume come to the disk together, or the note before.
const staleDir = "qgroups"

// patience is how long a pool that goes waits for the kernel.
const patience = 10 * time.Second

// noteGoing notes a subvolume that is about to be destroyed.
func (p *Pool) noteGoing(id uint64) error {
	if p.quota == btrfsctl.QuotaNone {
		return nil
	}
	root, err := p.shelf.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Join(staleDir, strconv.FormatUint(id, 10))
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = root.Mkdir(staleDir, 0o700); err == nil || errors.Is(err, os.ErrExist) {
			f, err = root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return nil // its counters stay then, which is no reason to keep its data
	}
	return f.Close()
}

// forgetGone removes what quotas have counted of noted subvolumes that are gone: see
// btrfsctl.DropCount. A later call finds the subvolumes that are not gone yet.
func (p *Pool) forgetGone() {
	if p.quota != btrfsctl.QuotaNone && p.counts.TryLock() { // else one of them is about to be destroyed
		defer p.counts.Unlock()
		_ = p.within(func(dir *os.File) error {
			_, err := p.forgetIn(dir)
			return err
		})
	}
}

// forgetIn is forgetGone in a pool's directory. It returns how many notes are left.
func (p *Pool) forgetIn(dir *os.File) (left int, err error) {
	root, err := p.shelf.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	notes, err := root.Open(staleDir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer notes.Close()
	names, err := notes.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			continue
		}
		done, err := dropped(dir, id)
		if err != nil {
			return left, err
		}
		if !done {
			left++
		} else if err := root.Remove(filepath.Join(staleDir, name)); err != nil {
			return left, err
		}
	}
	return left, nil
}

// dropped removes the counters of a deleted subvolume, if it is gone; false: later.
// One that is there was not destroyed, or another has its number.
func dropped(dir *os.File, id uint64) (bool, error) {
	standing, err := btrfsctl.StandingOf(dir, id)
	if err != nil || standing != btrfsctl.Gone {
		return standing == btrfsctl.Alive, err
	}
	return btrfsctl.DropCount(dir, id)
}

// Raze implements backends.StorageRemover: the notes are not needed any more.
func (p *Pool) Raze(ctx context.Context) error {
	if p.quota == btrfsctl.QuotaNone {
		return nil
	}
	p.counts.Lock()
	defer p.counts.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return p.within(func(dir *os.File) error {
		for {
			left, err := p.forgetIn(dir)
			if err != nil || left == 0 || ctx.Err() != nil {
				return err
			}
			if err := btrfsctl.Hurry(dir); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}
