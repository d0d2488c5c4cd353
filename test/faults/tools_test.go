package faults

import (
	"strings"
	"testing"

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
		"zfs":   {"info: cannot work on this host", "apt-get install zfsutils-linux"},
		"dir":   {"ok: works"},
		"btrfs": {"ok: works"},
	} {
		for _, want := range wants {
			if !strings.Contains(said[name], want) {
				t.Errorf("of %s doctor says %q, want %q", name, said[name], want)
			}
		}
	}
	refused(t, h, "apt-get install xfsprogs", "pool", "create", "new", "--backend", "loop", "--path", h.Root+"/new")
	disk := scratch.Disk(t, 1<<30)
	refused(t, h, "apt-get install btrfs-progs", "pool", "create", "new", "--backend", "btrfs", "--device", disk)
	if content, err := fsctl.Identify(disk); err != nil || content != fsctl.Empty {
		t.Errorf("the device has %s, %v", content, err)
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
