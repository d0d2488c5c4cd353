package imagefile

import (
	"errors"
	"os"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
)

// Heads replaces the head of a dataset in one step. The replacement is prepared as the item next.
type Heads struct {
	layout layout.Layout
	step   func(string)
}

// NewHeads returns a Heads for a pool with the given layout.
func NewHeads(l layout.Layout, step func(string)) *Heads { return &Heads{layout: l, step: step} }

// Exchange clones an item, calls change with the image of the clone, and makes the clone the head.
func (h *Heads) Exchange(dir folder.Dir, item string, change func(image *os.File) error) error {
	if err := h.Prepare(dir, item, change); err != nil {
		return err
	}
	return h.Replace(dir)
}

// Replace makes next the head in one step. next must be on the disk.
func (h *Heads) Replace(dir folder.Dir) error {
	if err := h.layout.Replace(dir, layout.Head, layout.Next); err != nil {
		return err
	}
	h.step("exchange.replaced")
	if err := h.layout.Flush(dir); err != nil {
		return err
	}
	return h.layout.Remove(dir, layout.Next)
}

// Prepare clones an item as next, calls change with the image of next, and makes next durable. If change fails, Prepare
// removes next.
func (h *Heads) Prepare(dir folder.Dir, item string, change func(image *os.File) error) error {
	if err := h.layout.Remove(dir, layout.Next); err != nil {
		return err
	}
	if _, err := h.layout.Clone(dir, layout.Next, dir, item, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(h.layout.Image(layout.Next), os.O_RDWR)
	if err != nil {
		return err
	}
	return h.Finish(dir, image, change)
}

// Finish calls change with the image of next, flushes and closes the image, and makes next durable. If change or the
// flush of the image fails, Finish removes next.
func (h *Heads) Finish(dir folder.Dir, image *os.File, change func(image *os.File) error) error {
	err := change(image)
	if err == nil {
		err = image.Sync()
	}
	if err := errors.Join(err, image.Close()); err != nil {
		return errors.Join(err, h.layout.Remove(dir, layout.Next))
	}
	if err := h.layout.Flush(dir); err != nil {
		return err
	}
	h.step("exchange.ready")
	return nil
}
