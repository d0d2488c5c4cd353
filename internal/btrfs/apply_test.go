package btrfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

func attribute(kind uint16, value any) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, value)
	head := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, kind), uint16(b.Len()))
	return append(head, b.Bytes()...)
}

func named(name string) []byte { return attribute(15, []byte(name)) }

// stream makes one of a whole subvolume of commands: a kind, and attributes.
func stream(commands ...[]byte) io.Reader {
	b := append([]byte("btrfs-stream\x00"), 1, 0, 0, 0)
	for _, c := range append(append([][]byte{command(1, named("x"), attribute(1, [16]byte{7}), attribute(2, uint64(1)))}, commands...), command(21)) {
		b = append(b, c...)
	}
	return bytes.NewReader(b)
}

func command(kind uint16, attributes ...[]byte) []byte {
	body := bytes.Join(attributes, nil)
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	b = append(binary.LittleEndian.AppendUint16(b, kind), 0, 0, 0, 0)
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[6:], ^crc32.Update(^uint32(0), crc32.MakeTable(crc32.Castagnoli), b))
	return b
}

// What no kernel writes is refused before anything is done of it.
func TestForgedCommands(t *testing.T) {
	p := newPool(t)
	made := command(3, named("f"))
	written := command(15, named("f"), attribute(18, uint64(0)), attribute(19, make([]byte, 32<<10)))
	clone := func(from, length, at uint64) []byte {
		return command(16, named("f"), attribute(18, at), attribute(24, length), attribute(20, [16]byte{7}), attribute(22, []byte("f")), attribute(23, from))
	}
	for what, c := range map[string]struct {
		in   io.Reader
		says string
	}{
		"device": {stream(
			command(5, named("f"), attribute(5, uint64(unix.S_IFCHR|0o600)), attribute(8, unix.Mkdev(239, 7))), written), "is no file"},
		"past its end": {stream(made, written, clone(0, 64<<20, 32<<10)), "are shared with a file of 32768"},
		"over itself":  {stream(made, written, clone(0, 32<<10, 16<<10)), "with itself"},
	} {
		dir := p.create(strings.ReplaceAll(what, " ", "-"))
		err := btrfs.Apply(t.Context(), c.in, dir, nil)
		if !errors.Is(err, btrfs.ErrStream) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := btrfs.Apply(t.Context(), stream(made, written, clone(0, 32<<10, 32<<10)), p.create("right"), nil); err != nil || len(p.read("right/f")) != 64<<10 {
		t.Error(err)
	}
}
