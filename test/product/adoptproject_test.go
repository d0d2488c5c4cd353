package product

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const moved = `# the shop
services:
  db:
    image: drover-mariadb
    network_mode: none
    volumes: ["data:/var/lib/mysql"]   # the orders
  cache:
    image: drover-redis
    network_mode: none
    command: [redis, --appendonly, "yes", --appendfsync, always]
    volumes:
      - ./cache:/data
  idle:
    image: drover-redis
    network_mode: none
    profiles: [idle]
    volumes: ["./cache:/data"]
volumes:
  data:
`

// TestAdoptProject moves a Compose project into volumes of Drover, while the command is killed at some of its steps, and
// goes back. After the move, no docker compose starts the project with its old data. Package projects kills it at each
// step, and docs/adopting.md has the plan and the confirmation.
func TestAdoptProject(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	for _, v := range w.e.Env() {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "DOCKER_") {
			t.Setenv(name, value) // for the docker that drover runs
		}
	}
	p := w.project(t, "shop", moved)
	s := &adopted{w: w, p: p, db: engine.MariaDB(), cache: engine.Redis()}
	p.must(t, "up", "-d")
	p.must(t, "--profile", "idle", "create", "idle")
	s.await(t)
	s.db.Query(t, w.e, "shop-db-1", "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT); INSERT INTO shop.orders VALUES (7)")
	s.cache.Query(t, w.e, "shop-cache-1", "SET order 7")
	s.killedAt(t, []string{"set aside", "switched", "recreated"}, "--profile", "gold")
	s.await(t)
	s.want(t, "7", "shop-cache@gold", "shop-data@gold")
	s.wantJournals(t, 1)
	p.must(t, "up", "-d") // Compose has nothing to change
	s.db.Query(t, w.e, "shop-db-1", "INSERT INTO shop.orders VALUES (8)")
	s.wantGuarded(t)
	s.want(t, "8", "shop-cache@gold", "shop-data@gold")
	s.killedAt(t, []string{"undo.switched"}, "--undo")
	s.await(t)
	s.want(t, "7", "shop_data")
	s.wantJournals(t, 0)
	w.wantVolumes(t, "shop-cache", "shop-data")
	p.must(t, "--profile", "idle", "down")
}

// adopted is the project of TestAdoptProject.
type adopted struct {
	w         *world
	p         project
	db, cache engine.Database
}

func (s *adopted) await(t *testing.T) {
	t.Helper()
	s.db.Await(t, s.w.e, "shop-db-1")
	s.cache.Await(t, s.w.e, "shop-cache-1")
}

// want fails unless both databases run with their rows, on these volumes.
func (s *adopted) want(t *testing.T, lastRow string, volumes ...string) {
	t.Helper()
	if got := s.db.Query(t, s.w.e, "shop-db-1", "SELECT MAX(id) FROM shop.orders"); got != lastRow {
		t.Errorf("rows up to %q, want %s", got, lastRow)
	}
	if got := s.cache.Query(t, s.w.e, "shop-cache-1", "GET order"); got != "7" {
		t.Errorf("the cache has %q, want 7", got)
	}
	mounts := s.w.docker(t, "inspect", "--format", `{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}`, "shop-cache-1", "shop-db-1")
	if got := strings.Join(strings.Fields(mounts), " "); got != strings.Join(volumes, " ") {
		t.Errorf("the containers use %s, want %v", got, volumes)
	}
}

// wantJournals fails unless there is this number of journals of the project, for root only. It removes them at the end
// of a test that has failed.
func (s *adopted) wantJournals(t *testing.T, want int) {
	t.Helper()
	paths, err := filepath.Glob("/var/lib/drover-projects/shop-*.json")
	require.NoError(t, err)
	got := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), `"dir": "`+s.p.dir+`"`) {
			continue
		}
		got++
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("the journal: %v, %v", info, err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}
	if got != want {
		t.Errorf("%d journals, want %d", got, want)
	}
}

// wantGuarded fails if a command that does not read the override file starts a container, or removes the old data. Then
// it starts the project as its user does.
func (s *adopted) wantGuarded(t *testing.T) {
	t.Helper()
	for _, service := range []string{"db", "cache", "idle"} {
		// Where the engine fails to create the new container, the old one still runs, with the new data. So it does
		// where Compose does not notice that a volume has another name.
		s.p.try(t, "-f", "compose.yaml", "up", "-d", service)
		if id := s.p.must(t, "ps", "-q", "--status", "running", service); id != "" {
			if mounts := s.w.docker(t, "inspect", "--format", "{{json .Mounts}}", id); strings.Contains(mounts, "shop_data") || strings.Contains(mounts, s.p.dir+"/cache") {
				t.Errorf("service %s runs with the old data: %s", service, mounts)
			}
		}
	}
	s.p.must(t, "-f", "compose.yaml", "--profile", "idle", "down")
	for _, service := range []string{"db", "cache", "idle"} {
		if r := s.p.try(t, "-f", "compose.yaml", "up", "-d", service); r.Exit == 0 || !strings.Contains(r.Stderr, "symbolic links") && !strings.Contains(r.Stderr, "file exists") {
			t.Errorf("up without the override file: %v", r)
		}
	}
	s.p.must(t, "-f", "compose.yaml", "--profile", "idle", "down")
	if r := s.p.try(t, "-f", "compose.yaml", "down", "-v"); r.Exit == 0 {
		t.Errorf("the old volume was removed: %v", r)
	}
	s.p.must(t, "up", "-d")
	s.p.must(t, "--profile", "idle", "create", "idle")
	s.await(t)
}

// killedAt runs the command with flags, while it is killed at each of its places, and then to its end.
func (s *adopted) killedAt(t *testing.T, places []string, flags ...string) {
	t.Helper()
	args := append([]string{"adopt-project", "shop", "--yes"}, flags...)
	for _, place := range places {
		t.Setenv("DROVER_STEP", "adopt-project."+place)
		t.Setenv("DROVER_STEP_DO", "kill")
		if r := s.w.h.Exec(t, args...); r.Exit != -1 {
			t.Fatalf("killed at %s: %+v", place, r)
		}
	}
	t.Setenv("DROVER_STEP", "")
	s.w.drover(t, args...)
}
