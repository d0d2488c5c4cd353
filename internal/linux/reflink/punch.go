package reflink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// block is the unit in which PunchZeros looks for zeros. It is the block size of all filesystems with reflinks, or a
// multiple of it.
const block = 4096

// PunchZeros turns runs of zeros in f of at least minRun bytes (a multiple of 4096), and extents that are allocated but
// were never written, into holes. It returns how many bytes became holes. The content of f does not change. Shorter
// runs stay, because every hole adds an extent, and a clone takes longer with each extent. Nobody may write to f
// meanwhile: a write between the read of a run and its removal is lost.
func PunchZeros(f *os.File, minRun int64) (int64, error) {
	p := &puncher{file: f, minRun: minRun, run: -1}
	if err := p.unwritten(); err != nil {
		return p.punched, fmt.Errorf("punch zeros of %s: %w", f.Name(), err)
	}
	off := int64(0)
	for {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return p.punched, nil
		}
		if err != nil {
			return p.punched, fmt.Errorf("punch zeros of %s: %w", f.Name(), err)
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return p.punched, fmt.Errorf("punch zeros of %s: %w", f.Name(), err)
		}
		if err := p.scan(start, end); err != nil {
			return p.punched, fmt.Errorf("punch zeros of %s: %w", f.Name(), err)
		}
		off = end
	}
}

type puncher struct {
	file    *os.File
	minRun  int64
	run     int64 // start of the current run of zeros, or -1
	punched int64
}

// unwritten punches holes into the allocated extents that were never written, such as those that mkfs has made with
// fallocate(2). scan does not see them, because SEEK_DATA skips them.
func (p *puncher) unwritten() error {
	extents, err := Extents(p.file)
	if err != nil {
		return err
	}
	fi, err := p.file.Stat()
	if err != nil {
		return err
	}
	for _, e := range extents {
		// XFS also allocates blocks after the end of a growing file. They contain no data of the file.
		end := min(e.Offset+e.Length, fi.Size())
		if e.Flags&Unwritten == 0 || end <= e.Offset {
			continue
		}
		if err := p.punch(e.Offset, end); err != nil {
			return err
		}
	}
	return nil
}

func (p *puncher) scan(start, end int64) error {
	buf := make([]byte, 1<<20)
	zeros := make([]byte, block)
	for off := start; off < end; {
		n, err := p.file.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			break
		}
		for i := 0; i < n; i += block {
			b := buf[i:min(i+block, n)]
			if bytes.Equal(b, zeros[:len(b)]) {
				if p.run < 0 {
					p.run = off + int64(i)
				}
			} else if err := p.flush(off + int64(i)); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return p.flush(end)
}

func (p *puncher) flush(end int64) error {
	start := p.run
	p.run = -1
	if start < 0 || end-start < p.minRun {
		return nil
	}
	return p.punch(start, end)
}

func (p *puncher) punch(start, end int64) error {
	// The kernel frees a block only if the range covers all of it. At the end of the file, extend the range to the end
	// of the last block.
	roundedEnd := (end + block - 1) / block * block
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(p.file.Fd()), mode, start, roundedEnd-start); err != nil {
		return err
	}
	p.punched += end - start
	return nil
}
