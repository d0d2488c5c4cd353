package operation_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// copyHolder is a process in a mount namespace that has a copy of each mount of the host.
type copyHolder struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Reader
	wait func() error
}

// The users who hold a copy: any user of the host, and root.
var (
	nobody = []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm", "sh", "-c"}
	root   = []string{"unshare", "--mount", "--propagation", "private", "sh", "-c"}
)

// holdCopy starts a process of a user in a new mount namespace. The process runs the script setup with the argument
// path, and then a command for each line that it reads.
func holdCopy(t *testing.T, user []string, setup, path string) *copyHolder {
	t.Helper()
	const serve = `; echo ready; while read -r line; do eval "$line" 2>&1; echo "rc $?"; done`
	c := exec.Command(user[0], append(user[1:], setup+serve, path)...)
	h := &copyHolder{t: t, wait: c.Wait}
	var err error
	if h.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	require.NoError(t, err)
	t.Cleanup(h.end)
	h.out = bufio.NewReader(out)
	if line, err := h.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return h
}

// do has the process run a command, and returns what it wrote, and its exit status as "rc N".
func (h *copyHolder) do(command string) (said string) {
	h.t.Helper()
	if _, err := io.WriteString(h.in, command+"\n"); err != nil {
		h.t.Fatal(err)
	}
	for !strings.HasPrefix(said[strings.LastIndex(said, "\n")+1:], "rc ") {
		line, err := h.out.ReadString('\n')
		if err != nil {
			h.t.Fatal(err)
		}
		said = strings.TrimPrefix(said+"\n"+strings.TrimSuffix(line, "\n"), "\n")
	}
	return said
}

// end ends the process. Idempotent.
func (h *copyHolder) end() {
	if h.wait != nil {
		_ = h.in.Close()
		_ = h.wait()
		h.wait = nil
	}
}

// loopHost is a host with a pool of backend loop on XFS.
func loopHost(t *testing.T) *agenttest.Host { return loopHostOn(t, "xfs") }

func loopHostOn(t *testing.T, fs string) *agenttest.Host {
	disk := scratch.Mount(t, fs, 2<<30)
	return agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(&run.System{}))
		c.Pools = []pool.Config{{Name: "default", Backend: loop.Name, Path: filepath.Join(disk, "pool")}}
	})
}

func perform(t *testing.T, r *agenttest.Host, q api.Request) {
	t.Helper()
	require.NoError(t, r.Perform(t.Context(), q))
}

// headOf returns a digest of the image of a volume.
func headOf(t *testing.T, r *agenttest.Host, d dataset.Dataset) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(r.Pool().Info().Path, "datasets", d.ID.String(), "head.img"))
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

// Any user can keep copies of the host's mounts in a mount namespace. Such a copy prevents no operation.
func TestI11CopyOfTheMountIsNoUse(t *testing.T) {
	for name, c := range map[string]struct {
		host func(t *testing.T) *agenttest.Host
		fs   string
	}{
		"loop with xfs":  {loopHost, "xfs"},
		"loop with ext4": {loopHost, "ext4"},
		"loop on btrfs":  {func(t *testing.T) *agenttest.Host { return loopHostOn(t, "btrfs") }, "ext4"},
		"dir":            {func(t *testing.T) *agenttest.Host { return agenttest.New(t) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.host(t)
			var opts map[string]string
			if c.fs != "" {
				opts = map[string]string{"size": "400MiB", "fs": c.fs}
			}
			d := r.NewVolume("db", opts)
			hold := func(text string) {
				path := r.MustMount("db", "copied")
				require.NoError(t, os.WriteFile(filepath.Join(path, "file"), []byte(text), 0o600))
				holdCopy(t, nobody, ":", path)
				r.MustUnmount("db", "copied")
			}
			r.WriteFile("db", "file", "old")
			perform(t, r, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"})
			hold("new")
			perform(t, r, api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"})
			if got := r.ReadFile("db", "file"); got != "old" {
				t.Errorf("restored %q", got)
			}
			if c.fs != "" {
				hold("newer")
				perform(t, r, api.Request{Kind: dataset.OpResize, Volume: "db", Size: "600MiB"})
				if got := r.ReadFile("db", "file"); got != "newer" {
					t.Errorf("resized with %q", got)
				}
			}
			hold("newest")
			perform(t, r, api.Request{Kind: dataset.OpDelete, Volume: "db"})
			if err := r.Pool().Delete(t.Context(), d.ID); err != nil {
				t.Errorf("purge: %v", err)
			}
		})
	}
}

// A process that could write through a copy of the mount cannot do so after a restore, and what it wrote before is kept.
// While it has a file of the volume open, if only for reading, the restore is refused.
func TestI3RestoreFencesWhoHasACopy(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			r := loopHost(t)
			d := r.NewVolume("db", map[string]string{"size": "400MiB", "fs": fs})
			r.WriteFile("db", "file", "old")
			perform(t, r, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"})
			path := r.MustMount("db", "copied")
			holder := holdCopy(t, root, ":", path)
			reader := holdCopy(t, root, `exec 3<"$0/file"`, path)
			r.MustUnmount("db", "copied")
			if said := holder.do(`printf new >"$0/file" && sync -f "$0/file"`); said != "rc 0" {
				t.Fatal(said)
			}
			restore := api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"}
			err := r.Perform(t.Context(), restore)
			if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "has file open inside of it") {
				t.Errorf("beside a reader: %v", err)
			}
			reader.end()
			perform(t, r, restore)
			image := headOf(t, r, d)
			if said := holder.do(`echo late >"$0/file" && sync -f "$0/file"`); !strings.Contains(said, "Input/output error") {
				t.Errorf("a write after the restore: %s", said)
			}
			if !bytes.Equal(headOf(t, r, d), image) {
				t.Error("the holder has written to the image")
			}
			if got := r.ReadFile("db", "file"); got != "old" {
				t.Errorf("restored %q", got)
			}
			e, err := r.Pool().Stat(t.Context(), d.ID)
			require.NoError(t, err)
			kept := e.Snapshots[slices.IndexFunc(e.Snapshots, func(s dataset.Snapshot) bool {
				return s.Kind == dataset.SnapshotRestore
			})]
			perform(t, r, api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: kept.ID.String()})
			if got := r.ReadFile("db", "file"); got != "new" {
				t.Errorf("kept %q", got)
			}
		})
	}
}

// An agent that was killed while it shut a filesystem down can leave it frozen. Neither the next mount nor the next
// restore hangs.
func TestFilesystemThatWasLeftFrozen(t *testing.T) {
	r := loopHost(t)
	r.NewVolume("db", map[string]string{"size": "400MiB"})
	r.WriteFile("db", "file", "old")
	perform(t, r, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"})
	holder := holdCopy(t, root, ":", r.MustMount("db", "copied"))
	r.MustUnmount("db", "copied")
	freeze := func() {
		if said := holder.do(`fsfreeze -f "$0"`); said != "rc 0" {
			t.Fatal(said)
		}
	}
	freeze()
	r.WriteFile("db", "file", "new")
	freeze()
	perform(t, r, api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"})
	if got := r.ReadFile("db", "file"); got != "old" {
		t.Errorf("restored %q", got)
	}
}

// The volumes of backend dir share the filesystem of their pool, which cannot be shut down. So a copy that root can reach
// is a use.
func TestI11ReachableCopyInASharedFilesystem(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	r.WriteFile("db", "file", "old")
	perform(t, r, api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"})
	path := r.MustMount("db", "copied")
	holder := holdCopy(t, root, ":", path)
	r.MustUnmount("db", "copied")
	restore := api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"}
	if err := r.Perform(t.Context(), restore); !errors.Is(err, dataset.ErrInUse) ||
		!strings.Contains(err.Error(), "in another mount namespace") {
		t.Errorf("%v", err)
	}
	holder.end()
	perform(t, r, restore)
}
