package stream

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

const block = 4096

// written returns a small stream without its first from bytes: data, zeros, data.
func written(t testing.TB, h Header, from int64) ([]byte, backends.Stream) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, h, from)
	require.NoError(t, err)
	err = errors.Join(w.Data(0, []byte("head")), w.Zeros(2*block, 3*block), w.Data(8*block, []byte("tail")))
	out, endErr := w.End()
	err = errors.Join(err, endErr)
	require.NoError(t, err)
	return buf.Bytes(), out
}

func testHeader() Header {
	return Header{Kind: "loop", Dataset: uuid.New(), Snapshot: uuid.New(), Size: 100 * block, Filesystem: "xfs"}
}

type seen struct {
	Offset, Length int64
	Data           string
}

func read(r io.Reader) (in *Reader, all []seen, err error) {
	if in, err = NewReader(r); err != nil {
		return in, nil, err
	}
	in.Limit = int64(in.Header.Size)
	for {
		c, err := in.Next()
		if errors.Is(err, io.EOF) {
			return in, all, nil
		}
		if err != nil {
			return in, all, err
		}
		all = append(all, seen{c.Offset, c.Length, string(c.Data)})
	}
}

func TestRoundTrip(t *testing.T) {
	want := testHeader()
	stream, sent := written(t, want, 0)
	in, ranges, err := read(bytes.NewReader(stream))
	if err != nil || in.Stream() != sent || sent.Bytes != int64(len(stream)) {
		t.Fatalf("%v, read %+v, written %+v", err, in.Stream(), sent)
	}
	if diff := cmp.Diff(want, in.Header); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]seen{{0, 4, "head"}, {2 * block, 3 * block, ""}, {8 * block, 4, "tail"}}, ranges); diff != "" {
		t.Error(diff)
	}
}

// A stream that was interrupted after any frame is resumed there. The checksum at its end also covers what was read
// before the interruption.
func TestResume(t *testing.T) {
	h := testHeader()
	all, sent := written(t, h, 0)
	for frames := range 4 {
		for _, damaged := range []bool{false, true} {
			first := bytes.Clone(all)
			if damaged { // in the header, as "loop" becomes "moop", or in the first data
				first[bytes.Index(first, []byte([]string{"loop", "head"}[min(frames, 1)]))]++
			}
			in, err := NewReader(bytes.NewReader(first))
			for range frames {
				_, nextErr := in.Next()
				err = errors.Join(err, nextErr)
			}
			at, markErr := in.Mark()
			require.NoError(t, errors.Join(err, markErr))
			rest, again := written(t, h, at.Offset)
			if !bytes.Equal(rest, all[at.Offset:]) || again != sent {
				t.Fatalf("the rest after %d frames is %q of %+v", frames, rest, again)
			}
			in, err = Resume(bytes.NewReader(rest), in.Header, at)
			for err == nil {
				_, err = in.Next()
			}
			switch {
			case damaged && !errors.Is(err, dataset.ErrCorrupt):
				t.Errorf("the first %d frames were damaged: %v", frames, err)
			case !damaged && (!errors.Is(err, io.EOF) || in.Stream() != sent):
				t.Errorf("resumed after %d frames: %v, %+v", frames, err, in.Stream())
			}
		}
	}
	if _, err := Resume(nil, h, Mark{Sum: []byte("no state")}); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("resumed without a checksum: %v", err)
	}
	w, err := NewWriter(io.Discard, h, sent.Bytes+1)
	require.NoError(t, err)
	if _, err := w.End(); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("resumed after its end: %v", err)
	}
}

// Every changed, omitted or added byte is noticed before the end of the stream is reported.
func TestEveryDamageIsNoticed(t *testing.T) {
	good, _ := written(t, testHeader(), 0)
	bad := func(what string, at int, b []byte, want ...error) {
		t.Helper()
		_, _, err := read(bytes.NewReader(b))
		if !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s at %d: %v", what, at, err)
		}
	}
	for at := range good {
		flipped := bytes.Clone(good)
		flipped[at] ^= 1 << (at % 8)
		// The result is io.ErrUnexpectedEOF if the change increased a length.
		bad("flipped", at, flipped, dataset.ErrCorrupt, io.ErrUnexpectedEOF)
		bad("cut", at, good[:at], io.ErrUnexpectedEOF)
		if at+1 < len(good) && good[at] != good[at+1] {
			bad("left out", at, append(bytes.Clone(good[:at]), good[at+1:]...), dataset.ErrCorrupt, io.ErrUnexpectedEOF)
		}
	}
	bad("added", len(good), append(bytes.Clone(good), 0), dataset.ErrCorrupt)
}

// Streams with a correct checksum and wrong content.
func TestForgedStreams(t *testing.T) {
	for name, forge := range map[string]func(w *Writer) error{
		"beyond the end":  func(w *Writer) error { return w.Data(99*block, make([]byte, 2*block)) },
		"far beyond":      func(w *Writer) error { return w.Zeros(1<<62, 1<<62) },
		"negative offset": func(w *Writer) error { return w.Data(-block, make([]byte, block)) },
		"negative length": func(w *Writer) error { return w.Zeros(block, -block) },
		"no length":       func(w *Writer) error { return w.Data(0, nil) },
		"a large frame":   func(w *Writer) error { return w.Data(0, make([]byte, MaxPayload+1)) },
		"backwards":       func(w *Writer) error { return errors.Join(w.Zeros(9*block, block), w.Zeros(0, block)) },
		"twice the same":  func(w *Writer) error { return errors.Join(w.Zeros(0, block), w.Zeros(0, block)) },
		"two headers":     func(w *Writer) error { return w.frame(kindHeader, 0, 2, []byte("{}")) },
		"unknown frame":   func(w *Writer) error { return w.frame('X', 0, 0, nil) },
		"an empty one":    func(*Writer) error { return nil },
	} {
		var buf bytes.Buffer
		w, err := NewWriter(&buf, testHeader(), 0)
		if err == nil {
			err = forge(w)
		}
		if _, endErr := w.End(); err != nil || endErr != nil {
			t.Fatal(err, endErr)
		}
		_, _, err = read(&buf)
		if name == "an empty one" && err != nil || name != "an empty one" && !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := read(strings.NewReader(magic + "D" + strings.Repeat("\x00", frameHeader-1))); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("without a header: %v", err)
	}
}

// C7: no stream makes the reader panic, use much memory, or return a range beyond the limit.
func FuzzReader(f *testing.F) {
	good, _ := written(f, testHeader(), 0)
	f.Add(good)
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		in, ranges, err := read(bytes.NewReader(b))
		if err != nil && !errors.Is(err, dataset.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an error of another kind: %v", err)
		}
		for _, c := range ranges {
			if c.Offset < 0 || c.Length <= 0 || in.Limit > 0 && c.Offset+c.Length > in.Limit {
				t.Errorf("range %+v of at most %d", c, in.Limit)
			}
		}
	})
}
