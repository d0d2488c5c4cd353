package faults

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// TestBadPools gives each backend a place that cannot be a pool, and sizes that are impossible. They are refused with
// the reason and the remedy, and nothing is changed.
func TestBadPools(t *testing.T) {
	disks := map[string]string{"xfs": scratch.Mount(t, "xfs", 4<<30), "btrfs": scratch.Mount(t, "btrfs", 4<<30), "ext4": scratch.Mount(t, "ext4", 4<<30)}
	for name, disk := range disks {
		ok(t, os.MkdirAll(filepath.Join(disk, "full/sub"), 0o700))
		ok(t, os.WriteFile(filepath.Join(disk, "full/sub/file"), []byte(name), 0o600))
		ok(t, os.WriteFile(filepath.Join(disk, "file"), []byte(name), 0o600))
		ok(t, os.Symlink("full", filepath.Join(disk, "link")))
		ok(t, os.MkdirAll(filepath.Join(disk, "engine/volumes/mine"), 0o700))
		ok(t, os.WriteFile(filepath.Join(disk, "engine/engine-id"), []byte("8b2d…"), 0o600))
		ok(t, os.Mkdir(filepath.Join(disk, "again"), 0o700))
	}
	scratch.Quota(t, disks["btrfs"], "full")
	h := host.Start(t, host.Options{Pool: "xfs"})
	type pool struct{ backend, on, wrong string } // a disk that suits the backend, and one that does not
	pools := []pool{{"loop", "xfs", "ext4"}, {"dir", "ext4", ""}, {"btrfs", "btrfs", "xfs"}}
	for _, p := range pools {
		disk := disks[p.on]
		h.Must(t, "pool", "create", "have-"+p.backend, "--backend", p.backend, "--path", disk+"/have")
		bind(t, disk, disk+"/again") // another path to the same pool
	}
	before := everything(t, h, disks)
	for _, p := range pools {
		disk := disks[p.on]
		for path, want := range map[string]string{
			disk + "/missing/pool":          "no such directory: " + disk + "/missing (create it first)",
			disk + "/full":                  "expected an empty directory|use an empty or a new directory",
			disk + "/file":                  "is not a directory",
			disk + "/link":                  "is not a directory",
			disk + "/have":                  "overlaps with pool have-" + p.backend + " at " + disk + "/have",
			disk + "/have/inside":           "overlaps with pool have-" + p.backend,
			disk:                            "overlaps with pool have-" + p.backend,
			disk + "/again/have":            "pool ",
			disk + "/again/have/inside":     "whose folder is " + disk + "/again/have: choose a path outside of it",
			disk + "/engine/volumes":        "is inside " + disk + "/engine, where a container engine keeps its data, and may remove it: choose a path outside of it",
			disk + "/engine/volumes/mine/p": "is inside " + disk + "/engine, where a container engine",
			h.Root + "/mnt/pool":            "is inside " + h.Root + "/mnt, where volumes are mounted",
		} {
			noPool(t, h, want, api.NewPool{Backend: p.backend, Path: path})
		}
		if p.wrong != "" {
			noPool(t, h, p.wrong, api.NewPool{Backend: p.backend, Path: disks[p.wrong] + "/new"})
		}
		if p.backend != "loop" {
			noPool(t, h, "not in an image: omit the size", api.NewPool{Backend: p.backend, Path: disk + "/new", Image: "600MiB"})
		}
	}
	image := func(path, size, want string) {
		t.Helper()
		noPool(t, h, want, api.NewPool{Backend: "loop", Path: path, Image: size})
	}
	ext4 := disks["ext4"]
	image(ext4+"/new.img", "1MiB", "an image of 1MiB is too small for a pool (at least 512MiB)")
	image(ext4+"/new.img", "1TiB", "free: too little for 1TiB")
	image(ext4+"/missing/new.img", "600MiB", "no such directory: "+ext4+"/missing (create it first)")
	image(ext4+"/file", "600MiB", "use a new file")
	image(ext4+"/engine/new.img", "600MiB", "where a container engine")
	image(ext4+"/have/new.img", "600MiB", "overlaps with pool have-dir")
	image(ext4+"/again/have/new.img", "600MiB", "choose a path outside of it")
	refused(t, h, `unknown backend "lop" (available: `, "pool", "create", "new", "--backend", "lop", "--path", ext4+"/new")

	for pool, sizes := range map[string]map[string]string{
		"have-loop":  {"1MiB": "1MiB is too small for ext4, which needs 16MiB", "5GiB": "pool have-loop cannot satisfy profile bronze: it has 3.9"},
		"have-btrfs": {"1MiB": "1MiB is too small for a subvolume (at least 16MiB)", "5GiB": "GiB in all, less than 5GiB", "6GiB": "(pool default of node host-a could)"},
		"have-dir": {"5GiB": "pool have-dir cannot satisfy profile bronze: it cannot enforce a size: on its " +
			"node sizes need "},
	} {
		for size, want := range sizes {
			refused(t, h, want, "volume", "create", "new", "-o", "pool="+pool, "-o", "size="+size)
		}
	}
	if after := everything(t, h, disks); after != before {
		t.Errorf("something was changed\nbefore: %s\nafter:  %s", before, after)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	ok(t, unix.Mount(from, to, "", unix.MS_BIND, ""))
	t.Cleanup(func() { ok(t, unix.Unmount(to, 0)) })
}

// noPool expects that a pool is not made, with one of the texts in the error.
func noPool(t *testing.T, h *host.Host, want string, p api.NewPool) {
	t.Helper()
	c := h.Client(t)
	defer c.Close()
	p.Name = "new"
	if made, err := c.CreatePool(t.Context(), p); err == nil {
		t.Errorf("%+v was made: %+v", p, made)
	} else if strings.Contains(err.Error(), "\n") || !slices.ContainsFunc(strings.Split(want, "|"), func(text string) bool { return strings.Contains(err.Error(), text) }) {
		t.Errorf("%+v says %q, want %q", p, err, want)
	}
}

// refused expects one line of error with a text.
func refused(t *testing.T, h *host.Host, want string, args ...string) {
	t.Helper()
	r := h.Exec(t, args...)
	line := strings.Join(strings.Fields(r.Err), " ") // a program that a message quotes may break its lines
	if r.Exit == 0 || strings.Count(r.Err, "drover: ") != 1 || !strings.Contains(line, want) {
		t.Errorf("%q: exit %d: %s%s, want %q", args, r.Exit, r.Out, r.Err, want)
	}
}

// everything lists what is on the disks and what is on record.
func everything(t *testing.T, h *host.Host, disks map[string]string) string {
	t.Helper()
	var all []string
	for _, name := range []string{"btrfs", "ext4", "xfs"} {
		ok(t, filepath.WalkDir(disks[name], func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Name() == "again" {
				err = fs.SkipDir
			}
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err == nil {
				all = append(all, fmt.Sprintf("%s %v %s", path, info.Mode(), info.ModTime()))
			}
			return err
		}))
	}
	return strings.Join(all, "\n") + h.Must(t, "pool", "ls", "-q") + h.Must(t, "volume", "ls", "-q")
}
