package framing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

const magic = "test/1\r\n"

// frame writes a frame whose header is the kind, the number and the length of the payload.
func frame(o *Output, kind byte, payload string) error {
	var h [12]byte
	o.Number(h[:], kind)
	binary.LittleEndian.PutUint32(h[8:], uint32(len(payload)))
	return o.Write(h[:], []byte(payload))
}

// sent returns a stream with the payloads, without its first from bytes.
func sent(t *testing.T, from int64, payloads ...string) (stream []byte, sum string) {
	t.Helper()
	var b bytes.Buffer
	o, err := NewOutput(&b, magic, from, 100)
	for _, p := range payloads {
		err = errors.Join(err, frame(o, Data, p))
	}
	err = errors.Join(err, o.Close(func(sum []byte) error { return frame(o, End, string(sum)) }))
	if err != nil || o.Total() != from+int64(b.Len()) {
		t.Fatalf("%d bytes from %d on, in all %d, %v", b.Len(), from, o.Total(), err)
	}
	return b.Bytes(), o.Checksum()
}

// next reads a frame.
func next(in *Input) (kind byte, payload []byte, err error) {
	var h [12]byte
	if err = in.ReadHeader(h[:]); err == nil {
		_, err = in.CheckNumber(h[:])
	}
	if err == nil {
		payload, err = in.ReadPayload(int64(binary.LittleEndian.Uint32(h[8:])), 50)
	}
	if err == nil && h[0] == End {
		err = errors.Join(in.CheckSum(payload), in.CheckEnd())
	}
	return h[0], payload, err
}

// A stream that was interrupted between two frames is resumed there, and has the checksum of the whole stream.
func TestResume(t *testing.T) {
	all, sum := sent(t, 0, "one", "two", "three")
	in := NewInput(bytes.NewReader(all))
	if err := in.Begin(magic, "a test"); err != nil {
		t.Fatal(err)
	}
	if _, p, err := next(in); err != nil || string(p) != "one" {
		t.Fatalf("%q, %v", p, err)
	}
	at, err := in.Position()
	if err != nil {
		t.Fatal(err)
	}
	rest, again := sent(t, at.Offset, "one", "two", "three")
	if string(rest) != string(all[at.Offset:]) || again != sum {
		t.Errorf("the rest is %q with checksum %s, want %q with %s", rest, again, all[at.Offset:], sum)
	}
	in = NewInput(bytes.NewReader(rest))
	if err := in.Resume(at); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"two", "three"} {
		if _, p, err := next(in); err != nil || string(p) != want {
			t.Errorf("%q, %v, want %q", p, err, want)
		}
	}
	if kind, _, err := next(in); kind != End || err != nil || in.Checksum() != sum || in.Offset() != int64(len(all)) {
		t.Errorf("a frame %q, %v, checksum %s after %d bytes", kind, err, in.Checksum(), in.Offset())
	}
	if err := NewInput(nil).Resume(Position{Sum: []byte("no state")}); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("resumed without a checksum: %v", err)
	}
}

// A stream that ends early can be continued. Any other damage is an error of the stream.
func TestDamage(t *testing.T) {
	all, _ := sent(t, 0, "one", "two")
	read := func(b []byte) error {
		in := NewInput(bytes.NewReader(b))
		err := in.Begin(magic, "a test")
		for err == nil {
			var kind byte
			if kind, _, err = next(in); kind == End {
				return err
			}
		}
		return err
	}
	if err := read(all); err != nil {
		t.Fatal(err)
	}
	for n := range all {
		if err := read(all[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(all), err)
		}
	}
	first := len(magic) + 12
	for name, b := range map[string][]byte{
		"another magic":     append([]byte("x"), all[1:]...),
		"another number":    append(append(bytes.Clone(all[:len(magic)+4]), 9), all[len(magic)+5:]...),
		"a long frame":      append(append(bytes.Clone(all[:len(magic)+8]), 51), all[len(magic)+9:]...),
		"another payload":   append(append(bytes.Clone(all[:first]), 'x'), all[first+1:]...),
		"something follows": append(bytes.Clone(all), 'x'),
	} {
		if err := read(b); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A later version of a format is refused by its number. A damaged magic is not taken for one.
func TestLaterVersion(t *testing.T) {
	begin := func(stream string) error {
		return NewInput(strings.NewReader(stream+"the rest")).Begin(magic, "a test")
	}
	for stream, version := range map[string]string{"test/2\r\n": "2", "test/10\r\n": "10"} {
		err := begin(stream)
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "format "+version+",") {
			t.Errorf("%q: got error %v, want that format %s is not supported", stream, err, version)
		}
	}
	for _, stream := range []string{
		"Test/2\r\n", "test/0\r\n", "test/02\r\n", "test/2\n\r", "test/-2\r\n", "test/+2\r\n", "test/\xb1\r\n",
		"test.2\r\n",
		"test/2\rx", "\x00\x00\x00\x00\x00\x00\x00\x00", "test/x\r\n", "test/100\r\n",
	} {
		if err := begin(stream); !errors.Is(err, dataset.ErrCorrupt) {
			t.Errorf("%q: got error %v, want %v", stream, err, dataset.ErrCorrupt)
		}
	}
}
