package suiterunner

import "testing"

// What a command wants stays, the locks of LVM too: without them it would write beside others.
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
