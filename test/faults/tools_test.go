package faults

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// TestWithoutTools runs drover without any of the programs that backends call. A backend that needs a program names
// it and the command that installs it, and the other backends work.
func TestWithoutTools(t *testing.T) {
	h := host.Start(t, host.Options{Pool: "subvolumes", Env: []string{"PATH=/nowhere"}})
	h.Must(t, "volume", "create", "db", "-o", "size=100MiB")
	h.Must(t, "snapshot", "create", "db")
	h.Must(t, "pool", "create", "plain", "--backend", "dir", "--path", h.Root+"/plain")
	h.Must(t, "volume", "create", "files", "-o", "pool=plain")
	said := map[string]string{}
	for _, f := range h.Findings(t) {
		if name, is := strings.CutPrefix(f.Subject, "backend "); is {
			said[name] = f.Level + ": " + f.Text
		}
	}
	for name, wants := range map[string][]string{
		"loop":  {"info: cannot work on this host", "apt-get install xfsprogs", "apt-get install e2fsprogs"},
		"lvm":   {"info: cannot work on this host", "apt-get install lvm2 thin-provisioning-tools"},
		"nfs":   {}, // depends on the kernel, which no package mends
		"zfs":   {"info: cannot work on this host", "apt-get install zfsutils-linux"},
		"dir":   {"ok: works"},
		"btrfs": {"ok: works"},
	} {
		for _, want := range wants {
			if !strings.Contains(said[name], want) {
				t.Errorf("of %s doctor says %q, want %q", name, said[name], want)
			}
		}
		delete(said, name)
	}
	for name, text := range said { // that was added later
		if !strings.HasPrefix(text, "ok: ") && !strings.Contains(text, "apt-get install ") && !strings.Contains(text, "modprobe ") {
			t.Errorf("for %s doctor says %q: without a command that installs it", name, text)
		}
	}
	refused(t, h, "apt-get install xfsprogs", "pool", "create", "new", "--backend", "loop", "--path", h.Root+"/new")
	refused(t, h, "apt-get install zfsutils-linux", "pool", "create", "new", "--backend", "zfs", "--path", h.Root+"/new")
	refused(t, h, "apt-get install lvm2", "pool", "create", "new", "--backend", "lvm", "--path", "/dev/none")
	disk := scratch.Disk(t, 1<<30)
	refused(t, h, "apt-get install btrfs-progs", "pool", "create", "new", "--backend", "btrfs", "--device", disk)
	refused(t, h, "apt-get install xfsprogs", "pool", "create", "new", "--backend", "dir", "--device", disk)
	if content, err := fsctl.Identify(disk); err != nil || content != fsctl.Empty {
		t.Errorf("the device has %s, %v", content, err)
	}
}

// TestToolsThatGo has a host with only the programs that its default pool needs, and then without these. A request
// for more is refused with the missing program and the command, and nothing of it is made. A pool whose programs were
// removed serves its volumes, and makes nothing new until they are installed again.
func TestToolsThatGo(t *testing.T) {
	bin, key := t.TempDir(), filepath.Join(t.TempDir(), "gold")
	ok(t, os.WriteFile(key, []byte(strings.Repeat("gold key", 8)), 0o600))
	mkfs, err := exec.LookPath("mkfs.ext4")
	ok(t, err)
	ok(t, os.Symlink(mkfs, bin+"/mkfs.ext4"))
	h := host.Start(t, host.Options{
		Env:      []string{"PATH=" + bin},
		Profiles: "default: plain\nprofiles:\n  plain: {}\n  small: {}\n  gold: {size: 100MiB, encryption: {key_file: " + key + "}}\n  xfs: {size: 1GiB, filesystem: {type: xfs}}\n",
	})
	h.Must(t, "volume", "create", "db", "-o", "size=100MiB")
	h.Must(t, "pool", "create", "plain", "--backend", "dir", "--path", h.Root+"/plain")
	before := poolContents(t, h)
	refused(t, h, "cryptsetup (apt-get install cryptsetup-bin), and then a restart of drover", "volume", "create", "new@gold") // after what the kernel lacks, if it lacks anything
	refused(t, h, "on its node xfs needs mkfs.xfs (apt-get install xfsprogs)", "volume", "create", "new@xfs")
	refused(t, h, "apt-get install xfsprogs", "pool", "create", "new", "--backend", "loop", "--path", h.Root+"/new.img", "--image", "1GiB")
	if after := poolContents(t, h); after != before {
		t.Errorf("something was changed\nbefore: %s\nafter:  %s", before, after)
	}
	doctor := h.Exec(t, "doctor", "-v").Out
	for _, want := range []string{"cryptsetup (apt-get install cryptsetup-bin)", "xfs needs mkfs.xfs (apt-get install xfsprogs)"} {
		if !strings.Contains(doctor, want) {
			t.Errorf("doctor says\n%s, and not %q", doctor, want)
		}
	}

	ok(t, os.Remove(bin+"/mkfs.ext4"))
	refused(t, h, "apt-get install e2fsprogs", "volume", "create", "new", "-o", "size=120MiB")
	h.Restart(t)
	before = poolContents(t, h)
	for _, what := range [][]string{{"-o", "pool=default"}, {"-o", "fs=ext4"}, {"-o", "fs=xfs"}} {
		refused(t, h, "apt-get install ", append([]string{"volume", "create", "new"}, what...)...)
	}
	if after := poolContents(t, h); after != before {
		t.Errorf("something was changed\nbefore: %s\nafter:  %s", before, after)
	}
	findings := h.Exec(t, "doctor", "-v")
	if said := findings.Out; findings.Exit != 1 || !strings.Contains(said, "existing pools work on this host, but new ones cannot be created: no filesystem for the images") || !strings.Contains(said, "apt-get install e2fsprogs") {
		t.Errorf("doctor says\n%s", said)
	}
	var pools []api.Pool
	h.JSON(t, &pools, "pool", "ls")
	for _, p := range pools {
		if p.Backend == "loop" && (len(p.Capabilities.Filesystems) > 0 || !slices.Equal(p.AcceptedFilesystems, []string{"xfs", "ext4"})) {
			t.Errorf("pool %s makes %v, and what is moved there can have %v", p.Name, p.Capabilities.Filesystems, p.AcceptedFilesystems)
		}
	}
	h.Must(t, "snapshot", "create", "db", "--name", "one")
	h.Must(t, "clone", "db", "copy")
	h.Must(t, "volume", "set-profile", "db", "small")
	h.Must(t, "volume", "export", "db")
	h.Must(t, "volume", "rm", "db")
	h.Must(t, "volume", "create", "files", "-o", "pool=plain")
	ok(t, os.Symlink(mkfs, bin+"/mkfs.ext4"))
	h.Must(t, "volume", "create", "new", "-o", "pool=default")
}

// TestReloadSaysWhichKeysAreMissing reloads a profile whose key is missing. The log says so, as at a start.
func TestReloadSaysWhichKeysAreMissing(t *testing.T) {
	key := filepath.Join(t.TempDir(), "gold")
	h := host.Start(t, host.Options{Profiles: "default: plain\nprofiles:\n  plain: {}\n"})
	gold := "default: plain\nprofiles:\n  plain: {}\n  gold: {encryption: {key_file: " + key + "}}\n"
	ok(t, os.WriteFile(filepath.Join(h.Dir, "profiles.yaml"), []byte(gold), 0o600))
	ok(t, unix.Kill(h.PID(), unix.SIGHUP))
	host.Await(t, "the log says that the key is missing", func() error {
		for line := range strings.Lines(h.Log()) {
			if strings.Contains(line, "key file "+key+" not found") && strings.Contains(line, "profiles that cannot create volumes here: 1 (gold)") && strings.Contains(line, " WARNING ") {
				return nil
			}
		}
		return errors.New(h.LogTail(5))
	})
	h.Must(t, "volume", "create", "db")
}

// poolContents returns the contents of a host's pools.
func poolContents(t *testing.T, h *host.Host) string {
	t.Helper()
	var names []string
	for _, dir := range []string{".", "pool/datasets", "pool/incoming", "plain/datasets", "plain/incoming"} {
		found, err := os.ReadDir(filepath.Join(h.Root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range found {
			names = append(names, dir+"/"+e.Name())
		}
	}
	return strings.Join(names, "\n")
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
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
