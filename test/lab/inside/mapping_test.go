//go:build lab

package inside_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// A mapping keeps its identity when its table changes, as lvextend(8) does under a mount, and when it is
// activated again. Another mapping with the same number has another identity.
func TestReusedMapping(t *testing.T) {
	const name, device = "drover-identity", "/dev/mapper/drover-identity"
	disk, target := inside.Disk(t, "first"), t.TempDir()
	small, large := "0 400000 linear "+disk+" 2048", "0 800000 linear "+disk+" 2048"
	for kind, id := range map[string][]string{"with a UUID": {"--uuid", "LVM-drover-test"}, "without a UUID": nil} {
		t.Run(kind, func(t *testing.T) {
			create := func(id ...string) {
				t.Helper()
				do(t, small, append([]string{"dmsetup", "create", name, "--major", "253", "--minor", "77"}, id...)...)
			}
			create(id...)
			defer do(t, "", "dmsetup", "remove", "--retry", name)
			do(t, "", "mkfs.ext4", "-q", "-F", device)
			require.NoError(t, mount.Mount(target, mount.Spec{Source: device, FSType: "ext4"}))
			table, err := mount.Table()
			require.NoError(t, err)
			fsys := mount.Identify(table.At(target))
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
			do(t, "", "dmsetup", "suspend", name)
			do(t, large, "dmsetup", "load", name)
			is("suspended", false)
			do(t, "", "dmsetup", "resume", name)
			is("with another table", false)
			require.NoError(t, mount.Unmount(target))
			is("unmounted", false)
			do(t, "", "dmsetup", "remove", "--retry", name)
			create(id...)
			is("activated again", id == nil) // without a UUID, it may be anything
			do(t, "", "dmsetup", "remove", "--retry", name)
			create("--uuid", "LVM-another")
			is("another mapping", true)
		})
	}
}

// do runs a command and returns its output.
func do(t *testing.T, in string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(in)
	// There is no udev, for which they would wait.
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
