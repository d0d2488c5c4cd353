package docs

import (
	"testing"

	"github.com/droverhq/drover/test/engine"
)

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
