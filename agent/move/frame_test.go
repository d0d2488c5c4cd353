package move

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// packing returns a writer whose clock says that the link is slow, so that all data is compressed that becomes
// smaller.
func packing(w io.Writer) *frameWriter {
	now := int64(0)
	return &frameWriter{w: plain{w}, now: func() int64 { now += int64(time.Second); return now }, compression: compressionPolicy{link: 1e9}}
}

func framed(t interface{ Fatal(...any) }, f *frameWriter, chunks [][]byte, sent any, err error) {
	for _, b := range chunks {
		if n, err := f.Write(b); err != nil || n != len(b) {
			t.Fatal(n, err)
		}
	}
	if err := f.end(sent, err); err != nil {
		t.Fatal(err)
	}
}

// The data that is written is read, compressed or not, together with the content of the end frame.
func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var buf bytes.Buffer
		f := &frameWriter{w: plain{&buf}}
		if rapid.Bool().Draw(t, "packed") {
			f = packing(&buf)
		}
		var chunks [][]byte
		for range rapid.IntRange(0, 5).Draw(t, "chunks") {
			b := treetest.Bytes(rapid.Uint64Range(0, 9).Draw(t, "seed"), rapid.IntRange(0, maxFrame+5000).Draw(t, "bytes"))
			if rapid.Bool().Draw(t, "compressible") {
				b = bytes.Repeat([]byte("compressible"), len(b)/12)
			}
			chunks = append(chunks, b)
		}
		want := backends.Stream{Bytes: 7, Sum: "abc"}
		framed(t, f, chunks, want, nil)
		written := buf.Len()
		in := &frameReader{r: &buf}
		defer in.close()
		got, err := io.ReadAll(in)
		var end backends.Stream
		if err != nil || !bytes.Equal(got, slices.Concat(chunks...)) || json.Unmarshal(in.end, &end) != nil || end != want {
			t.Fatalf("%d bytes, %v, %s", len(got), err, in.end)
		}
		if in.frames != f.count() || in.read != int64(written) {
			t.Fatalf("%d frames of %d bytes were read, %d of %d written", in.frames, in.read, f.count(), written)
		}
	})
}

// Wherever the stream is cut, the reader returns no wrong byte and no end. Whatever single bit is flipped, the pool
// keeps what it has received: only the checksum of the stream within says that the content is wrong.
func TestDamagedFrames(t *testing.T) {
	for _, packed := range []bool{false, true} {
		var buf bytes.Buffer
		f := &frameWriter{w: plain{&buf}}
		if packed {
			f = packing(&buf)
		}
		chunks := [][]byte{[]byte("first"), bytes.Repeat([]byte("second "), 40), []byte("third")}
		framed(t, f, chunks, nil, nil)
		good, whole := buf.Bytes(), slices.Concat(chunks...)
		try := func(what string, at int, b []byte) {
			t.Helper()
			in := &frameReader{r: bytes.NewReader(b)}
			defer in.close()
			got, err := io.ReadAll(in)
			if what == "cut" && (!bytes.HasPrefix(whole, got) || !errors.Is(err, io.ErrUnexpectedEOF)) || err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("%s at %d: %q, %v", what, at, got, err)
			}
			if errors.Is(err, dataset.ErrCorrupt) {
				t.Errorf("%s at %d: a pool would drop what has come: %v", what, at, err)
			}
		}
		for at := range good {
			flipped := bytes.Clone(good)
			flipped[at] ^= 1 << (at % 8)
			try("flipped", at, flipped)
			try("cut", at, good[:at])
		}
	}
}

// Frames that no peer of this program sends.
func TestForgedFrames(t *testing.T) {
	pack := func(b []byte) []byte {
		e, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		return e.EncodeAll(b, nil)
	}
	for name, forge := range map[string]func(*frameWriter) error{
		"oversized":               func(f *frameWriter) error { return f.frame(frameData, make([]byte, maxFrame+1)) },
		"unknown kind":            func(f *frameWriter) error { return f.frame('?', []byte("1")) },
		"a packed flood":          func(f *frameWriter) error { return f.frame(frameCompressed, pack(make([]byte, 1<<30))) },
		"packed, and is not":      func(f *frameWriter) error { return f.frame(frameCompressed, []byte("this is not packed")) },
		"a problem without sense": func(f *frameWriter) error { return f.frame(frameProblem, []byte("{")) },
	} {
		var buf bytes.Buffer
		if err := forge(&frameWriter{w: plain{&buf}}); err != nil {
			t.Fatal(err)
		}
		in := &frameReader{r: &buf}
		got, err := io.ReadAll(in)
		in.close()
		if len(got) > 0 || !errors.Is(err, errFrame) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	var buf bytes.Buffer
	framed(t, &frameWriter{w: plain{&buf}}, nil, nil, dataset.Errorf(dataset.ErrCorrupt, "my disk is broken"))
	_, err := io.ReadAll(&frameReader{r: &buf})
	if errors.Is(err, dataset.ErrCorrupt) || !isKind(err, dataset.ErrCorrupt) || !errors.Is(finalError(err), dataset.ErrCorrupt) {
		t.Errorf("the peer's problem: %v", err)
	}
}

// C7: no input causes a panic, takes much memory, or ends well without an end frame.
func FuzzFrames(f *testing.F) {
	var buf bytes.Buffer
	framed(f, packing(&buf), [][]byte{[]byte("first"), bytes.Repeat([]byte("second "), 40)}, nil, nil)
	f.Add(buf.Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &frameReader{r: bytes.NewReader(b)}
		defer in.close()
		_, err := io.Copy(io.Discard, in)
		if err == nil && in.end == nil {
			t.Error("it ended well without an end")
		}
	})
}

// Compression is used if it takes less time than it saves.
func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		link, cpu, ratio float64 // nanoseconds per byte
		pack             bool
	}{
		"local network, as text": {0.1, 2, 0.3, false},
		"10 Gbit/s, as text":     {0.8, 2, 0.3, false},
		"1 Gbit/s, as text":      {8, 2, 0.3, true},
		"1 Gbit/s, as noise":     {8, 1, 1.0, false},
		"100 Mbit/s, as noise":   {80, 1, 1.0, false},
		"100 Mbit/s, a database": {80, 4, 0.8, true},
		"1 Gbit/s, a slow host":  {8, 9, 0.5, false},
	} {
		var p compressionPolicy
		packed, trials := 0, 0
		const frames = 640
		for range frames {
			size := 1 << 20
			if p.shouldCompress() {
				packed++
				p.recordCompression(size, int(c.ratio*float64(size)), int64(c.cpu*float64(size)))
				size = int(c.ratio * float64(size))
			}
			p.recordSend(size, int64(c.link*float64(size)))
		}
		trials = frames/trialInterval + 2
		if (c.pack && packed < frames-trials) || (!c.pack && packed > trials) {
			t.Errorf("%s: %d of %d frames were packed", name, packed, frames)
		}
	}
	// The link becomes slow, then the data becomes noise.
	var p compressionPolicy
	run := func(frames int, link, ratio float64) (packed int) {
		for range frames {
			size := 1 << 20
			if p.shouldCompress() {
				packed++
				p.recordCompression(size, int(ratio*float64(size)), int64(size))
				size = int(ratio * float64(size))
			}
			p.recordSend(size, int64(link*float64(size)))
		}
		return packed
	}
	if a, b, c := run(100, 0.1, 0.3), run(300, 20, 0.3), run(300, 20, 1); a > 5 || b < 280 || c > 40 {
		t.Errorf("%d of 100, %d of 300, %d of 300 frames were packed", a, b, c)
	}
}

// answers is a peer that gives every request the same answer.
type answers struct {
	frames string // the value of framesHeader
	asked  int
	known  string // the version that the client says it knows
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked++
	a.known = r.Header.Get(framesHeader)
	h := http.Header{}
	if a.frames != "" {
		h.Set(framesHeader, a.frames)
	}
	return &http.Response{StatusCode: http.StatusOK, Header: h, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

// Frames of a later version are refused by their number, at once: it is not a fault of the connection.
func TestLaterVersionOfFrames(t *testing.T) {
	ask := func(a *answers) error {
		c := &Client{HTTP: a, Clock: clock.System{}}
		_, err := c.Plan(t.Context(), "https://peer", uuid.New(), nil, uuid.Nil, nil)
		return err
	}
	later := &answers{frames: "2"}
	if err := ask(later); !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("got error %v, want that format 2 is not supported", err)
	}
	if later.asked != 1 || later.known != "1" {
		t.Errorf("the client asked %d times and said that it knows %q, want once and 1", later.asked, later.known)
	}
	for _, version := range []string{"", "1"} {
		if err := ask(&answers{frames: version}); err != nil {
			t.Errorf("version %q: %v", version, err)
		}
	}
}
