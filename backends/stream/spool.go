package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// File is the name of the received part of a stream in a folder. RecordFile is the name of the record of that part.
const (
	File       = "part"
	RecordFile = "part.json"
)

// flushInterval is the number of bytes of the stream after which the received part is flushed. A flush follows at the
// end of a frame, so a crash loses up to one frame more than flushInterval.
const flushInterval = 4 << 20

// partRecord is the record of the received part.
type partRecord struct {
	Header Header `json:"header"`
	Mark   Mark   `json:"through"` // the file contains everything before this position, durably
	File   string `json:"of"`      // identifies the file: see fileIdentity
}

// Spool gathers the stream of a snapshot in a file of a folder.
type Spool struct {
	Root safefile.Dir
	// Write replaces a file of the folder with v as JSON, atomically and durably.
	Write func(name string, v any) error
	// Room fails if the pool is nearly full. It is called about every flushInterval bytes, before the flush, with the
	// number of bytes that arrived since Receive was called. It is not called before the last flush of a delivery.
	Room func(received int64) error
	Step func(string) // called between two actions, for tests
	// Flush writes a file's data to the disk. If nil, fdatasync(2) is used. Only tests set it.
	Flush func(*os.File) error
}

// Partial describes the received part of a snapshot. It returns nil if there is no such part, or if no delivery can
// resume the part.
func Partial(root safefile.Dir) *backends.Partial {
	rec, err := readPart(root)
	if err != nil {
		return nil
	}
	return &backends.Partial{Snapshot: rec.Header.Snapshot, Base: rec.Header.Base, Bytes: rec.Mark.Offset}
}

// readPart reads the record of the received part. It fails if the file is shorter than the record says, or is not the
// file for which the record was written.
func readPart(root safefile.Dir) (rec partRecord, err error) {
	raw, err := root.Read(RecordFile)
	if err == nil {
		err = dataset.DecodeRecord(raw, &rec)
	}
	if err != nil {
		return rec, err
	}
	st, err := root.Lstat(File)
	if err == nil && (!safefile.IsRegular(st) || st.Size < rec.Mark.End) {
		err = errors.New("it is incomplete")
	}
	if err != nil {
		return rec, err
	}
	f, err := root.Open(File)
	if err != nil {
		return rec, err
	}
	defer f.Close()
	identity, err := fileIdentity(f)
	if err == nil && identity != rec.File {
		err = errors.New("it belongs to another file")
	}
	return rec, err
}

// fileIdentity identifies a file by its inode number and creation time, because a later file can have the same name and
// even the same inode number.
func fileIdentity(f *os.File) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return fmt.Sprintf("%d created %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}

// Drop removes the received part. It removes the record first, and durably, so that the record never describes a later
// file of the same name. Idempotent.
func Drop(root safefile.Dir) error {
	err := root.Remove(RecordFile)
	if err == nil {
		err = root.Sync()
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = root.Remove(File)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// DropOf removes the received part if it belongs to the given snapshot.
func DropOf(root safefile.Dir, snapshot uuid.UUID) error {
	if part := Partial(root); part == nil || part.Snapshot != snapshot {
		return nil
	}
	return Drop(root)
}

// Receive reads a delivery, from its start or from the position where an earlier one was interrupted, until all of it
// is in the file, and returns its description. The file stays until Drop. If Receive fails with dataset.ErrCorrupt, it
// removes the file. If the stream is a difference and starts at its first byte, Receive calls base with the ID of the
// base snapshot before it changes anything.
func (s Spool) Receive(ctx context.Context, d backends.Delivery, kind string, r io.Reader,
	progress backends.Progress, base func(uuid.UUID) error) (backends.Stream, error) {
	out, err := s.receive(ctx, d, kind, r, progress, base)
	if errors.Is(err, dataset.ErrCorrupt) {
		err = errors.Join(err, Drop(s.Root))
	}
	return out, err
}

func (s Spool) receive(ctx context.Context, d backends.Delivery, kind string, r io.Reader,
	progress backends.Progress, base func(uuid.UUID) error) (out backends.Stream, err error) {
	in, f, err := s.open(d, kind, r, base)
	if err != nil {
		return out, err
	}
	defer f.Close()
	g := receiving{Spool: s, in: in, f: f, progress: progress}
	if g.written, err = in.Mark(); err != nil {
		return out, err
	}
	g.recorded, g.start = g.written, g.written.Offset
	if err := g.run(ctx); err != nil {
		// An error of this flush is ignored, because it only means that some bytes must be sent again. A failed flush
		// is not repeated: the kernel treats the pages that it could not write as clean, and the next flush would
		// succeed without them.
		if !errors.Is(err, dataset.ErrCorrupt) && !g.flushFailed {
			_ = g.flush()
		}
		return out, err
	}
	return in.Stream(), nil
}

// open reads the beginning of a stream, or continues where one was interrupted.
func (s Spool) open(d backends.Delivery, kind string, r io.Reader, base func(uuid.UUID) error) (*Reader,
	*os.File, error) {
	if d.From != 0 {
		rec, err := readPart(s.Root)
		if err != nil {
			return nil, nil, err
		}
		in, err := Resume(r, rec.Header, rec.Mark)
		if err != nil {
			return nil, nil, err
		}
		f, err := s.Root.OpenFile(File, os.O_RDWR)
		if err != nil {
			return nil, nil, err
		}
		if err := f.Truncate(rec.Mark.End); err != nil {
			return nil, nil, errors.Join(err, f.Close())
		}
		return in, f, nil
	}
	in, err := NewReader(r)
	if err == nil {
		err = in.Header.Check(kind, d)
	}
	if err != nil {
		return nil, nil, err
	}
	if d.Base != uuid.Nil {
		if err := base(d.Base); err != nil {
			return nil, nil, err
		}
	}
	if err := Drop(s.Root); err != nil {
		return nil, nil, err
	}
	f, err := s.Root.OpenFile(File, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	return in, f, err
}

// receiving is one run of Receive.
type receiving struct {
	Spool
	in          *Reader
	f           *os.File
	progress    backends.Progress
	written     Mark  // the file contains everything before this position
	recorded    Mark  // position in the last record that was written
	start       int64 // offset in the stream at which this run began
	flushFailed bool  // a flush has failed
}

func (g *receiving) run(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := g.in.Next()
		if errors.Is(err, io.EOF) {
			return g.flush() // the end frame is not recorded: it is sent again if the snapshot is not completed
		}
		if err != nil {
			return err
		}
		if c.Data == nil || c.Offset != g.written.End {
			return Corrupt("a range of %d bytes at %d after %d", c.Length, c.Offset, g.written.End)
		}
		if _, err := g.f.WriteAt(c.Data, c.Offset); err != nil {
			return fmt.Errorf("write %s: %w", g.f.Name(), err)
		}
		if g.written, err = g.in.Mark(); err != nil {
			return err
		}
		if g.progress != nil {
			g.progress(g.written.Offset, 0)
		}
		if g.written.Offset-g.recorded.Offset >= flushInterval {
			if err := g.Room(g.written.Offset - g.start); err != nil {
				return err
			}
			if err := g.flush(); err != nil {
				return err
			}
		}
	}
}

// flush writes the received part to the disk and then its record. It does nothing if the record is up to date.
func (g *receiving) flush() error {
	if g.written.Offset == g.recorded.Offset && g.written.End > 0 {
		return nil
	}
	g.Step("spool.written")
	sync := g.Flush
	if sync == nil {
		sync = func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
	}
	if err := sync(g.f); err != nil {
		g.flushFailed = true
		return fmt.Errorf("flush %s: %w", g.f.Name(), err)
	}
	g.Step("spool.flushed")
	identity, err := fileIdentity(g.f)
	if err != nil {
		return err
	}
	if err := g.Write(RecordFile, partRecord{g.in.Header, g.written, identity}); err != nil {
		return err
	}
	g.recorded = g.written
	g.Step("spool.recorded")
	return nil
}
