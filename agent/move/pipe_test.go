package move

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
)

// The data that is written is read, however it is cut into pieces, up to the failure of either end. An end that fails
// reports its error to the other one.
func TestPipes(t *testing.T) {
	quiet(t)
	rapid.Check(t, func(t *rapid.T) {
		data := treetest.Bytes(rapid.Uint64Range(0, 9).Draw(t, "seed"), rapid.IntRange(0, (aheadPieces+3)*pipePiece).Draw(t, "bytes"))
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
			clear(chunk) // the buffer belongs to the caller again
			rest = rest[n:]
		}
		err = out.close()
		if want := room < len(data); want != errors.Is(err, broken) || !want && err != nil || !bytes.Equal(sink.Bytes(), data[:sink.Len()]) || !want && sink.Len() != len(data) {
			t.Fatalf("%d bytes of %d are written where there is room for %d: %v", sink.Len(), len(data), room, err)
		}
	})
}

// narrow accepts a number of bytes.
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

// The producer continues while the link accepts nothing, but only a few pieces ahead. Once the link has failed the
// producer gets an error.
func TestPipeGoesOnMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		out := writeBehind(w)
		var done atomic.Int64
		told := make(chan error)
		go func() {
			var err error
			for err == nil && done.Load() < 4*pipePieces*pipePiece {
				var n int
				n, err = out.Write(make([]byte, pipePiece))
				done.Add(int64(n))
			}
			told <- err
		}()
		synctest.Wait() // each goroutine continues as far as it can while nobody accepts data
		if n := done.Load(); n != pipePieces*pipePiece {
			t.Errorf("%d bytes are made of what nobody takes, and %d pieces have %d", n, pipePieces, pipePieces*pipePiece)
		}
		broken := errors.New("broken")
		must(t, r.CloseWithError(broken))
		assert.ErrorIsf(t, <-told, broken, "of a link that is broken")
		if n := done.Load(); n > 2*pipePieces*pipePiece {
			t.Errorf("%d bytes are taken of a link that is broken", n)
		}
		assert.ErrorIsf(t, out.close(), broken, "in the end")
	})
}

// Arriving data is read while nobody consumes it, but only a few pieces ahead. A consumer that stops in the middle
// gets no error, and nobody reads any more by then.
func TestPipeReadsAhead(t *testing.T) {
	for _, came := range []int64{aheadPieces * pipePiece, pipePiece} {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			from := &slowEnd{Reader: r}
			in := readAhead(from)
			var sent atomic.Int64
			var sender sync.WaitGroup
			sender.Go(func() {
				for range 2 * came / pipePiece {
					n, err := w.Write(make([]byte, pipePiece))
					sent.Add(int64(n))
					if err != nil || came < aheadPieces*pipePiece {
						return
					}
				}
			})
			synctest.Wait() // each goroutine continues as far as it can while nobody consumes data
			if n := sent.Load(); n != came {
				t.Errorf("%d bytes are read ahead of %d, where %d pieces have %d", n, 2*came, aheadPieces, aheadPieces*pipePiece)
			}
			must(t, r.Close())
			in.close()
			if from.within.Load() != 0 {
				t.Error("it is closed, and reads on")
			}
			if in.err != nil {
				t.Errorf("nobody read, and the error is %v", in.err)
			}
			sender.Wait()
		})
	}
}

// slowEnd takes a while until it returns the error of its reader.
type slowEnd struct {
	io.Reader
	within atomic.Int64 // calls of Read
}

func (s *slowEnd) Read(b []byte) (int, error) {
	s.within.Add(1)
	defer s.within.Add(-1)
	n, err := s.Reader.Read(b)
	if err != nil {
		time.Sleep(time.Second)
	}
	return n, err
}

// Zeros are compressed on any link, and nothing else on a fast one.
func TestZerosArePacked(t *testing.T) {
	fast := func(w io.Writer) *frameWriter {
		return &frameWriter{w: plain{w}, now: func() int64 { return 0 }, compression: compressionPolicy{tried: true, cpu: 1, ratio: 1}}
	}
	noise := treetest.Bytes(1, 1<<20)
	sparse := make([]byte, 1<<20)
	for at := 0; at < len(sparse); at += 512 { // like a new log of an XFS
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
		for range 8 { // no piece is used to test whether compression pays on its link
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
