package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A mistake in a flag or file is reported before anything is created.
func TestServeChecksBeforeItMakes(t *testing.T) {
	yaml := filepath.Join(t.TempDir(), "drover.yaml")
	if err := os.WriteFile(yaml, []byte("pools: [{name: a, backend: dir, path: /a}, {name: b, backnd: dir, path: /b}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lop, btrfs := filepath.Join(t.TempDir(), "lop.yaml"), filepath.Join(t.TempDir(), "profiles.yaml")
	for file, text := range map[string]string{
		lop:   "pools: [{name: a, backend: dir, path: /a}, {name: b, backend: lop, path: /b}]\n",
		btrfs: "default: p\nprofiles: {p: {backend: btrfs, qos: {read_iops: 50}}}\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	none := filepath.Join(t.TempDir(), "none.yaml")
	for _, tc := range []struct {
		flags []string
		says  string
		exit  int
	}{
		{[]string{"--metrics-listen", "0.0.0.0:9469"}, `--metrics-listen "0.0.0.0:9469": expected a loopback address`, 2},
		{[]string{"--metrics-listen", "127.0.0.1:metrics"}, "expected a loopback address", 2},
		{[]string{"--metrics-listen", "127.0.0.1"}, "expected a loopback address", 2},
		{[]string{"--driver", "a/b"}, `--driver "a/b": expected letters`, 2},
		{[]string{"--driver", ".."}, `--driver "..": expected letters`, 2},
		{[]string{"--driver", "drover:latest"}, "expected letters", 2},
		{[]string{"--driver", ""}, "expected letters", 2},
		{[]string{"--driver", "local"}, "Docker's built-", 2},
		{[]string{"--driver", strings.Repeat("d", 100)}, "107 at most", 2},
		{[]string{"--run", "run"}, `--run "run": expected an absolute path`, 2},
		{[]string{"--log-level", "loud"}, "unknown log level", 2},
		{[]string{"--config", none}, none + ": no such file", 1},
		{[]string{"--profiles", none}, none + ": no such file", 1},
		{[]string{"--config", yaml}, `unknown key "backnd", did you mean backend?`, 2},
		{[]string{"--config", lop}, `pools[1].backend: unknown backend "lop" (available: btrfs, dir, loop, lvm, nfs, zfs); did you mean loop?`, 2},
		{[]string{"--profiles", btrfs}, "profiles.p.backend: no pool of backend btrfs can satisfy this profile: " +
			"it has no block device for each volume", 2},
	} {
		dir := t.TempDir()
		c := newConsole(theWorld())
		args := []string{"serve", "--root", dir + "/root", "--run", dir + "/run", "--plugin-dir", dir + "/plugins"}
		code := c.run(t, append(args, tc.flags...)...)
		if code != tc.exit || !strings.Contains(c.err.String(), tc.says) {
			t.Errorf("%v: exit %d, %swant %d and %s", tc.flags, code, c.err.String(), tc.exit, tc.says)
		}
		if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
			t.Errorf("%v: %v, %v were made", tc.flags, err, made)
		}
	}
}
