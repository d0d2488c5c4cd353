package stream_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

type rig struct {
	*testing.T
	dir      string
	root     safefile.Dir
	delivery backends.Delivery
	content  []byte
	stream   []byte
	sent     backends.Stream
	room     error
	kind     string // the expected kind of the error
	flush    func(*os.File) error
}

func newRig(t *testing.T, size int) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir(), kind: "test", content: treetest.Bytes(1, size)}
	var err error
	if r.root, err = safefile.OpenDir(r.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.root.Close() })
	r.delivery = backends.Delivery{
		Dataset:  dataset.Dataset{ID: uuid.New()},
		Snapshot: dataset.Snapshot{ID: uuid.New()},
		Base:     uuid.New(),
	}
	var out bytes.Buffer
	r.sent = r.write(&out, 0, len(r.content))
	r.stream = out.Bytes()
	return r
}

// write frames the content in several calls.
func (r *rig) write(w io.Writer, from int64, piece int) backends.Stream {
	r.Helper()
	sent, err := stream.Send(w, r.header(), from, nil, func(w io.Writer) error {
		for part := range slices.Chunk(r.content, piece) {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(r, err)
	return sent
}

func (r *rig) header() stream.Header {
	return stream.Header{
		Kind: "test", Dataset: r.delivery.Dataset.ID, Snapshot: r.delivery.Snapshot.ID, Base: r.delivery.Base,
		Size: dataset.GiB,
	}
}

func (r *rig) gather(from int64, in io.Reader) (backends.Stream, error) {
	d := r.delivery
	d.From = from
	s := stream.Spool{
		Root: r.root, Room: func(int64) error { return r.room }, Step: func(string) {},
		Write: func(name string, v any) error { return shelf.WriteJSON(r.root, name, v, true) },
		Flush: r.flush,
	}
	return s.Receive(r.Context(), d, r.kind, in, nil, func(uuid.UUID) error { return nil })
}

func (r *rig) came() int64 {
	r.Helper()
	part := stream.Partial(r.root)
	if part == nil {
		return 0
	}
	if part.Snapshot != r.delivery.Snapshot.ID || part.Base != r.delivery.Base {
		r.Errorf("what has come is of %s, to %s", part.Snapshot, part.Base)
	}
	return part.Bytes
}

// The frames do not depend on how the storage divides its stream into writes.
func TestFramesAreTheSame(t *testing.T) {
	r := newRig(t, 3<<20+17)
	for _, piece := range []int{1 << 10, 48<<10 + 5, 1 << 20} {
		var got bytes.Buffer
		if sent := r.write(&got, 1000, piece); sent != r.sent || !bytes.Equal(got.Bytes(), r.stream[1000:]) {
			t.Errorf("in pieces of %d it is %+v, want %+v", piece, sent, r.sent)
		}
	}
}

// A pool that is nearly full keeps the received part. The rest follows when there is room.
func TestGoesOnWhenThereIsRoom(t *testing.T) {
	r := newRig(t, 10<<20)
	r.room = dataset.Errorf(dataset.ErrNoSpace, "nearly full")
	if _, err := r.gather(0, bytes.NewReader(r.stream)); !errors.Is(err, dataset.ErrNoSpace) {
		t.Fatal(err)
	}
	have := r.came()
	if have < 4<<20 || have > 5<<20 {
		t.Errorf("%d bytes are kept", have)
	}
	r.room = nil
	got, err := r.gather(have, bytes.NewReader(r.stream[have:]))
	if err != nil || got != r.sent {
		t.Errorf("gathered %+v, %v, want %+v", got, err, r.sent)
	}
	if raw, err := os.ReadFile(filepath.Join(r.dir, stream.File)); err != nil || !bytes.Equal(raw, r.content) {
		t.Errorf("%d bytes lie there, %v", len(raw), err)
	}
}

// I2: a failed flush is not repeated, because the next flush would find nothing to write. The part that an earlier
// flush wrote to the disk is recorded, and the rest is sent again.
func TestI2FailedFlush(t *testing.T) {
	r := newRig(t, 12<<20)
	var flushes int
	var safe int64
	r.flush = func(f *os.File) error {
		if flushes++; flushes == 2 {
			safe = r.came()
			return unix.EIO
		}
		return unix.Fdatasync(int(f.Fd()))
	}
	if _, err := r.gather(0, bytes.NewReader(r.stream)); !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	have := r.came()
	if safe == 0 || have != safe {
		t.Errorf("%d bytes are recorded, but %d are on the disk", have, safe)
	}
	got, err := r.gather(have, bytes.NewReader(r.stream[have:]))
	if err != nil || got != r.sent {
		t.Errorf("gathered %+v, %v, want %+v", got, err, r.sent)
	}
	if raw, err := os.ReadFile(filepath.Join(r.dir, stream.File)); err != nil || !bytes.Equal(raw, r.content) {
		t.Errorf("%d bytes lie there, %v", len(raw), err)
	}
}

// Bytes that a power cut removed from the file do not count as received.
func TestRecordOfMoreThanThereIs(t *testing.T) {
	r := newRig(t, 10<<20)
	if _, err := r.gather(0, bytes.NewReader(r.stream[:9<<20])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if r.came() < 8<<20 {
		t.Errorf("%d bytes are kept", r.came())
	}
	require.NoError(t, os.Truncate(filepath.Join(r.dir, stream.File), 1<<20))
	if n := r.came(); n != 0 {
		t.Errorf("%d bytes are said to be here", n)
	}
	if got, err := r.gather(0, bytes.NewReader(r.stream)); err != nil || got != r.sent {
		t.Errorf("anew: %+v, %v", got, err)
	}
}

// A stream of another kind of storage, or of another snapshot, is refused and leaves nothing.
func TestOfAnotherKind(t *testing.T) {
	r := newRig(t, 1<<20)
	right := r.delivery
	for what, change := range map[string]func(){
		"snapshot": func() { r.delivery.Snapshot.ID = uuid.New() },
		"dataset":  func() { r.delivery.Dataset.ID = uuid.New() },
	} {
		r.delivery = right
		change()
		if _, err := r.gather(0, bytes.NewReader(r.stream)); !errors.Is(err, dataset.ErrCorrupt) || r.came() != 0 {
			t.Errorf("%s: %v, %d bytes", what, err, r.came())
		}
	}
	r.delivery = right
	r.delivery.Base = uuid.Nil
	if _, err := r.gather(0, bytes.NewReader(r.stream)); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("base: %v", err)
	}
	r.delivery, r.kind = right, "other"
	if _, err := r.gather(0, bytes.NewReader(r.stream)); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("kind: %v", err)
	}
}

// A power cut can bring back the record of a removed file. That record does not apply to a later file with the same
// name.
func TestRecordOfAnotherFile(t *testing.T) {
	r := newRig(t, 10<<20)
	cut := func() {
		t.Helper()
		if _, err := r.gather(0, bytes.NewReader(r.stream[:9<<20])); !errors.Is(err, io.ErrUnexpectedEOF) ||
			r.came() == 0 {
			t.Fatal(err)
		}
	}
	cut()
	record := filepath.Join(r.dir, stream.RecordFile)
	old, err := os.ReadFile(record)
	require.NoError(t, err)
	r.delivery.Snapshot.ID, r.content = uuid.New(), treetest.Bytes(2, 10<<20)
	var out bytes.Buffer
	r.write(&out, 0, len(r.content))
	r.stream = out.Bytes()
	cut()
	require.NoError(t, os.WriteFile(record, old, 0o600))
	if part := stream.Partial(r.root); part != nil {
		t.Errorf("%d bytes of %s are said to be here", part.Bytes, part.Snapshot)
	}
}

// A resumed delivery that fails to truncate the file closes it.
func TestFailedTruncateClosesTheFile(t *testing.T) {
	r := newRig(t, 10<<20)
	if _, err := r.gather(0, bytes.NewReader(r.stream[:9<<20])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	from := r.came()
	record := filepath.Join(r.dir, stream.RecordFile)
	raw, err := os.ReadFile(record)
	require.NoError(t, err)
	negative := regexp.MustCompile(`"end": \d+`).ReplaceAll(raw, []byte(`"end": -1`)) // ftruncate(2): EINVAL
	require.NoError(t, os.WriteFile(record, negative, 0o600))
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a finalizer would close the file
	if _, err := r.gather(from, bytes.NewReader(r.stream[from:])); !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	descriptors, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, d := range descriptors {
		if at, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && at == filepath.Join(r.dir, stream.File) {
			t.Errorf("descriptor %s is still open", d.Name())
		}
	}
}

// A part that was damaged on the way is found when the whole stream has arrived, even if its transfer was interrupted
// after the damage. Nothing of it stays.
func TestDamagedPart(t *testing.T) {
	r := newRig(t, 10<<20)
	damaged := bytes.Clone(r.stream)
	damaged[1<<20] ^= 1
	if _, err := r.gather(0, bytes.NewReader(damaged[:9<<20])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	have := r.came()
	if have < 8<<20 {
		t.Errorf("%d bytes are kept", have)
	}
	if _, err := r.gather(have, bytes.NewReader(r.stream[have:])); !errors.Is(err, dataset.ErrCorrupt) || r.came() != 0 {
		t.Errorf("%v, and %d bytes are kept", err, r.came())
	}
	if _, err := os.Lstat(filepath.Join(r.dir, stream.File)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	if got, err := r.gather(0, bytes.NewReader(r.stream)); err != nil || got != r.sent {
		t.Errorf("again: %+v, %v", got, err)
	}
}

// A header or a range that no storage sends is refused.
func TestForgedStreams(t *testing.T) {
	r := newRig(t, 1<<10)
	negative := r.header()
	negative.Size = -1
	for name, c := range map[string]struct {
		header stream.Header
		forge  func(*stream.Writer) error
	}{
		"a negative size": {negative, func(*stream.Writer) error { return nil }},
		"a gap":           {r.header(), func(w *stream.Writer) error { return w.Data(1, []byte("x")) }},
		"zeros":           {r.header(), func(w *stream.Writer) error { return w.Zeros(0, 5) }},
	} {
		var out bytes.Buffer
		w, err := stream.NewWriter(&out, c.header, 0)
		if err == nil {
			err = c.forge(w)
		}
		if _, endErr := w.End(); err != nil || endErr != nil {
			t.Fatal(err, endErr)
		}
		if _, err := r.gather(0, &out); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// I2: after a power cut, the recorded part of a snapshot is in the file, and a dropped part has no record. A later
// file could take its place.
func TestI2PartSurvivesAPowerCut(t *testing.T) {
	image := scratch.Image(t, "ext4", scratch.Ext4)
	r := newRig(t, 10<<20)
	r.dir = scratch.MountImage(t, "ext4", image)
	var err error
	if r.root, err = safefile.OpenDir(r.dir); err != nil {
		t.Fatal(err)
	}
	defer r.root.Close()
	cut := func() (*backends.Partial, string) {
		t.Helper()
		path := scratch.CutPower(t, "ext4", image)
		root, err := safefile.OpenDir(path)
		require.NoError(t, err)
		defer root.Close()
		return stream.Partial(root), path
	}
	if _, err := r.gather(0, bytes.NewReader(r.stream[:9<<20])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	part, path := cut()
	if part == nil || part.Bytes < 8<<20 {
		t.Fatalf("of 9 MiB that came, this is recorded: %+v", part)
	}
	raw, err := os.ReadFile(filepath.Join(path, stream.File))
	if have := min(len(raw), 8<<20); err != nil || have < 8<<20 || !bytes.Equal(raw[:have], r.content[:have]) {
		t.Errorf("%d bytes are in the file, or others than those that came: %v", len(raw), err)
	}
	require.NoError(t, stream.Drop(r.root))
	_, path = cut()
	if _, err := os.Lstat(filepath.Join(path, stream.RecordFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of the dropped part is back: %v", err)
	}
}
