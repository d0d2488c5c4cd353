package faults

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/host"
)

// TestWithoutTools runs drover where none of the programs is that backends call: what needs
// one says which, and the command that mends it, and the others work.
func TestWithoutTools(t *testing.T) {
	h := host.Start(t, host.Options{Pool: "subvolumes", Env: []string{"PATH=/nowhere"}})
	h.Must(t, "volume", "create", "db", "-o", "size=100MiB")
	h.Must(t, "snapshot", "create", "db")
	h.Must(t, "pool", "create", "plain", "--backend", "dir", "--path", h.Root+"/plain")
	h.Must(t, "volume", "create", "files", "-o", "pool=plain")
	var findings []api.Finding
	h.JSON(t, &findings, "doctor")
	said := map[string]string{}
	for _, f := range findings {
		if name, is := strings.CutPrefix(f.Subject, "backend "); is {
			said[name] = f.Level + ": " + f.Text
		}
	}
	for name, wants := range map[string][]string{
		"loop":  {"info: cannot work on this host", "apt-get install xfsprogs", "apt-get install e2fsprogs"},
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
	for name, text := range said { // that came later
		if !strings.HasPrefix(text, "ok: ") && !strings.Contains(text, "apt-get install ") && !strings.Contains(text, "modprobe ") {
			t.Errorf("of %s doctor says %q: without a command that mends it", name, text)
		}
	}
	refused(t, h, "apt-get install xfsprogs", "pool", "create", "new", "--backend", "loop", "--path", h.Root+"/new")
	refused(t, h, "apt-get install zfsutils-linux", "pool", "create", "new", "--backend", "zfs", "--path", h.Root+"/new")
}
