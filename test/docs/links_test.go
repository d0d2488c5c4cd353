package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

var (
	linkPattern    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	fencePattern   = regexp.MustCompile("(?ms)^```.*?^```$")
)

// TestLinks follows each link within the repository, including the heading.
func TestLinks(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range linkPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(p.text, ""), -1) {
			if strings.Contains(m[1], "://") {
				t.Errorf("%s: link to %s: nothing out there can be checked", p.name, m[1])
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := filepath.Join(top, p.name)
			if path != "" {
				target = filepath.Join(filepath.Dir(target), path)
			}
			text, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: link to %s: %v", p.name, m[1], err)
				continue
			}
			if anchor != "" && !anchors(string(text))[anchor] {
				t.Errorf("%s: link to %s: %s has no such heading", p.name, m[1], target)
			}
		}
	}
}

// anchors returns the anchors of headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range headingPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(text, ""), -1) {
		anchor := strings.ToLower(strings.ReplaceAll(m[1], " ", "-"))
		all[regexp.MustCompile("[^a-z0-9_-]").ReplaceAllString(anchor, "")] = true
	}
	return all
}

// testClaims checks what the pages say in words, where no command that they show would check it.
func testClaims(t *testing.T, e *engine.Engine) {
	w := begin(t, e)
	setupDisk(t, w)

	// docs/operations.md, "Move a disk": the path in drover.yaml is changed.
	w.write(t, "/etc/drover/drover.yaml", "pools: [{name: fast, backend: loop, path: /mnt/disk/fast}]\n")
	w.stop(t)
	w.start(t)
	w.service(t, "app-db", "db@gold")
	w.must(t, "drover volume inspect db | grep -q '^Pool: *fast '", "docker exec app-db redis-cli set key value", "docker stop app-db")
	w.stop(t)
	setupDiskMoved(t, w)
	w.write(t, "/etc/drover/drover.yaml", "pools: [{name: fast, backend: loop, path: /mnt/new/fast}]\n")
	w.start(t)
	w.must(t, "drover doctor", "docker start app-db")
	w.answers(t, "docker exec app-db redis-cli get key | grep -x value")

	// docs/backends/loop.md, "Power cut": an export holds what was written before
	// it, synced or not.
	w.must(t,
		"docker exec app-db sh -c 'echo unsynced > /data/file'",
		"drover volume export db | tar -xO ./file | grep -x unsynced")
}

const byID = "/dev/disk/by-id"

// setupDevices has three disks in the host, nvme-A to nvme-C.
func setupDevices(t *testing.T, _ *world) {
	for _, name := range []string{"nvme-A", "nvme-B", "nvme-C"} {
		plug(t, name, scratch.Disk(t, 2<<30))
	}
}

// setupDevicesMoved adds nvme-D, a disk with a pool of another host.
func setupDevicesMoved(t *testing.T, _ *world) {
	device, at := scratch.Disk(t, 2<<30), filepath.Join(t.TempDir(), "pool")
	p, err := loop.New(&run.System{}).Open(t.Context(), backends.Config{Name: "theirs", Path: at, Mount: at, Devices: []string{device}, Make: true})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	plug(t, "nvme-D", device)
}

// plug gives a device a name.
func plug(t *testing.T, name, device string) {
	t.Helper()
	if os.Mkdir(filepath.Dir(byID), 0o755) == nil {
		t.Cleanup(func() { _ = os.Remove(filepath.Dir(byID)) })
	}
	if _, err := os.Lstat(byID); err != nil { // the host's own disks must not be used for this
		cover(t, "tmpfs", filepath.Dir(byID), "tmpfs", 0, "mode=0755")
	}
	require.NoError(t, os.MkdirAll(byID, 0o755))
	require.NoError(t, os.Symlink(device, filepath.Join(byID, name)))
}
