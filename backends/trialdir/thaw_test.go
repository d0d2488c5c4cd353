package trialdir

import "testing"

// For a mount that no longer exists, the kernel omits the mount point from the path.
func TestWithin(t *testing.T) {
	const name = "drover-verify-7c4ba7b3-6b47-458e-809f-2d31592bd71c"
	for _, c := range []struct {
		file, path string
		want       bool
	}{
		{"/mnt/pool/" + name + "/001/a", "/mnt/pool/" + name + "/001", true},
		{"/pool/" + name + "/001/a", "/mnt/pool/" + name + "/001", true},
		{"/pool/" + name + "/001/a", "/mnt/pool/" + name, true},
		{"/pool/" + name + "/0011/a", "/mnt/pool/" + name + "/001", false},
		{"/pool/" + name + "/002/a", "/mnt/pool/" + name + "/001", false},
		{"/mnt/pool/datasets/a", "/mnt/pool/" + name, false},
		{"/pool/001/a", "/mnt/pool/001", false},
		{"/mnt/pool/001/a", "/mnt/pool/001", true},
	} {
		if isBelow(c.file, c.path) != c.want {
			t.Errorf("%s within %s: %t", c.file, c.path, !c.want)
		}
	}
}
