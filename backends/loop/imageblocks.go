package loop

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
)

// A pool image keeps all of its blocks while it is open. Its device refuses discards, so fstrim(8), which Debian runs
// each week, changes nothing. Holes that a program punches into the file itself cannot be prevented. Each status
// check of the pool finds them, allocates the blocks again, and reports that.

// imageBlocks records what happened to the blocks of an image since it was opened.
type imageBlocks struct {
	mu       sync.Mutex
	regained dataset.Size // blocks that were lost and allocated again
	discards error        // why the device still accepts discards; nil if it refuses them
}

// keepBlocks turns off discards on the image's device.
func (img *poolImage) keepBlocks(device string) {
	err := loopdev.DisableDiscard(device)
	img.blocks.mu.Lock()
	defer img.blocks.mu.Unlock()
	img.blocks.discards = err
}

// missingBlocks returns how many bytes of the image have no blocks.
func (img *poolImage) missingBlocks() (dataset.Size, error) {
	var st unix.Stat_t
	if err := unix.Stat(img.file, &st); err != nil {
		return 0, fmt.Errorf("blocks of %s: %w", img.file, err)
	}
	return max(0, dataset.Size(st.Size-st.Blocks*512)), nil
}

// refill allocates the missing blocks of the image. It returns the missing bytes before and after. If the blocks would
// fill the disk of the host, refill allocates none.
func (img *poolImage) refill() (missing, remaining dataset.Size, err error) {
	img.blocks.mu.Lock()
	defer img.blocks.mu.Unlock()
	if missing, err = img.missingBlocks(); err != nil || missing == 0 {
		return 0, 0, err
	}
	f, err := os.OpenFile(img.file, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return missing, missing, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return missing, missing, err
	}
	if hostRoom(img.file, missing) == nil {
		if err := allocateBlocks(f, fi.Size()); err != nil && !errors.Is(err, unix.ENOSPC) {
			return missing, missing, err
		}
	}
	remaining, err = img.missingBlocks()
	return missing, remaining, err
}

// RefillAtOpen allocates the missing blocks of an image that is being opened, and adds a line about them to Notes. A
// full host disk is not an error, because the datasets in the pool must stay reachable.
func (img *poolImage) RefillAtOpen() error {
	missing, remaining, err := img.refill()
	if err == nil && missing > 0 {
		img.note = append(img.note, fmt.Sprintf("the image had lost %s of its blocks, and %s were allocated "+
			"again", missing.Human(),
			(missing-remaining).Human()))
	}
	return err
}

// Room allocates the missing blocks of the image again. It fails with ErrNoSpace if the disk lacks the space for them.
func (img *poolImage) Room() error {
	if missing, err := img.missingBlocks(); err != nil || missing == 0 {
		return err
	}
	missing, remaining, err := img.refill()
	if err != nil {
		return err
	}
	img.blocks.mu.Lock()
	img.blocks.regained += max(0, missing-remaining)
	img.blocks.mu.Unlock()
	if remaining == 0 {
		return nil
	}
	if err = hostRoom(img.file, remaining); err == nil {
		err = dataset.Errorf(dataset.ErrNoSpace, "its disk did not allocate them")
	}
	return fmt.Errorf("the pool's image %s is not fully allocated (%s are missing), and creates are refused: %w "+
		"(free space there)", img.file, remaining.Human(), err)
}

// Warnings returns one line for each problem with the blocks of the image.
func (img *poolImage) Warnings() (list []string) {
	img.blocks.mu.Lock()
	defer img.blocks.mu.Unlock()
	if n := img.blocks.regained; n > 0 {
		list = append(list, fmt.Sprintf("its image %s had lost %s of its blocks, which were allocated again: a "+
			"program on this host discards them or punches holes in the file", img.file, n.Human()))
	}
	if err := img.blocks.discards; err != nil {
		list = append(list, fmt.Sprintf("fstrim on this host frees blocks of its image %s, which stay missing "+
			"until the next check of the pool: %v", img.file, err))
	}
	return list
}
