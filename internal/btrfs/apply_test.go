package btrfs_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/droverhq/drover/internal/btrfs"
)

// A byte that is not what the kernel wrote is found, wherever in a command it is.
func TestDamagedCommand(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	p.write("src/f", "precious data")
	stream := p.sent(src, "one", io.Discard)
	at := bytes.Index(stream, []byte("precious"))
	if at < 0 {
		t.Fatal("the stream has not what the file has")
	}
	if err := btrfs.Apply(t.Context(), bytes.NewReader(stream), p.create("whole"), nil); err != nil || p.read("whole/f") != "precious data" {
		t.Error(err)
	}
	stream[at] ^= 1
	if err := btrfs.Apply(t.Context(), bytes.NewReader(stream), p.create("damaged"), nil); !errors.Is(err, btrfs.ErrStream) {
		t.Errorf("got %v", err)
	}
}
