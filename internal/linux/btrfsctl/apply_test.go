package btrfsctl_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// A changed byte in a stream is detected, wherever it is in a command.
func TestDamagedCommand(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	p.write("src/f", "precious data")
	stream := p.sent(src, "one", io.Discard)
	at := bytes.Index(stream, []byte("precious"))
	if at < 0 {
		t.Fatal("the stream has not what the file has")
	}
	if err := btrfsctl.Apply(t.Context(), bytes.NewReader(stream), p.create("whole"), nil); err != nil ||
		p.read("whole/f") != "precious data" {
		t.Error(err)
	}
	stream[at] ^= 1
	if err := btrfsctl.Apply(t.Context(), bytes.NewReader(stream), p.create("damaged"),
		nil); !errors.Is(err, btrfsctl.ErrStream) {
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

// stream returns the stream of a complete subvolume with the given commands. Each command has a kind and attributes.
func stream(commands ...[]byte) io.Reader {
	b := append([]byte("btrfs-stream\x00"), 1, 0, 0, 0)
	for _, c := range append(
		append([][]byte{command(1, named("x"), attribute(1, [16]byte{7}), attribute(2, uint64(1)))}, commands...),
		command(21)) {
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

// Commands that no kernel writes are refused before any part of them is executed.
func TestForgedCommands(t *testing.T) {
	p := newPool(t)
	made := command(3, named("f"))
	written := command(15, named("f"), attribute(18, uint64(0)), attribute(19, make([]byte, 32<<10)))
	clone := func(from, length, at uint64) []byte {
		return command(16, named("f"), attribute(18, at), attribute(24, length), attribute(20, [16]byte{7}),
			attribute(22, []byte("f")), attribute(23, from))
	}
	for what, c := range map[string]struct {
		in   io.Reader
		says string
	}{
		"device": {stream(
			command(5, named("f"), attribute(5, uint64(unix.S_IFCHR|0o600)),
				attribute(8, unix.Mkdev(239, 7))), written), "is not a file"},
		"past its end": {stream(made, written, clone(0, 64<<20, 32<<10)), "are shared with a file of 32768"},
		"over itself":  {stream(made, written, clone(0, 32<<10, 16<<10)), "with itself"},
	} {
		dir := p.create(strings.ReplaceAll(what, " ", "-"))
		err := btrfsctl.Apply(t.Context(), c.in, dir, nil)
		if !errors.Is(err, btrfsctl.ErrStream) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := btrfsctl.Apply(t.Context(), stream(made, written, clone(0, 32<<10, 32<<10)), p.create("right"),
		nil); err != nil || len(p.read("right/f")) != 64<<10 {
		t.Error(err)
	}
}

// Files of the base that are immutable or append-only (chattr +i, +a) are changed nevertheless, because they did not
// have these flags where the difference was made.
func TestProtectedInTheBase(t *testing.T) {
	p := newPool(t)
	src := p.create("src")
	for _, dir := range []string{"fixed", "log", "log/sub"} {
		require.NoError(t, os.Mkdir(filepath.Join(p.path, "src", dir), 0o700))
	}
	files := []string{"kept", "written", "appended", "fixed/gone", "fixed/moved", "log/linked"}
	for _, name := range files {
		p.write("src/"+name, "before")
	}
	scratch.Run(t, "chattr", "-R", "+i", p.path+"/src")
	scratch.Run(t, "chattr", "-R", "-i", p.path+"/src/log", p.path+"/src/appended")
	scratch.Run(t, "chattr", "-R", "+a", p.path+"/src/log", p.path+"/src/appended")
	whole := p.sent(src, "one", io.Discard)

	there := p.create("there")
	require.NoError(t, btrfsctl.Apply(t.Context(), bytes.NewReader(whole), there, nil))
	require.NoError(t, btrfsctl.Snapshot(p.dir, "came", there, true))
	// From here on, the subvolume "there" is the home. It was received from "one".
	at := filepath.Join(p.path, "there")
	for _, do := range []func() error{
		func() error { return os.WriteFile(at+"/written", []byte("after"), 0o600) },
		func() error { return os.WriteFile(at+"/appended", []byte("after"), 0o600) },
		func() error { return os.Remove(at + "/fixed/gone") },
		func() error { return os.Rename(at+"/fixed/moved", at+"/log/sub/moved") },
		func() error { return os.Remove(at + "/fixed") },
		func() error { return os.Link(at+"/log/linked", at+"/link") },
		func() error { return os.Chmod(at+"/kept", 0o640) },
		func() error { return os.WriteFile(at+"/new", []byte("new"), 0o600) },
	} {
		require.NoError(t, do())
	}
	require.NoError(t, btrfsctl.Snapshot(p.dir, "two", there, true))
	var back bytes.Buffer
	require.NoError(t, btrfsctl.Send(t.Context(), p.open("two"), p.open("came"), true, &back))
	require.NoError(t, btrfsctl.Snapshot(p.dir, "home", p.open("one"), false))
	require.NoError(t, btrfsctl.Apply(t.Context(), &back, p.open("home"), p.open("one")))
	for name, want := range map[string]string{
		"kept":          "before",
		"written":       "after",
		"appended":      "after",
		"log/sub/moved": "before",
		"link":          "before",
		"new":           "new",
	} {
		if got := p.read("home/" + name); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if _, err := os.Lstat(p.path + "/home/fixed"); !os.IsNotExist(err) {
		t.Error(err)
	}
	if got := p.read("one/fixed/gone"); got != "before" {
		t.Errorf("the base holds %q", got)
	}
}

// A difference is applied only to its base. On another subvolume, the result would be a mixture of both.
func TestDifferenceToAnotherBase(t *testing.T) {
	p := newPool(t)
	in := append([]byte("btrfs-stream\x00"), 1, 0, 0, 0)
	in = append(in,
		command(2, named("x"), attribute(1, [16]byte{7}), attribute(2, uint64(1)), attribute(20, [16]byte{9}),
			attribute(21, uint64(1)))...)
	in = append(in, command(21)...)
	if err := btrfsctl.Apply(t.Context(), bytes.NewReader(in), p.create("home"),
		p.create("base")); !errors.Is(err, btrfsctl.ErrBase) {
		t.Errorf("got %v", err)
	}
}
