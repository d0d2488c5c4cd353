package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// plantForTar fills a tree with everything that tar supports. Its largest file is smaller than that of treetest,
// because readers of tar read holes byte by byte.
func plantForTar(t testing.TB) *os.File {
	t.Helper()
	src := mkdir(t, t.TempDir(), "src")
	treetest.Plant(t, src.Name())
	in := func(name string) string { return filepath.Join(src.Name(), name) }
	require.NoError(t, os.Truncate(in("sparse-huge"), 10<<30))
	require.NoError(t, os.Remove(in("socket")))
	for _, name := range []string{"sparse-huge", "."} {
		ts := []unix.Timespec{{Sec: 12, Nsec: 34}, {Sec: 56, Nsec: 78}}
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), ts, 0))
	}
	return src
}

func TestTarKeepsEverything(t *testing.T) {
	src := plantForTar(t)
	var stream bytes.Buffer
	require.NoError(t, WriteTar(t.Context(), src, &stream))
	if stream.Len() > 20<<20 {
		t.Errorf("stream has %d bytes: holes were written", stream.Len())
	}
	again := sha(t, src)
	if again != sha256.Sum256(stream.Bytes()) {
		t.Error("two streams of one tree differ")
	}
	dst := mkdir(t, t.TempDir(), "dst")
	require.NoError(t, ReadTar(t.Context(), &stream, dst, WithSync()))
	wantEqual(t, src, dst)
	a, err := Usage(t.Context(), src)
	require.NoError(t, err)
	b, err := Usage(t.Context(), dst)
	require.NoError(t, err)
	if b.Bytes > a.Bytes*11/10 {
		t.Errorf("unpacked takes %d bytes, the source %d", b.Bytes, a.Bytes)
	}
}

func TestGNUTarReadsWhatWeWrite(t *testing.T) {
	src, dst := plantForTar(t), mkdir(t, t.TempDir(), "dst")
	tarx := exec.Command("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", dst.Name())
	in, err := tarx.StdinPipe()
	require.NoError(t, err)
	var stderr strings.Builder
	tarx.Stderr = &stderr
	require.NoError(t, tarx.Start())
	wErr := WriteTar(t.Context(), src, in)
	in.Close()
	if err := tarx.Wait(); err != nil || wErr != nil {
		t.Fatalf("%v, %v: %s", err, wErr, stderr.String())
	}
	wantEqual(t, src, dst)
}

func TestWeReadWhatGNUTarWrites(t *testing.T) {
	src := plantForTar(t)
	for _, format := range []string{"--format=pax", "--format=gnu"} {
		t.Run(format, func(t *testing.T) {
			dst := mkdir(t, t.TempDir(), "dst")
			args := []string{"--numeric-owner", "--sparse", format, "-cf", "-", "-C", src.Name(), "."}
			if format == "--format=pax" {
				args = append([]string{"--xattrs", "--xattrs-include=*"}, args...)
			}
			tarc := exec.Command("tar", args...)
			out, err := tarc.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, tarc.Start())
			require.NoError(t, ReadTar(t.Context(), out, dst))
			require.NoError(t, tarc.Wait())
			found, err := Compare(t.Context(), src, dst)
			require.NoError(t, err)
			for _, d := range found {
				// GNU tar supports hard links only of files and symbolic links. Its old format has times in whole
				// seconds, and no attributes.
				if d.Path == "links/fifo-too" {
					continue
				}
				lost := d.What == "modification time" || strings.HasPrefix(d.What, "attribute")
				if format == "--format=pax" || !lost {
					t.Error(d)
				}
			}
		})
	}
}

func TestTarLeavesSocketsOut(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	require.NoError(t, unix.Mknod(filepath.Join(src.Name(), "mysql.sock"), unix.S_IFSOCK|0o600, 0))
	require.NoError(t, os.Link(filepath.Join(src.Name(), "mysql.sock"), filepath.Join(src.Name(), "too")))
	var skipped []string
	var stream bytes.Buffer
	require.NoError(t, WriteTar(t.Context(), src, &stream, WithSkipped(func(p string) { skipped = append(skipped, p) })))
	if !cmp.Equal(skipped, []string{"mysql.sock", "too"}) {
		t.Errorf("skipped %q", skipped)
	}
	require.NoError(t, ReadTar(t.Context(), &stream, dst))
	if got := listing(t, dst.Name()); len(got) != 0 {
		t.Errorf("unpacked %q", got)
	}
}

// An archive for ReadTar loses nothing: it contains sockets, and the holes of a file of 1 TiB are not read.
func TestForReadTarKeepsEverything(t *testing.T) {
	src, dst := mkdir(t, t.TempDir(), "src"), mkdir(t, t.TempDir(), "dst")
	treetest.Plant(t, src.Name())
	require.NoError(t, os.Link(filepath.Join(src.Name(), "socket"), filepath.Join(src.Name(), "socket-too")))
	skipped := func(p string) { t.Errorf("%q was left out", p) }
	var stream bytes.Buffer
	require.NoError(t, WriteTar(t.Context(), src, &stream, ForReadTar(), WithSkipped(skipped)))
	if stream.Len() > 20<<20 {
		t.Errorf("stream has %d bytes: holes were written", stream.Len())
	}
	require.NoError(t, ReadTar(t.Context(), bytes.NewReader(stream.Bytes()), dst))
	wantEqual(t, src, dst)
	found, err := Compare(t.Context(), src, dst)
	if err != nil || len(found) > 0 {
		t.Errorf("differ: %v, %v", found, err)
	}
}

// Invalid maps of sparse files are refused.
func TestForgedMaps(t *testing.T) {
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		size    string
		numbers []int64
		data    int
	}{
		"no size":         {"x", []int64{0}, 0},
		"negative size":   {"-1", []int64{0}, 0},
		"negative count":  {"100", []int64{-1}, 0},
		"huge count":      {"100", []int64{1 << 40}, 0},
		"beyond the end":  {"100", []int64{1, 90, 11}, 11},
		"wraps around":    {"100", []int64{1, 90, 1<<63 - 1}, 11},
		"negative offset": {"100", []int64{1, -1, 1}, 1},
		"negative length": {"100", []int64{1, 5, -1}, 0},
		"backwards":       {"100", []int64{2, 50, 10, 0, 10}, 20},
		"overlapping":     {"100", []int64{2, 0, 10, 5, 10}, 20},
		"less data":       {"100", []int64{1, 0, 50}, 20},
		"more data":       {"100", []int64{1, 0, 10}, 20},
		"no map":          {"100", nil, 4},
	} {
		t.Run(name, func(t *testing.T) {
			var data []byte
			for _, n := range c.numbers {
				data = le.AppendUint64(data, uint64(n))
			}
			data = append(data, make([]byte, c.data)...)
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			h := tar.Header{
				Typeflag:   tar.TypeReg,
				Name:       "f",
				Mode:       0o600,
				Size:       int64(len(data)),
				PAXRecords: map[string]string{paxSparse: c.size},
			}
			require.NoError(t, w.WriteHeader(&h))
			_, err := w.Write(data)
			require.NoError(t, errors.Join(err, w.Close()))
			wantKind(t, ReadTar(t.Context(), &buf, mkdir(t, t.TempDir(), "dst")), dataset.ErrCorrupt)
		})
	}
}

func TestManyRangesAreJoined(t *testing.T) {
	var data []extent
	for i := range int64(3 * maxRanges) {
		data = append(data, extent{i * 20_000, i*20_000 + 4096})
	}
	got := coalesce(data)
	if len(got) > maxRanges || got[0].off != 0 || got[len(got)-1].end != data[len(data)-1].end {
		t.Errorf("%d ranges from %v to %v", len(got), got[0], got[len(got)-1])
	}
}

// archive makes a tar stream of entries.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.Size = 0
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		require.NoError(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write([]byte("evil"))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func TestReadTarRefusesEscapes(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
	symlink := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for name, entries := range map[string][]tar.Header{
		"absolute":                       {file("/tmp/evil")},
		"dot dot":                        {file("../evil")},
		"dot dot inside":                 {dir("a"), file("a/../../evil")},
		"dot dot at the end":             {dir("a/..")},
		"through a symlink":              {symlink("s", ".."), file("s/evil")},
		"through an absolute symlink":    {symlink("s", "/"), file("s/evil")},
		"through a symlink to itself":    {dir("real"), symlink("s", "real"), file("s/evil")},
		"through two":                    {dir("a"), symlink("a/s", "../.."), file("a/s/evil")},
		"directory over a symlink":       {symlink("s", ".."), dir("s")},
		"directory entry via symlink":    {symlink("s", ".."), dir("s/evil")},
		"hard link absolute":             {link("l", "/etc/passwd")},
		"hard link dot dot":              {link("l", "../canary")},
		"hard link via symlink":          {symlink("s", ".."), link("l", "s/canary")},
		"hard link to nothing":           {link("l", "nothing")},
		"below a file":                   {file("f"), file("f/evil")},
		"below a device":                 {{Typeflag: tar.TypeChar, Name: "c"}, file("c/evil")},
		"root is a symlink":              {symlink(".", "..")},
		"hard link to symlink, below it": {symlink("s", ".."), link("l", "s"), file("l/evil")},
		"hard link to a directory":       {dir("d"), link("l", "d")},
		"symlink without a target":       {symlink("s", "")},
		"file over a directory":          {dir("d"), file("d")},
		"directory over a file":          {file("f"), dir("f")},
		"name too long":                  {file(strings.Repeat("x", 300))},
		"directory's name too long":      {file(strings.Repeat("x", 300) + "/f")},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(outer, "canary"), []byte("alive"), 0o600))
			dst := mkdir(t, outer, "dst")
			err := ReadTar(t.Context(), bytes.NewReader(archive(t, entries...)), dst)
			wantKind(t, err, dataset.ErrInvalid)
			wantUntouched(t, outer)
		})
	}
}

// If the filesystem does not support an attribute, the error says so. This also applies to the root.
func TestReadTarOfABadAttribute(t *testing.T) {
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{paxXattr + "system.posix_acl_access": "junk"}},
		{Typeflag: tar.TypeDir, Name: ".", PAXRecords: map[string]string{paxXattr + "system.posix_acl_access": "junk"}},
	} {
		err := ReadTar(t.Context(), bytes.NewReader(archive(t, h)), mkdir(t, t.TempDir(), "dst"))
		wantKind(t, err, dataset.ErrUnsupported)
		if want := fmt.Sprintf("unpack %q: set attribute", h.Name); !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// wantUntouched fails the test unless a directory contains only "dst" and an unchanged canary file.
func wantUntouched(t testing.TB, outer string) {
	t.Helper()
	if got := listing(t, outer); !cmp.Equal(got, []string{"canary", "dst"}) {
		t.Errorf("outside lies %q", got)
	}
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(filepath.Join(outer, "canary"), &st))
	if b, err := os.ReadFile(filepath.Join(outer, "canary")); err != nil || string(b) != "alive" || st.Nlink != 1 ||
		st.Mode != unix.S_IFREG|0o600 {
		t.Errorf("the canary is %q, %+v, %v", b, st, err)
	}
}

func TestReadTarReplacesEarlierEntries(t *testing.T) {
	dst := mkdir(t, t.TempDir(), "dst")
	require.NoError(t, ReadTar(t.Context(), bytes.NewReader(archive(t,
		tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/etc/passwd"},
		tar.Header{Typeflag: tar.TypeReg, Name: "a"},
		tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/x/y/f"},
		tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o2711, Uid: 7},
	)), dst))
	if b, err := os.ReadFile(filepath.Join(dst.Name(), "a")); err != nil || string(b) != "evil" {
		t.Errorf("a is %q, %v", b, err)
	}
	for name, want := range map[string]uint32{"d": 0o42711, "d/x": 0o40755, "d/x/y": 0o40755} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(dst.Name(), name), &st))
		if st.Mode != want {
			t.Errorf("%s has mode %o, want %o", name, st.Mode, want)
		}
	}
}

// Nothing gets the default ACL or the group of the directory that it is unpacked into. A later entry of a directory
// replaces the attributes of an earlier one. The times of a directory are those of its entry.
func TestReadTarInheritsNothing(t *testing.T) {
	when := time.Unix(12, 34)
	parent := func(records map[string]string) tar.Header {
		return tar.Header{
			Typeflag: tar.TypeDir, Name: "d", Mode: 0o2777, Gid: 7, ModTime: when,
			Format: tar.FormatPAX, PAXRecords: records,
		}
	}
	first := parent(map[string]string{paxXattr + "user.old": "x", paxXattr + aclDefault: string(treetest.ACL(1, 7, 7))})
	last := parent(map[string]string{paxXattr + aclDefault: string(treetest.ACL(2, 7, 7))})
	dst := mkdir(t, t.TempDir(), "dst")
	require.NoError(t, ReadTar(t.Context(), bytes.NewReader(archive(t, first,
		tar.Header{Typeflag: tar.TypeReg, Name: "d/file", Mode: 0o640},
		tar.Header{Typeflag: tar.TypeFifo, Name: "d/fifo", Mode: 0o600},
		tar.Header{Typeflag: tar.TypeDir, Name: "d/dir", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "d/implied/file"}, last,
		tar.Header{Typeflag: tar.TypeSymlink, Name: "d/link", Linkname: "file"},
	)), dst))
	d := filepath.Join(dst.Name(), "d")
	for name, want := range map[string]uint32{"file": unix.S_IFREG | 0o640, "fifo": unix.S_IFIFO | 0o600,
		"dir": unix.S_IFDIR | 0o700, "implied": unix.S_IFDIR | 0o755, "implied/file": unix.S_IFREG | 0o644} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(d, name), &st))
		xs, err := readXattrs(filepath.Join(d, name))
		require.NoError(t, err)
		if st.Mode != want || st.Gid != 0 || len(xs) > 0 {
			t.Errorf("%s has mode %o and group %d, want %o and 0, and attributes %q", name, st.Mode, st.Gid, want, xs)
		}
	}
	xs, err := readXattrs(d)
	require.NoError(t, err)
	if len(xs) != 1 || xs[0].name != aclDefault || !bytes.Equal(xs[0].value, treetest.ACL(2, 7, 7)) {
		t.Errorf("the directory has attributes %q", xs)
	}
	if info, err := os.Lstat(d); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("the directory is %v, %v", info, err)
	}
}

func TestReadTarRefusesCutAndDamagedStreams(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src")
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "a"), make([]byte, 3000), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "b"), nil, 0o600))
	require.NoError(t, os.Truncate(filepath.Join(src.Name(), "b"), 1<<20))
	var stream bytes.Buffer
	require.NoError(t, WriteTar(t.Context(), src, &stream))
	read := func(r io.Reader) error { return ReadTar(t.Context(), r, mkdir(t, t.TempDir(), "dst")) }
	require.NoError(t, read(bytes.NewReader(stream.Bytes())))
	for cut := 0; cut < stream.Len(); cut += 256 {
		if err := read(bytes.NewReader(stream.Bytes()[:cut])); !errors.Is(err, dataset.ErrCorrupt) {
			t.Fatalf("cut at %d of %d: %v", cut, stream.Len(), err)
		}
	}
	wantKind(t, read(io.MultiReader(bytes.NewReader(stream.Bytes()), strings.NewReader("more"))), dataset.ErrCorrupt)
	broken := errors.New("connection reset")
	if err := read(io.MultiReader(bytes.NewReader(stream.Bytes()[:700]), errReader{broken})); !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the source", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// An archive of some kilobytes can have a hole that takes years to read as zeros. Smaller holes are unpacked.
func TestReadTarRefusesHugeHoles(t *testing.T) {
	disk := scratch.Mount(t, "xfs", scratch.XFS)
	for size, kind := range map[int64]*dataset.Kind{1 << 60: dataset.ErrUnsupported, 1 << 33: nil} {
		src, dst := mkdir(t, disk, fmt.Sprint("src", size)), mkdir(t, disk, fmt.Sprint("dst", size))
		require.NoError(t, os.WriteFile(filepath.Join(src.Name(), "f"), nil, 0o600))
		require.NoError(t, os.Truncate(filepath.Join(src.Name(), "f"), size))
		var b bytes.Buffer
		require.NoError(t, WriteTar(t.Context(), src, &b))
		if err := ReadTar(t.Context(), &b, dst); dataset.KindOf(err) != kind {
			t.Errorf("a hole of %d bytes: %v", size, err)
		}
	}
}

func TestReadTarRefusesTextACLs(t *testing.T) {
	h := tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-"}}
	err := ReadTar(t.Context(), bytes.NewReader(archive(t, h)), mkdir(t, t.TempDir(), "dst"))
	wantKind(t, err, dataset.ErrUnsupported)
}

func FuzzReadTar(f *testing.F) {
	f.Add(
		archive(f, tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{
			Typeflag: tar.TypeLink,
			Name:     "b",
			Linkname: "a",
		}))
	f.Add(
		archive(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: ".."}, tar.Header{
			Typeflag: tar.TypeReg,
			Name:     "s/x",
		}))
	f.Add(
		archive(f, tar.Header{
			Typeflag:   tar.TypeDir,
			Name:       "d/",
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"},
		}))
	src := mkdir(f, f.TempDir(), "src")
	require.NoError(f, os.WriteFile(filepath.Join(src.Name(), "sparse"), []byte("x"), 0o600))
	require.NoError(f, os.Truncate(filepath.Join(src.Name(), "sparse"), 1<<20))
	var sparse bytes.Buffer
	require.NoError(f, WriteTar(context.Background(), src, &sparse))
	f.Add(sparse.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		outer := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(outer, "canary"), []byte("alive"), 0o600))
		dst := mkdir(t, outer, "dst")
		// A hole of 8 EiB needs few bytes of the stream, and reading it would never end.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := ReadTar(ctx, bytes.NewReader(stream), dst)
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("error has several lines: %q", err)
		}
		wantUntouched(t, outer)
	})
}

func sha(t testing.TB, src *os.File) [32]byte {
	t.Helper()
	var stream bytes.Buffer
	require.NoError(t, WriteTar(t.Context(), src, &stream))
	return sha256.Sum256(stream.Bytes())
}

func TestBlocksOfZerosAreNotWritten(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	buf := make([]byte, 10*block+7)
	buf[2*block] = 1
	buf[3*block+5] = 1
	buf[8*block-1] = 1
	buf[10*block+6] = 1
	require.NoError(t, writeNonZero(f, buf, 3*block))
	got, whole, err := extents(f, 3*block+int64(len(buf)))
	require.NoError(t, err)
	want := []extent{{5 * block, 7 * block}, {10 * block, 11 * block}, {13 * block, 13*block + 7}}
	if whole || !cmp.Equal(got, want, cmp.AllowUnexported(extent{})) {
		t.Errorf("data lies at %v, want %v", got, want)
	}
}
