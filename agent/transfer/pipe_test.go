package transfer

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/internal/tree/treetest"
)

// What goes in comes out, however it is cut, up to where either end fails; and who fails
// says so on the other side.
func TestPipes(t *testing.T) {
	quiet(t)
	rapid.Check(t, func(t *rapid.T) {
		data := treetest.Bytes(rapid.Uint64Range(0, 9).Draw(t, "seed"), rapid.IntRange(0, (pipePieces+3)*pipePiece).Draw(t, "bytes"))
		broken := errors.New("broken")
		fails := rapid.Bool().Draw(t, "fails")

		ending := io.Reader(bytes.NewReader(nil))
		if fails {
			ending = iotest.ErrReader(broken)
		}
		in := readAhead(io.MultiReader(bytes.NewReader(data), ending))
		got, err := io.ReadAll(in)
		in.close()
		if !bytes.Equal(got, data) || fails != errors.Is(err, broken) || fails != errors.Is(in.err, broken) {
			t.Fatalf("%d bytes of %d are read, %v, %v", len(got), len(data), err, in.err)
		}

		var sink bytes.Buffer
		room := len(data)
		if fails {
			room = rapid.IntRange(0, len(data)).Draw(t, "room")
		}
		out := writeBehind(&narrow{&sink, room, broken})
		size := rapid.IntRange(1, 2*pipePiece).Draw(t, "chunk")
		for rest := data; len(rest) > 0; {
			n := min(size, len(rest))
			chunk := bytes.Clone(rest[:n])
			if _, err := out.Write(chunk); err != nil {
				break
			}
			clear(chunk) // it is the caller's again
			rest = rest[n:]
		}
		err = out.close()
		if want := room < len(data); want != errors.Is(err, broken) || !want && err != nil || !bytes.Equal(sink.Bytes(), data[:sink.Len()]) || !want && sink.Len() != len(data) {
			t.Fatalf("%d bytes of %d are written where there is room for %d: %v", sink.Len(), len(data), room, err)
		}
	})
}

// narrow takes so many bytes.
type narrow struct {
	w    io.Writer
	room int
	err  error
}

func (n *narrow) Write(b []byte) (int, error) {
	if len(b) > n.room {
		return 0, n.err
	}
	n.room -= len(b)
	return n.w.Write(b)
}

// Who makes what is sent does so while the link takes nothing, but no more than a few
// pieces; once the link has failed it is told.
func TestPipeGoesOnMeanwhile(t *testing.T) {
	quiet(t)
	r, w := io.Pipe()
	out := writeBehind(w)
	if n, err := out.Write(make([]byte, pipePieces*pipePiece)); n != pipePieces*pipePiece || err != nil {
		t.Fatal(n, err)
	}
	broken := errors.New("broken")
	must(t, r.CloseWithError(broken))
	n, err := out.Write(make([]byte, 2*pipePieces*pipePiece))
	if !errors.Is(err, broken) || n > pipePieces*pipePiece {
		t.Errorf("%d bytes more are taken of a link that is broken: %v", n, err)
	}
	if err := out.close(); !errors.Is(err, broken) {
		t.Errorf("in the end: %v", err)
	}
}

// What comes is read while nobody takes it, but no more than a few pieces, and who stops
// in the middle leaves nothing behind.
func TestPipeReadsAhead(t *testing.T) {
	quiet(t)
	r, w := io.Pipe()
	in := readAhead(r)
	if n, err := w.Write(make([]byte, pipePieces*pipePiece)); n != pipePieces*pipePiece || err != nil {
		t.Fatal(n, err)
	}
	must(t, r.Close())
	in.close()
	if in.err != nil {
		t.Errorf("nobody read, and is told %v", in.err)
	}
}

// Zeros are packed on any link, and nothing else on a fast one.
func TestZerosArePacked(t *testing.T) {
	fast := func(w io.Writer) *frameWriter {
		return &frameWriter{w: plain{w}, now: func() int64 { return 0 }, pace: pace{tried: true, cpu: 1, ratio: 1}}
	}
	noise := treetest.Bytes(1, 1<<20)
	sparse := make([]byte, 1<<20)
	for at := 0; at < len(sparse); at += 512 { // as XFS writes its log anew
		copy(sparse[at:at+50], noise[at:])
	}
	for name, c := range map[string]struct {
		data     []byte
		min, max int
	}{
		"zeros":          {make([]byte, 1<<20), 1, 1 << 10},
		"a log":          {sparse, 1, 1 << 17},
		"half and half":  {append(bytes.Clone(noise[:1<<19]), make([]byte, 1<<19)...), 1 << 19, 1<<19 + 1<<12},
		"noise":          {noise, 1 << 20, 1<<20 + 1<<10},
		"text":           {bytes.Repeat([]byte("no zeros\n"), 1<<17), 9 << 17, 9<<17 + 1<<10},
		"a few zeros":    {[]byte{0, 0, 0}, 3, 100},
		"next to no one": {[]byte{7}, 1, 100},
	} {
		var buf bytes.Buffer
		f := fast(&buf)
		for range 8 { // of which none is tried for its link
			buf.Reset()
			if _, err := f.Write(c.data); err != nil {
				t.Fatal(err)
			}
		}
		if n := buf.Len(); n < c.min || n > c.max {
			t.Errorf("%s: %d bytes are sent as %d", name, len(c.data), n)
		}
	}
}
