package loopdev_test

import (
	"slices"
	"testing"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// A device whose file is on a failed disk does not prevent List from finding the other devices.
func TestListBesideFailedDisk(t *testing.T) {
	device, fail := scratch.FailingDisk(t, 64*mib)
	file := scratch.Image(t, "", mib)
	healthy := attach(t, file, loopdev.Options{})
	fail()
	info, ok := find(t, file)
	if !ok || info.Path != healthy.Path {
		t.Errorf("found %+v, %t", info, ok)
	}
	list, err := loopdev.List()
	require.NoError(t, err)
	i := slices.IndexFunc(list, func(i loopdev.Info) bool { return i.Path == device })
	if i < 0 || list[i].Inode != 0 || list[i].Backing == "" {
		t.Errorf("the device on the failed disk: %d of %+v", i, list)
	}
}
