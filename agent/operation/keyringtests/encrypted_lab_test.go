//go:build lab

package keyring_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// The whole life of an encrypted volume, with a kernel that has dm-crypt: it is created, mounted, rekeyed in use, and
// mounted by the next agent. Its key is in no argument vector, and nothing is left.
func TestEncryptedVolume(t *testing.T) {
	disk := scratch.Mount(t, "xfs", 2<<30)
	k := &keyRig{log: &bytes.Buffer{}, gold: filepath.Join(t.TempDir(), "gold")}
	k.write(t, k.gold, 1)
	src := fmt.Sprintf("default: gold\nprofiles:\n  gold: {size: 400MiB, encryption: {key_file: %s}}\n", k.gold)
	programs := &fakes.Recorder{Next: &run.System{}}
	k.Host = agenttest.NewWithProfiles(t, []byte(src), func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(programs))
		c.Pools = []pool.Config{{Name: "default", Backend: "loop", Path: filepath.Join(disk, "pool")}}
	})
	d := k.encrypted("db")
	data, err := k.Keys.DataKey(t.Context(), d)
	require.NoError(t, err)
	path, err := k.Mount(t.Context(), "db", "one")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(path, "file"), []byte("content"), 0o600))
	old := k.gold + ".old"
	k.write(t, old, 1)
	k.write(t, k.gold, 3)
	require.NoError(t, k.rekey("db", old))
	require.NoError(t, os.Remove(old))
	for range 2 {
		require.NoError(t, k.Unmount(t.Context(), "db", "one"))
		k.Restart()
		path, err = k.Mount(t.Context(), "db", "one")
		require.NoError(t, err)
		if text, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(text) != "content" {
			t.Errorf("got %q, %v", text, err)
		}
	}
	require.NoError(t, k.Unmount(t.Context(), "db", "one"))
	opened := 0
	for _, c := range programs.Calls() {
		said := fmt.Sprint(c.Name, c.Args, c.Env)
		if c.Name == "cryptsetup" {
			opened++
		}
		for _, secret := range [][]byte{data, k.secret(1), k.secret(3)} {
			if strings.Contains(said, string(secret)) || strings.Contains(said, fmt.Sprintf("%x", secret)) {
				t.Errorf("a key is in the arguments of %s", c.Name)
			}
		}
	}
	if opened < 4 { // created once, and opened several times
		t.Errorf("cryptsetup was run %d times", opened)
	}
	if err := k.Pool().Close(); err != nil {
		t.Error(err)
	}
	names, err := dm.List()
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "drover-") })
	if err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
}
