package loop

import (
	"errors"
	"os"

	"github.com/droverhq/drover/internal/safefile"
)

// exchangeHead clones an item, calls change with the image of the clone, and makes the clone the head.
func (p *Pool) exchangeHead(dir safefile.Dir, item string, change func(image *os.File) error) error {
	if err := p.prepareHead(dir, item, change); err != nil {
		return err
	}
	return p.replaceHead(dir)
}

// replaceHead makes next the head in one step. next must be on the disk.
func (p *Pool) replaceHead(dir safefile.Dir) error {
	if err := p.layout.Replace(dir, headItem, nextItem); err != nil {
		return err
	}
	p.step("exchange.replaced")
	if err := p.layout.Flush(dir); err != nil {
		return err
	}
	return p.layout.Remove(dir, nextItem)
}

// prepareHead clones an item as next, calls change with the image of next, and makes next durable. If change fails,
// prepareHead removes next.
func (p *Pool) prepareHead(dir safefile.Dir, item string, change func(image *os.File) error) error {
	if err := p.layout.Remove(dir, nextItem); err != nil {
		return err
	}
	if _, err := p.layout.Clone(dir, nextItem, dir, item, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(nextItem), os.O_RDWR)
	if err != nil {
		return err
	}
	return p.finishNext(dir, image, change)
}

// finishNext calls change with the image of next, flushes and closes the image, and makes next durable. If change or
// the flush of the image fails, finishNext removes next.
func (p *Pool) finishNext(dir safefile.Dir, image *os.File, change func(image *os.File) error) error {
	err := change(image)
	if err == nil {
		err = image.Sync()
	}
	if err := errors.Join(err, image.Close()); err != nil {
		return errors.Join(err, p.layout.Remove(dir, nextItem))
	}
	if err := p.layout.Flush(dir); err != nil {
		return err
	}
	p.step("exchange.ready")
	return nil
}
