//go:build lab

package mount_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/mount"
	"github.com/droverhq/drover/test/lab/inside"
)

// dmsetup runs dmsetup(8), which reads a table from its standard input.
func dmsetup(t *testing.T, table string, args ...string) {
	t.Helper()
	cmd := exec.Command("dmsetup", args...)
	cmd.Stdin = strings.NewReader(table)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1") // it would wait for udev, which does not run here
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dmsetup %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// A mapping keeps its identity when its table changes, as lvextend(8) does under a mount, and when it is
// activated again. Another mapping with the same number has another identity.
func TestReusedMapping(t *testing.T) {
	const name, device = "drover-identity", "/dev/mapper/drover-identity"
	disk, target := inside.Disk(t, "mapping"), t.TempDir()
	small, large := "0 400000 linear "+disk+" 2048", "0 800000 linear "+disk+" 2048"
	for kind, id := range map[string][]string{"with a UUID": {"--uuid", "LVM-drover-test"}, "without a UUID": nil} {
		t.Run(kind, func(t *testing.T) {
			create := func(id ...string) {
				t.Helper()
				dmsetup(t, small, append([]string{"create", name, "--major", "253", "--minor", "77"}, id...)...)
			}
			create(id...)
			defer dmsetup(t, "", "remove", "--retry", name)
			if out, err := exec.Command("mkfs.ext4", "-q", "-F", device).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			mountAt(t, target, mount.Spec{Source: device, FSType: "ext4"})
			fsys := mount.Identify(table(t).At(target))
			t.Logf("%+v", fsys)
			if fsys.Identity.Sequence == "" || (fsys.Identity.Mapping == "") != (id == nil) {
				t.Errorf("%+v", fsys)
			}
			is := func(what string, reused bool) {
				t.Helper()
				if fsys.Reused() != reused || fsys.Confirmed() == reused {
					t.Errorf("%s: reused %t, confirmed %t", what, fsys.Reused(), fsys.Confirmed())
				}
			}
			is("mounted", false)
			dmsetup(t, "", "suspend", name)
			dmsetup(t, large, "load", name)
			is("suspended", false)
			dmsetup(t, "", "resume", name)
			is("with another table", false)
			if err := mount.Unmount(target); err != nil {
				t.Fatal(err)
			}
			is("unmounted", false)
			dmsetup(t, "", "remove", "--retry", name)
			create(id...)
			is("activated again", id == nil) // without a UUID, it may be anything
			dmsetup(t, "", "remove", "--retry", name)
			create("--uuid", "LVM-another")
			is("another mapping", true)
		})
	}
}
