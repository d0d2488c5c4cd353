package verification

import "testing"

// The mounts that the commands need stay, including that of LVM's locks. Without the locks, LVM would write at the same
// time as other processes.
func TestNeeded(t *testing.T) {
	const path = "/pools/fast/drover-verify-x"
	for point, want := range map[string]bool{
		"/": true, "/pools": true, "/pools/fast": true, "/run": true, "/run/lock": true, "/usr": true, "/lib64": true, "/dev/shm": true,
		"/pools/slow": false, "/run/user/0": false, "/home": false, "/pools/fast/drover-verify-x/y": false, "/var/lib/docker": false,
	} {
		if got := isNeeded(point, path); got != want {
			t.Errorf("%s: %t", point, got)
		}
	}
}
