package product

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
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
      - ${CACHE_DIR}/cache:/data
      - ./redis.conf:/redis.conf:ro
  reports:
    image: drover-redis
    network_mode: none
    profiles: [reports]
    volumes: [{type: bind, source: ./cache, target: /cache, read_only: true}, "reports:/reports"]
  idle:
    image: drover-redis
    network_mode: none
    profiles: [idle]
    volumes: ["./cache:/data"]
volumes:
  data:
  reports:
`

const override = `# drover adopt-project shop wrote this file: the data of these mounts is in volumes of Drover.
# A command that does not read this file cannot start the containers: their old data was set aside.
services:
  "cache":
    volumes:
      - {"source":"cache","target":"/data","type":"volume"}
  "idle":
    volumes:
      - {"source":"cache","target":"/data","type":"volume"}
  "reports":
    volumes:
      - {"read_only":true,"source":"cache","target":"/cache","type":"volume"}
volumes:
  "cache": {name: "shop-cache@gold", external: true, driver: !reset null, driver_opts: !reset null, labels: !reset null}
  "data": {name: "shop-data@gold", external: true, driver: !reset null, driver_opts: !reset null, labels: !reset null}
`

// TestAdoptProject moves a Compose project into volumes of Drover, goes back, and moves it again while the command is
// killed at each step. After each move, no docker compose starts the project with its old data.
func TestAdoptProject(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	for _, v := range w.e.Env() {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "DOCKER_") {
			t.Setenv(name, value) // for the docker that drover runs
		}
	}
	p := w.project(t, "shop", moved)
	for name, text := range map[string]string{".env": "CACHE_DIR=.\n", "redis.conf": "# empty\n"} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &adopted{w: w, p: p, db: engine.MariaDB(), cache: engine.Redis()}
	p.must(t, "up", "-d")
	p.must(t, "--profile", "idle", "create", "idle")
	s.await(t)
	s.db.Query(t, w.e, "shop-db-1", "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT); INSERT INTO shop.orders VALUES (7)")
	s.cache.Query(t, w.e, "shop-cache-1", "SET order 7")

	s.dryRun(t)
	s.wantRefused(t)
	out := w.drover(t, "adopt-project", "shop", "--profile", "gold", "--yes")
	s.await(t)
	s.want(t, "7", "shop-cache@gold", "shop-data@gold")
	s.wantText(t, "compose.yaml", moved)
	s.wantText(t, "compose.override.yaml", override)
	s.wantFiles(t, ".env", "cache", "cache.before-drover", "compose.override.yaml", "compose.yaml", "redis.conf")
	if !strings.Contains(out, "--confirm") || !strings.Contains(out, "--undo") {
		t.Errorf("the command does not say how to go on: %s", out)
	}
	p.must(t, "up", "-d") // Compose has nothing to change
	s.want(t, "7", "shop-cache@gold", "shop-data@gold")
	s.wantIdle(t, "shop-cache@gold")
	s.wantJournals(t, 1)
	s.db.Query(t, w.e, "shop-db-1", "INSERT INTO shop.orders VALUES (8)")
	s.wantGuarded(t)
	s.want(t, "8", "shop-cache@gold", "shop-data@gold")

	w.drover(t, "adopt-project", "shop", "--undo", "--yes")
	s.wantBack(t)
	w.wantVolumes(t, "shop-cache", "shop-data")
	if got := s.rows(t, "shop-data@gold"); got != "8" {
		t.Errorf("the volume that was left has rows up to %s, want 8", got)
	}

	s.killedAt(t, []string{"stop", "aside", "set aside", "copy"}, "--profile", "silver")
	s.killedAt(t, []string{"undo", "undo.stopped", "undo.switched", "undo.back", "recreated", "up"}, "--undo")
	s.wantBack(t)
	s.killedAt(t, []string{"draft", "stop", "aside", "set aside", "copy", "submit", "copied", "switch", "switched",
		"start", "recreated", "up"}, "--profile", "silver")
	s.await(t)
	s.wantIdle(t, "shop-cache-2@silver")
	s.want(t, "7", "shop-cache-2@silver", "shop-data-2@silver")
	s.db.Query(t, w.e, "shop-db-1", "INSERT INTO shop.orders VALUES (9)")
	out = w.drover(t, "adopt-project", "shop", "--confirm")
	s.wantJournals(t, 0)
	for _, line := range strings.Split(out, "\n") {
		if _, path, ok := strings.Cut(line, "you may remove it: "); ok && !strings.HasSuffix(path, ".before-drover") || ok && os.RemoveAll(path) != nil {
			t.Errorf("remove the old data: %s", line)
		}
	}
	s.wantGuarded(t)
	s.want(t, "9", "shop-cache-2@silver", "shop-data-2@silver")
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

// wantIdle fails unless the container of the service that does not run mounts only a volume. An empty name stands for
// the directory. The mount hides /data, for which the image would get an anonymous volume.
func (s *adopted) wantIdle(t *testing.T, volume string) {
	t.Helper()
	want := "created volume " + volume
	if volume == "" {
		want = "created bind"
	}
	got := s.w.docker(t, "inspect", "--format", `{{.State.Status}} {{range .Mounts}}{{.Type}} {{.Name}}{{end}}`, "shop-idle-1")
	if strings.TrimSpace(got) != want {
		t.Errorf("the container that does not run is %q, want %q", got, want)
	}
}

// wantJournals fails unless there is this number of journals of the project, for root only. It removes them at the end
// of a test that has failed.
func (s *adopted) wantJournals(t *testing.T, want int) {
	t.Helper()
	paths, err := filepath.Glob("/var/lib/drover-projects/shop-*.json")
	if err != nil {
		t.Fatal(err)
	}
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

// rows returns the highest row of the database in a volume of Drover.
func (s *adopted) rows(t *testing.T, volume string) string {
	t.Helper()
	s.w.docker(t, "run", "-d", "--name", "look", "--network", "none", "-v", volume+":"+s.db.DataDir, "--volume-driver", s.w.h.Driver, s.db.Image)
	defer s.w.docker(t, "rm", "-f", "look")
	s.db.Await(t, s.w.e, "look")
	return s.db.Query(t, s.w.e, "look", "SELECT MAX(id) FROM shop.orders")
}

func (s *adopted) wantText(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(s.p.dir, name))
	if err != nil || string(got) != want {
		t.Errorf("%s is\n%s%v\nwant\n%s", name, got, err, want)
	}
}

// wantBack fails unless the project is as before the move.
func (s *adopted) wantBack(t *testing.T) {
	t.Helper()
	s.await(t)
	s.want(t, "7", "shop_data")
	s.wantIdle(t, "")
	s.wantText(t, "compose.yaml", moved)
	s.wantJournals(t, 0)
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
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

// wantRefused fails unless projects are refused that would not read the override file.
func (s *adopted) wantRefused(t *testing.T) {
	t.Helper()
	env := filepath.Join(s.p.dir, ".env")
	before, err := os.ReadFile(env)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(s.p.dir, "docker-compose.override.yml")
	for path, text := range map[string]string{env: string(before) + "COMPOSE_FILE=compose.yaml\n", own: "services: {db: {labels: {a: b}}}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := s.w.h.Exec(t, "adopt-project", "shop", "--yes"); r.Exit == 0 || !strings.Contains(r.Err, "supports a single file") {
			t.Errorf("with %s: %+v", path, r)
		}
		if err := errors.Join(os.WriteFile(env, before, 0o600), os.RemoveAll(own)); err != nil {
			t.Fatal(err)
		}
	}
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
}

func (s *adopted) wantFiles(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(s.p.dir)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the folder has %v, %v; want %v", got, err, want)
	}
}

// dryRun checks the plan. A dry run changes nothing.
func (s *adopted) dryRun(t *testing.T) {
	t.Helper()
	before := s.w.docker(t, "ps", "-q")
	out := s.w.drover(t, "adopt-project", "shop", "--profile", "gold", "--dry-run")
	for _, want := range []string{"shop_data", "shop-data", "db:/var/lib/mysql", "gold", filepath.Join(s.p.dir, "cache"), "it is a single file", "no such Docker volume", strings.TrimSpace(override)} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan does not contain %q:\n%s", want, out)
		}
	}
	s.w.wantVolumes(t)
	s.wantText(t, "compose.yaml", moved)
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
	if after := s.w.docker(t, "ps", "-q"); after != before {
		t.Errorf("containers %s became %s", before, after)
	}
	if r := s.w.h.Exec(t, "adopt-project", "shop"); r.Exit != 2 || !strings.Contains(r.Err, "use --yes") {
		t.Errorf("without a terminal: %+v", r)
	}
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
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
	if flags[0] == "--undo" || places[len(places)-1] == "up" {
		s.w.drover(t, args...)
	}
}
