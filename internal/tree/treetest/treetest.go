// Package treetest fills directories with everything that a file tree can contain, for tests of code that copies,
// snapshots or moves trees. The backend test suite calls it, and so do the tests of packages that handle trees, such as
// tree, spool and agent/move. Package backends/verify reads the list of Operations, to find out which of them a
// filesystem does not support. It has no state.
package treetest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/require"
)

// Operation is one named change of a directory. If an operation runs on two equal directories, they are equal
// afterwards too, including all times.
type Operation struct {
	Name string
	Do   func(root string) error
}

// Operations returns the operations that make a tree with everything that a tree can contain: odd bytes in names, all
// kinds of files, set-user-ID bits, attributes of all namespaces, ACLs, hard links, holes, deep and wide directories.
// It leaves out the operations named in unsupported. The operations need root, and a filesystem with ACLs and
// attributes. Run the whole list in its order.
func Operations(unsupported ...string) []Operation {
	return slices.DeleteFunc([]Operation{
		{"files of many sizes", files},
		{"odd names", names},
		{Sparse, sparse},
		{"hard links", hardLinks},
		{"symlinks", symlinks},
		{"fifos, sockets and device nodes", specials},
		{"deep and wide directories", directories},
		{"owners and modes", owners},
		{LargeIDs, largeIDs},
		{Attributes, attributes},
		{ACLs, acls},
		{"overwritten, renamed and removed files", changes},
		{Times, times},
	}, func(o Operation) bool { return slices.Contains(unsupported, o.Name) })
}

// Names of operations that some filesystems do not support.
const (
	LargeIDs   = "owners beyond 31 bits"
	Attributes = "attributes"
	ACLs       = "acls"
	Times      = "times"        // of nanoseconds
	Sparse     = "sparse files" // of terabytes, which are read quickly only if the filesystem reports holes
)

// Plant runs all operations on a directory, except those whose names are given.
func Plant(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, root string, unsupported ...string) {
	t.Helper()
	for _, op := range Operations(unsupported...) {
		require.NoErrorf(t, op.Do(root), "%s", op.Name)
	}
}

// Bytes returns n bytes that cannot be compressed. They are always the same for one seed.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// do runs steps until one fails.
func do(steps ...error) error {
	for i, err := range steps {
		if err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func files(root string) error {
	for i, size := range []int{0, 1, 511, 512, 4095, 4096, 4097, 1 << 20, 3<<20 + 17} {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprintf("file-%d", size)), Bytes(uint64(i), size),
			0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(root, "zeros"), make([]byte, 1<<20), 0o644)
}

func names(root string) error {
	dir := filepath.Join(root, "names")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{
		"new\nline", "tab\tand space ", "quote'\"`", "back\\slash", "-rf", "--help", "...", " ",
		"\xff\xfe not utf-8", "ünïcode 数据", "*?[glob]", "$(id);&|", "\x01\x1b[31m", strings.Repeat("n", 255),
		strings.Repeat("\xe6", 255),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			return err
		}
	}
	return os.Mkdir(filepath.Join(dir, "dir\nwith \xff"), 0o700)
}

// sparse makes sparse files. One of them has 1 TiB; copying it must take neither time nor space.
func sparse(root string) error {
	write := func(name string, size int64, at ...int64) error {
		f, err := os.Create(filepath.Join(root, name))
		if err != nil {
			return err
		}
		defer f.Close()
		for i, off := range at {
			if _, err := f.WriteAt(Bytes(uint64(100+i), 10_000), off); err != nil {
				return err
			}
		}
		return f.Truncate(size)
	}
	return do(
		write("sparse-empty", 64<<20),
		write("sparse-start", 64<<20, 0),
		write("sparse-middle", 64<<20+1, 1<<20, 32<<20+123),
		write("sparse-end", 64<<20, 64<<20-10_000),
		write("sparse-huge", 1<<40, 0, 1<<39),
	)
}

func hardLinks(root string) error {
	in := func(name string) string { return filepath.Join(root, name) }
	return do(
		os.Mkdir(in("links"), 0o755),
		os.WriteFile(in("links/one"), []byte("one inode, three names"), 0o640),
		os.Link(in("links/one"), in("links/two")),
		os.Link(in("links/one"), in("a-third-name")),
		os.Symlink("one", in("links/symlink")),
		os.Link(in("links/symlink"), in("links/symlink-too")),
		unix.Mkfifo(in("links/fifo"), 0o600),
		os.Link(in("links/fifo"), in("links/fifo-too")),
	)
}

func symlinks(root string) error {
	for name, to := range map[string]string{
		"relative": "../file-512", "absolute": "/etc/passwd", "dangling": "nowhere", "loop": "loop",
		"up": "../../../../../../../..", "odd": "new\nline \xff", "long": strings.Repeat("x/", 500),
	} {
		if err := os.Symlink(to, filepath.Join(root, "symlink-"+name)); err != nil {
			return err
		}
	}
	return nil
}

// specials makes a FIFO, a socket and device nodes. One of the nodes has the largest device number that XFS can store
// (fs/xfs/xfs_iops.c: 9 and 18 bits).
func specials(root string) error {
	in := func(name string) string { return filepath.Join(root, name) }
	return do(
		unix.Mknod(in("fifo"), unix.S_IFIFO|0o620, 0),
		unix.Mknod(in("socket"), unix.S_IFSOCK|0o755, 0),
		unix.Mknod(in("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(in("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(511, 262143))),
		unix.Mknod(in("whiteout"), unix.S_IFCHR, 0),
	)
}

func directories(root string) error {
	deep := filepath.Join(root, "deep")
	for range 60 {
		deep = filepath.Join(deep, strings.Repeat("d", 20))
	}
	wide := filepath.Join(root, "wide")
	if err := do(os.MkdirAll(deep, 0o755), os.WriteFile(filepath.Join(deep, "bottom"), []byte("x"), 0o600),
		os.Mkdir(wide, 0o755)); err != nil {
		return err
	}
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(wide, fmt.Sprint(i)), fmt.Append(nil, i), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func owners(root string) error {
	in := func(name string) string { return filepath.Join(root, name) }
	return do(
		os.Chown(root, 999, 998), unix.Chmod(root, 0o3750),
		os.Chown(in("file-512"), 1000, 2_000_000_000), unix.Chmod(in("file-512"), 0o6711),
		os.Lchown(in("symlink-relative"), 70_000, 70_001),
		os.Lchown(in("fifo"), 33, 33), unix.Chmod(in("fifo"), 0),
		os.Chown(in("wide"), 5, 6), unix.Chmod(in("wide"), 0o1777),
		os.Chown(in("names"), 5, 6), unix.Chmod(in("names"), 0),
		unix.Chmod(in("file-1"), 0),
	)
}

func largeIDs(root string) error {
	return os.Chown(filepath.Join(root, "wide"), 3_000_000_000, 4_000_000_000)
}

// capability is a file capability of revision 3: cap_net_raw+ep.
var capability = []byte("\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00")

func attributes(root string) error {
	set := func(name, key string, value []byte) error {
		return unix.Lsetxattr(filepath.Join(root, name), key, value, 0)
	}
	return do(
		set(".", "user.root", []byte("of the root")),
		set(".", "trusted.root", []byte{0, 1, 255}),
		set("file-511", "user.empty", nil),
		set("file-511", "user.binary", Bytes(7, 1500)),
		set("file-511", "user.a=b%3Dc%", []byte("keywords end at the first =\n")),
		set("file-511", "trusted.x", []byte("trusted")),
		set("file-511", "security.drover", []byte("security")),
		set("file-4095", "security.capability", capability),
		set("wide", "user.dir", []byte("of a directory")),
		set("symlink-dangling", "trusted.symlink", []byte("of a symlink")),
		set("fifo", "trusted.fifo", []byte("of a fifo")),
		set("char", "trusted.char", []byte("of a device node")),
	)
}

// ACL encodes a POSIX ACL as its attribute holds it (include/uapi/linux/posix_acl_xattr.h): the mode's three classes,
// one named user and the mask.
func ACL(user uint32, perm, mask uint16) []byte {
	entry := func(b []byte, tag, perm uint16, id uint32) []byte {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		return binary.LittleEndian.AppendUint32(b, id)
	}
	const none = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2)
	b = entry(b, 0x01, 6, none)
	b = entry(b, 0x02, perm, user)
	b = entry(b, 0x04, 4, none)
	b = entry(b, 0x10, mask, none)
	return entry(b, 0x20, 0, none)
}

func acls(root string) error {
	set := func(name, key string, value []byte) error {
		return unix.Setxattr(filepath.Join(root, name), key, value, 0)
	}
	const access, inherited = "system.posix_acl_access", "system.posix_acl_default"
	return do(
		set("file-4096", access, ACL(1234, 6, 6)),
		set("file-4097", access, ACL(70_000, 7, 4)),
		os.Mkdir(filepath.Join(root, "inherit"), 0o770),
		set("inherit", inherited, ACL(1234, 7, 7)),
		os.WriteFile(filepath.Join(root, "inherit/child"), []byte("inherited an acl"), 0o666),
		os.Mkdir(filepath.Join(root, "inherit/dir"), 0o777),
		set(".", inherited, ACL(4321, 5, 5)),
	)
}

func changes(root string) error {
	in := func(name string) string { return filepath.Join(root, name) }
	f, err := os.OpenFile(in("file-1048576"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(Bytes(50, 5000), 300_001)
	return do(
		err,
		f.Truncate(900_000),
		os.Rename(in("wide/7"), in("wide/seven")),
		os.Remove(in("wide/8")),
		os.Rename(in("wide/9"), in("wide/10")),
	)
}

// times gives every file and directory a different modification time, the deepest first. It runs last, because all
// other operations change times.
func times(root string) error {
	var all []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	base := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for i := len(all) - 1; i >= 0 && err == nil; i-- {
		t := base.Add(time.Duration(i)*time.Hour + time.Duration(i)*time.Nanosecond)
		if i == 3 {
			t = time.Date(1960, 1, 1, 0, 0, 0, 250_000_000, time.UTC)
		}
		ts, tErr := unix.TimeToTimespec(t)
		if tErr != nil {
			return tErr
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, all[i], []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}
