package profiles

import (
	"testing"

	"github.com/droverhq/drover/internal/scratch"
)

// The kernel accepts every mount option that can be chosen, through the call that mounts volumes.
func TestMountOptionsMount(t *testing.T) {
	for fstype, size := range map[string]int64{"xfs": scratch.XFS, "ext4": scratch.Ext4} {
		image := scratch.Image(t, fstype, size)
		for _, o := range mountOptions(fstype) {
			t.Run(fstype+"/"+o, func(t *testing.T) {
				scratch.MountImage(t, fstype, image, o)
			})
		}
	}
}

// An option that can be chosen without a filesystem type is accepted by every type.
func TestCommonMountOptions(t *testing.T) {
	for _, o := range mountOptions("") {
		for _, fstype := range []string{"xfs", "ext4"} {
			if _, err := Parse("p.yaml", []byte("default: a\nprofiles: {a: {filesystem: {type: "+fstype+", mount: ["+o+"]}}}\n")); err != nil {
				t.Error(err)
			}
		}
	}
}
