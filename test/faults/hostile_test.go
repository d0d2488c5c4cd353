package faults

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// listTree lists everything below a folder.
func listTree(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Unknown and hostile input is refused before anything is changed: paths in names, options that begin with a dash,
// impossible sizes, and unknown profiles.
func TestI6Refused(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	before := w.records(t)
	pool := listTree(t, w.poolPath(t, "default"))
	entries := w.h.Metrics(t)["drover_store_entries"]
	for _, c := range []struct {
		name    string
		options map[string]string
		says    string
	}{
		{name: "../escape", says: "bad volume name"},
		{name: "a/b", says: "bad volume name"},
		{name: "/etc/passwd", says: "bad volume name"},
		{name: "..", says: "bad volume name"},
		{name: "-rf", says: "bad volume name"},
		{name: "--help", says: "bad volume name"},
		{name: "x", says: "bad volume name"},
		{name: "", says: "volume name"},
		{name: "nul\x00byte", says: "bad volume name"},
		{name: "line\nbreak", says: "bad volume name"},
		{name: strings.Repeat("long", 100), says: "bad volume name"},
		{name: "db@", says: "profile"},
		{name: "db@../../etc", says: "profile"},
		{name: "db@-rf", says: "profile"},
		{name: "db@nosuch", says: "unknown profile"},
		{name: "db@snapshot-../../x", says: "snapshot"},
		{name: "db@snapshot-ffffffff", says: "ffffffff"},
		{name: "db", options: map[string]string{"--size": "1GiB"}, says: "unknown option"},
		{name: "db", options: map[string]string{"size": "-1GiB"}, says: "size"},
		{name: "db", options: map[string]string{"size": "1000"}, says: "size"},
		{name: "db", options: map[string]string{"fs": "-rf"}, says: "filesystem"},
		{name: "db", options: map[string]string{"pool": "../pool"}, says: "pool"},
		{name: "db", options: map[string]string{"pool": "nosuch"}, says: "nosuch"},
		{name: "db", options: map[string]string{"owner": "$(id)"}, says: "owner"},
		{name: "db", options: map[string]string{"mode": "98765"}, says: "mode"},
		{name: "db", options: map[string]string{"label.": "x"}, says: "label"},
		{name: "db", options: map[string]string{"from": "../../etc/passwd"}, says: "passwd"},
		{name: "db", options: map[string]string{"protect": "maybe"}, says: "protect"},
	} {
		t.Run(fmt.Sprintf("%.20q%v", c.name, c.options), func(t *testing.T) {
			w.says(t, w.plug.Create(c.name, c.options), "drover:", c.says)
			if c.options == nil {
				if _, err := w.plug.Mount(c.name, host.NewID()); err == nil {
					t.Error("it was mounted")
				}
				w.ok(t, w.plug.Unmount(c.name, host.NewID()))
				w.ok(t, w.plug.Remove(c.name))
			}
			if !slices.Equal(pool, listTree(t, w.poolPath(t, "default"))) || w.h.Metrics(t)["drover_store_entries"] != entries {
				t.Error("something was made")
			}
		})
	}
	for _, args := range [][]string{
		{"volume", "import", "new", "--from", "relative/nosuch"},
		{"volume", "import", "new", "--from", "/proc/self/mem"}, {"volume", "import", "new", "--from", "/nosuch"},
		{"pool", "create", "../bad", "--backend", "dir", "--path", "/x"},
		{"pool", "create", "bad", "--backend", "nosuch", "--path", "/x"}, {"pool", "adopt", "/etc"}, {"pool", "adopt", "../x"},
		{"volume", "resize", "base", "lots"}, {"volume", "resize", "base", "1MiB"}, {"snapshot", "restore", "base", "nosuch"},
	} {
		if r := w.h.Exec(t, args...); r.Exit == 0 || strings.Count(r.Err, "\n") > 1 {
			t.Errorf("drover %s: exit %d: %s%s", strings.Join(args, " "), r.Exit, r.Out, r.Err)
		}
	}
	if got := w.records(t); len(got.Datasets) != len(before.Datasets) {
		t.Errorf("datasets: %+v", got)
	}
	if _, err := os.Lstat("/x"); !os.IsNotExist(err) {
		t.Errorf("/x: %v", err)
	}
	w.kept(t)
	w.tidy(t)
}

// What a container can put into its volume does no harm outside of the volume: symbolic links that lead out, device
// nodes, and setuid programs of root.
func TestC8HostileVolume(t *testing.T) {
	for _, pool := range []string{"xfs", "dir"} {
		t.Run(pool, func(t *testing.T) {
			w := newWorld(t, host.Options{Pool: pool})
			w.make(t, "evil", "plain", "evil")
			outside := filepath.Join(w.h.Dir, "outside")
			w.ok(t, os.Mkdir(outside, 0o755))
			w.ok(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("top secret"), 0o644))
			w.plug.Within(t, "evil", func(root string) {
				w.ok(t, os.Symlink(outside, filepath.Join(root, "out")))
				w.ok(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "secret")))
				w.ok(t, os.Symlink("/", filepath.Join(root, "slash")))
				w.ok(t, unix.Mknod(filepath.Join(root, "disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
				w.ok(t, os.WriteFile(filepath.Join(root, "id"), readFile(t, "/usr/bin/id"), 0o755))
				w.ok(t, unix.Chmod(filepath.Join(root, "id"), 0o4755))
				w.harmless(t, root)
			})
			if out := w.h.Must(t, "volume", "export", "evil"); strings.Contains(out, "top secret") {
				t.Error("an export contains data from outside of the volume")
			}
			w.snapshot(t, "evil", "first")
			w.ok(t, w.plug.Create("copy@snapshot-"+w.snapshotID(t, "evil", "first"), nil))
			w.plug.Within(t, "copy", func(root string) {
				if to, err := os.Readlink(filepath.Join(root, "out")); err != nil || to != outside {
					t.Errorf("a link of the clone: %q, %v", to, err)
				}
			})
			w.volumes["copy"] = "evil"
			w.drop(t, "copy")
			w.drop(t, "evil")
			if got := string(readFile(t, filepath.Join(outside, "secret"))); got != "top secret" {
				t.Errorf("outside: %q", got)
			}
			w.tidy(t)
		})
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// harmless fails if a device node in a volume can be opened, or if anyone but root can read its contents.
func (w *world) harmless(t testing.TB, root string) {
	t.Helper()
	if f, err := os.Open(filepath.Join(root, "disk")); !errors.Is(err, unix.EACCES) {
		t.Errorf("a device node in a volume opens: %v", err)
		f.Close()
	}
	cmd := exec.Command(filepath.Join(root, "id"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("nobody runs a program of root's in a volume: %s", out)
	}
}

// What somebody puts into a pool, or mounts over a volume's mount point, is not followed and not taken for Drover's.
func TestC8Planted(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	w.make(t, "moved", "plain", "moved")
	w.make(t, "linked", "plain", "linked")
	pool := w.poolPath(t, "default")
	outside := filepath.Join(filepath.Dir(w.h.Root), "outside")
	w.ok(t, os.MkdirAll(filepath.Join(outside, "precious"), 0o755))

	// The folder of one dataset is a link to another place, and so is the image of another dataset.
	moved := filepath.Join(pool, "datasets", w.volume(t, "moved").ID.String())
	w.ok(t, os.Rename(moved, filepath.Join(outside, "moved")))
	w.ok(t, os.Symlink(filepath.Join(outside, "moved"), moved))
	image := filepath.Join(pool, "datasets", w.volume(t, "linked").ID.String(), "head.img")
	w.ok(t, os.Rename(image, filepath.Join(outside, "linked.img")))
	w.ok(t, os.Symlink(filepath.Join(outside, "linked.img"), image))
	w.ok(t, os.Symlink(outside, filepath.Join(pool, "datasets", "00000000-0000-4000-8000-000000000003")))
	w.ok(t, os.Symlink(outside, filepath.Join(pool, "incoming", "00000000-0000-4000-8000-000000000004")))
	w.ok(t, os.Symlink(outside, filepath.Join(pool, "deleting", "00000000-0000-4000-8000-000000000005")))
	before := listTree(t, outside)
	w.h.Restart(t)
	for _, name := range []string{"moved", "linked"} {
		if _, err := w.plug.Mount(name, host.NewID()); err == nil {
			t.Errorf("volume %s was mounted through a link", name)
		}
		_ = w.plug.Remove(name)                                       // refused for a link that Drover did not make
		w.submit(t, api.Request{Kind: dataset.OpPurge, Volume: name}) //nolint:errcheck // it may well fail; what it does not destroy counts
	}
	for _, id := range []string{"3", "4", "5"} {
		w.h.Exec(t, "doctor", "--gc", "00000000-0000-4000-8000-00000000000"+id, "--yes")
	}
	w.h.Restart(t)
	if after := listTree(t, outside); !slices.Equal(before, after) {
		t.Errorf("outside: %v, then %v", before, after)
	}
	w.holds(t, "base", "base")
}

// Something else is mounted over a volume, and inside of it. An unmount removes Drover's mount, or says that it
// cannot.
func TestC8MountedOver(t *testing.T) {
	w := newWorld(t, host.Options{})
	w.make(t, "base", "plain", "base")
	id := host.NewID()
	root, err := w.plug.Mount("base", id)
	w.ok(t, err)
	inside := filepath.Join(root, "inside")
	w.ok(t, os.Mkdir(inside, 0o755))
	w.ok(t, unix.Mount("over", inside, "tmpfs", 0, ""))
	w.says(t, w.plug.Unmount("base", id), "base", "still uses")
	w.h.Clean(t, "no recorded use")
	w.ok(t, unix.Unmount(inside, 0))
	w.holds(t, "base", "base") // the last one unmounts it
	if left := w.mounted(t); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}

	root, err = w.plug.Mount("base", id)
	w.ok(t, err)
	w.ok(t, unix.Mount("over", root, "tmpfs", 0, ""))
	_ = w.plug.Unmount("base", id)
	_ = unix.Unmount(root, 0)
	w.h.Restart(t)
	w.holds(t, "base", "base")
	w.tidy(t)
}

// An archive that would write outside of its volume, or that claims something impossible, makes no volume.
func TestC8HostileArchive(t *testing.T) {
	w := newWorld(t, host.Options{})
	outside := filepath.Join(scratch.Mount(t, "ext4", scratch.Ext4), "outside")
	w.ok(t, os.Mkdir(outside, 0o755))
	file := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 4}
	}
	link := func(typ byte, name, to string) tar.Header {
		return tar.Header{Typeflag: typ, Name: name, Linkname: to, Mode: 0o777}
	}
	for what, headers := range map[string][]tar.Header{
		"upwards":            {file("../../../../../../../../.." + outside + "/escaped")},
		"absolute":           {file(outside + "/escaped")},
		"through a link":     {link(tar.TypeSymlink, "dir", outside), file("dir/escaped")},
		"through links":      {link(tar.TypeSymlink, "a", ".."), link(tar.TypeSymlink, "b", "a/.."), file("b/escaped")},
		"hard link upwards":  {link(tar.TypeLink, "hard", "../../../../../../etc/passwd")},
		"hard link absolute": {link(tar.TypeLink, "hard", "/etc/passwd")},
		"endless":            {{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644, Size: 1 << 62}},
		"cut off":            {{Typeflag: tar.TypeReg, Name: "cut", Mode: 0o644, Size: 1 << 20}},
	} {
		t.Run(what, func(t *testing.T) {
			var b bytes.Buffer
			tw := tar.NewWriter(&b)
			for _, h := range headers {
				w.ok(t, tw.WriteHeader(&h))
				if h.Size > 0 {
					_, err := tw.Write([]byte("evil"))
					w.ok(t, err)
				}
			}
			r := w.h.ExecIn(t, b.Bytes(), "volume", "import", "new", "--from", "-")
			if r.Exit == 0 && strings.HasPrefix(what, "absolute") {
				// Taken relative to the volume's root, as tar(1) does.
				w.drop(t, "new")
			} else if r.Exit == 0 {
				t.Errorf("it was imported: %s", r.Out)
			}
			if left := names(t, outside); len(left) > 0 {
				t.Errorf("outside: %v", left)
			}
			w.listed(t)
			w.tidy(t)
		})
	}
}
