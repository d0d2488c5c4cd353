package product

import (
	"fmt"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/host"
)

// ledger is a Compose project whose container appends numbers to a file, one after the last one that is in the file.
const ledger = `
services:
  writer:
    image: drover-redis
    network_mode: none
    stop_signal: KILL
    volumes: ["data:/data"]
    command:
      - sh
      - -c
      - |
        n=$$(tail -n 1 /data/numbers 2>/dev/null || true)
        n=$${n:-0}
        while true; do n=$$((n + 1)); echo $$n >>/data/numbers; sleep 0.05; done
volumes:
  data: {name: "VOLUME", driver: DRIVER}
`

// testRename: a Compose project writes to a volume while the volume is renamed. The container keeps writing. The project
// finds the data by the new name and, until the alias is dropped, by the former name. No removal by a former name deletes the data.
func testRename(t *testing.T, w *world) {
	file := func(volume string) string { return strings.ReplaceAll(ledger, "VOLUME", volume) }
	p := w.project(t, "ledger", file("old@gold"))
	const container = "ledger-writer-1"
	last := 0
	check := func(when string) {
		t.Helper()
		w.awaitRunning(t, container)
		w.awaitMore(t, container, "/data/numbers")
		numbers := w.lines(t, container, "/data/numbers")
		for i, n := range numbers {
			if n != fmt.Sprint(i+1) {
				t.Fatalf("%s: line %d has %s", when, i+1, n)
			}
		}
		if len(numbers) < last {
			t.Fatalf("%s: %d lines, and %d before", when, len(numbers), last)
		}
		last = len(numbers)
	}
	listed := func(when string, want ...string) {
		t.Helper()
		got := strings.Fields(w.docker(t, "volume", "ls", "-q", "-f", "driver="+w.h.Driver))
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: docker volume ls lists %v, want %v", when, got, want)
		}
	}
	p.must(t, "up", "-d")
	check("at the beginning")
	dataset, mounted := w.drover(t, "volume", "ls", "-q"), w.inspect(t, "old@gold").Mountpoint
	id := w.docker(t, "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", container)

	if got, want := w.drover(t, "volume", "rename", "old", "new"), "renamed volume old to new; old stays valid as an alias"; got != want {
		t.Errorf("rename: %q, want %q", got, want)
	}
	w.wantVolumes(t, "new")
	check("after the rename")
	listed("after the rename", "old@gold")
	if now := w.docker(t, "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", container); now != id {
		t.Errorf("the container was %s, and is %s", id, now)
	}
	for _, spelling := range []string{"old@gold", "old", "new", "new@gold"} {
		if v := w.inspect(t, spelling); v.Name != spelling || v.Mountpoint != mounted || v.Status.Dataset != dataset {
			t.Errorf("%s: %+v, want dataset %s at %s", spelling, v, dataset, mounted)
		}
	}
	w.wantUses(t, "new", 1, 1)
	p.must(t, "restart")
	check("after compose restart")
	w.e.Restart(t)
	p.must(t, "up", "-d")
	check("after a restart of the engine")
	listed("after all restarts", "old@gold")

	// Compose removes the volume by the alias, and the data stays.
	p.must(t, "down", "-v")
	w.wantVolumes(t, "new")
	listed("after compose down -v", "new")

	// The file with the new name has the same data, and so has the old file again.
	p.write(t, file("new"))
	p.must(t, "up", "-d")
	check("by the new name")
	p.must(t, "down")
	p.write(t, file("old@gold"))
	p.must(t, "up", "-d")
	check("by the former name again")
	listed("by the former name again", "old@gold")

	w.wantAliasKept(t, "old", "new")
	p.must(t, "down")
	p.write(t, file("new"))
	p.must(t, "up", "-d")

	w.drover(t, "volume", "rename", "--drop-alias", "old", "new")
	check("after the alias was dropped")
	listed("after the alias was dropped", "new")
	w.refused(t, "no such volume", "volume", "inspect", "old@gold")
	p.must(t, "down", "-v") // Compose found the volume under the new name, so it does not remove it
	w.wantVolumes(t, "new")
	w.docker(t, "volume", "rm", "new")
	w.wantVolumes(t)
}

// wantAliasKept fails unless an alias cannot be dropped because a running container was created with it.
func (w *world) wantAliasKept(t *testing.T, alias, volume string) {
	t.Helper()
	host.Await(t, "control knows by which name the volume is mounted", func() error {
		if out := w.drover(t, "volume", "inspect", volume); !strings.Contains(out, ", as "+alias+"@gold") {
			return fmt.Errorf("drover volume inspect: %s", out)
		}
		return nil
	})
	for _, args := range [][]string{{"--dry-run"}, nil} {
		r := w.h.Exec(t, append([]string{"volume", "rename", "--drop-alias", alias, volume}, args...)...)
		if r.Exit != 1 || !strings.Contains(r.Err, "docker ps --filter volume="+alias+"@gold there shows it") {
			t.Errorf("a drop of an alias in use: %+v", r)
		}
	}
}
