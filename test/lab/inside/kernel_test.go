//go:build lab

package inside_test

import (
	"os"
	"strings"
	"testing"
)

// The machine's cgroups are those of a host of today.
func TestCgroups(t *testing.T) {
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"cpu", "io", "memory", "pids"} {
		if !strings.Contains(string(b), c) {
			t.Errorf("no controller %s in %s", c, b)
		}
	}
}
