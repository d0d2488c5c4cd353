package frame_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/frame"
)

// A written frame is read, however it is cut into pieces. A truncated frame is an error.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bytes.Buffer
		sent := rapid.SliceOf(rapid.String()).Draw(t, "sent")
		if err := frame.Write(&b, sent, 1<<20); err != nil {
			t.Fatal(err)
		}
		whole := bytes.Clone(b.Bytes())
		cut := rapid.IntRange(0, len(whole)-1).Draw(t, "cut")
		var got []string
		want := io.ErrUnexpectedEOF
		if cut == 0 {
			want = io.EOF
		}
		if err := frame.Read(bytes.NewReader(whole[:cut]), &got, 1<<20); !errors.Is(err, want) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if err := frame.Read(&b, &got, 1<<20); err != nil || len(got) != len(sent) {
			t.Fatalf("%q, %v; want %q", got, err, sent)
		}
	})
}

func TestBounds(t *testing.T) {
	var b bytes.Buffer
	if err := frame.Write(&b, "more than ten bytes", 10); !errors.Is(err, dataset.ErrInvalid) || b.Len() > 0 {
		t.Errorf("%v, and %d bytes were sent", err, b.Len())
	}
	for _, in := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x0b\"and more...\"", "\x00\x00\x00\x02{]", "\x00\x00\x00\x00"} {
		var v any
		if err := frame.Read(bytes.NewReader([]byte(in)), &v, 10); !errors.Is(err, dataset.ErrInvalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
