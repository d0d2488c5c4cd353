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

	"github.com/droverhq/drover/backends/framing"
	"github.com/droverhq/drover/dataset"
)

// stream writes a small stream: data, zeros, data.
func stream(t testing.TB, h Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	e, err := NewEncoder(&buf, h, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(e.Data(0, []byte("head")), e.Zeros(2*blockSize, 3*blockSize), e.Data(8*blockSize, []byte("tail")),
		e.End())
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func testHeader() Header {
	return Header{Dataset: uuid.New(), Snapshot: uuid.New(), Size: 100 * blockSize, Filesystem: "xfs"}
}

type seen struct {
	Offset, Length int64
	Data           string
}

func decode(r io.Reader) (Header, []seen, error) {
	d, err := NewDecoder(r)
	if err != nil {
		return Header{}, nil, err
	}
	var all []seen
	for {
		c, err := d.NextChange()
		if errors.Is(err, io.EOF) {
			return d.Header, all, nil
		}
		if err != nil {
			return d.Header, all, err
		}
		all = append(all, seen{c.Offset, c.Length, string(c.Data)})
	}
}

func TestStreamRoundTrip(t *testing.T) {
	want := testHeader()
	got, changes, err := decode(bytes.NewReader(stream(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	ranges := []seen{{0, 4, "head"}, {2 * blockSize, 3 * blockSize, ""}, {8 * blockSize, 4, "tail"}}
	if diff := cmp.Diff(ranges, changes); diff != "" {
		t.Error(diff)
	}
}

// Every changed, omitted or added byte is noticed.
func TestEveryDamageIsNoticed(t *testing.T) {
	good := stream(t, testHeader())
	bad := func(what string, at int, b []byte, want ...error) {
		t.Helper()
		_, _, err := decode(bytes.NewReader(b))
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

// Streams with correct checksums and wrong content.
func TestForgedStreams(t *testing.T) {
	forge := func(h Header, f func(e *Encoder) error) []byte {
		var buf bytes.Buffer
		e, err := NewEncoder(&buf, h, 0)
		if err == nil {
			err = errors.Join(f(e), e.End())
		}
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	nothing := func(*Encoder) error { return nil }
	sized := func(size int64) Header {
		h := testHeader()
		h.Size = size
		return h
	}
	for name, b := range map[string][]byte{
		"beyond the end": forge(testHeader(), func(e *Encoder) error {
			return e.Data(99*blockSize, make([]byte, 2*blockSize))
		}),
		"far beyond": forge(testHeader(), func(e *Encoder) error { return e.Zeros(1<<62, 1<<62) }),
		"negative offset": forge(testHeader(), func(e *Encoder) error {
			return e.Data(-blockSize, make([]byte, blockSize))
		}),
		"negative length": forge(testHeader(), func(e *Encoder) error { return e.Zeros(blockSize, -blockSize) }),
		"no length":       forge(testHeader(), func(e *Encoder) error { return e.Data(0, nil) }),
		"backwards": forge(testHeader(), func(e *Encoder) error {
			return errors.Join(e.Zeros(9*blockSize, blockSize), e.Zeros(0, blockSize))
		}),
		"twice the same": forge(testHeader(), func(e *Encoder) error {
			return errors.Join(e.Zeros(0, blockSize), e.Zeros(0, blockSize))
		}),
		"two headers": forge(testHeader(), func(e *Encoder) error {
			return e.frame(framing.Start, 0, 2, []byte("{}"))
		}),
		"unknown frame":       forge(testHeader(), func(e *Encoder) error { return e.frame('X', 0, 0, nil) }),
		"no size":             forge(sized(0), nothing),
		"a negative size":     forge(sized(-blockSize), nothing),
		"a size of no blocks": forge(sized(blockSize+1), nothing),
		"too large":           forge(sized(1<<60), nothing),
	} {
		if _, _, err := decode(bytes.NewReader(b)); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := decode(bytes.NewReader(forge(testHeader(), nothing))); err != nil {
		t.Errorf("an empty difference: %v", err)
	}
}

// C7: no stream makes the decoder panic, use much memory, or return a range outside of the image.
func FuzzDecoder(f *testing.F) {
	f.Add(stream(f, testHeader()))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, changes, err := decode(bytes.NewReader(b))
		if err != nil && !errors.Is(err, dataset.ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an error of another kind: %v", err)
		}
		for _, c := range changes {
			if c.Offset < 0 || c.Length <= 0 || c.Offset+c.Length > h.Size {
				t.Errorf("range %+v in an image of %d", c, h.Size)
			}
		}
	})
}
