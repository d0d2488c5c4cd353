package mounting_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
)

// The kernel reports a damaged filesystem as an errno, so the error also says what to do. Errors that are not caused
// by damage have no such remedy.
func TestMountErrorOfDamagedFilesystemHasRemedy(t *testing.T) {
	for _, c := range []struct {
		step string
		err  error
		want bool
	}{
		{mount.StepCreate, unix.EIO, true},
		{mount.StepCreate, unix.EUCLEAN, true},
		{mount.StepCreate, unix.EBADMSG, true},
		{mount.StepCreate, unix.EINVAL, true},
		{mount.StepCreate, unix.EBUSY, false},
		{"option nonsense", unix.EINVAL, false},
	} {
		failed := &mount.Error{Spec: mount.Spec{Source: "/dev/loop1", FSType: "xfs"}, Step: c.step, Err: c.err}
		err := mounting.ExplainMountError(failed)
		if !errors.Is(err, c.err) || strings.Contains(err.Error(), "drover snapshot restore") != c.want {
			t.Errorf("%v", err)
		}
	}
	empty := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(empty, 16<<20); err != nil {
		t.Fatal(err)
	}
	dev, err := loopdev.Attach(t.Context(), empty, loopdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = mounting.MountAttached(backends.Attachment{Mount: backends.Mount{Source: dev.Path, FSType: "ext4"}, Release: dev.Close}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "drover snapshot restore") {
		t.Errorf("a mount of zeros: %v", err)
	}
}
