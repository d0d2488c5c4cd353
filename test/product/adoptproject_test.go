package product

import (
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

// TestAdoptProject moves a Compose project into volumes of Drover, goes back, moves it again while the command is
// killed at each step, confirms it, and moves it into local volumes again.
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

	w.planProjects(t)
	s.dryRun(t)
	out := w.drover(t, "adopt-project", "shop", "--profile", "gold", "--yes")
	s.await(t)
	s.want(t, "7", "shop-cache@gold", "shop-data@gold")
	s.wantText(t, strings.NewReplacer("${CACHE_DIR}/cache:/data", "cache:/data", "{type: bind, source: ./cache,", "{type: volume, source: cache,",
		`"./cache:/data"`, `"cache:/data"`,
		"  data:\n  reports:\n", `  data:
    name: shop-data@gold
    external: true
  reports:
    name: shop-reports@gold
    external: true
  cache:
    name: shop-cache@gold
    external: true
`).Replace(moved))
	if !strings.Contains(out, "--confirm") || !strings.Contains(out, "--undo") {
		t.Errorf("the command does not say how to go on: %s", out)
	}
	p.must(t, "up", "-d") // Compose has nothing to change
	s.want(t, "7", "shop-cache@gold", "shop-data@gold")
	s.wantIdle(t, "shop-cache@gold")
	s.wantJournals(t, 1)
	s.db.Query(t, w.e, "shop-db-1", "INSERT INTO shop.orders VALUES (8)")

	w.drover(t, "adopt-project", "shop", "--undo", "--yes")
	s.await(t)
	s.want(t, "7", "shop_data")
	s.wantIdle(t, "")
	s.wantText(t, moved)
	s.wantJournals(t, 0)
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
	w.wantVolumes(t, "shop-cache", "shop-data", "shop-reports")
	if got := s.rows(t, "shop-data@gold"); got != "8" {
		t.Errorf("the volume that was left has rows up to %s, want 8", got)
	}

	s.adoptKilled(t)
	s.wantIdle(t, "shop-cache-2@silver")
	s.want(t, "7", "shop-cache-2@silver", "shop-data-2@silver")
	w.drover(t, "adopt-project", "shop", "--confirm")
	s.wantFiles(t, ".env", "cache", "compose.yaml", "compose.yaml.before-drover", "redis.conf")
	s.db.Query(t, w.e, "shop-db-1", "INSERT INTO shop.orders VALUES (9)")

	w.drover(t, "adopt-project", "shop", "--leave", "--yes")
	s.await(t)
	s.want(t, "9", "shop_cache", "shop_data-2")
	s.wantIdle(t, "shop_cache")
	w.drover(t, "adopt-project", "shop", "--confirm")
	s.wantJournals(t, 0)
	p.must(t, "--profile", "idle", "down")
	w.docker(t, "volume", "rm", "shop_data", "shop_data-2", "shop_cache", "shop_reports")
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

func (s *adopted) wantText(t *testing.T, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(s.p.dir, "compose.yaml"))
	if err != nil || string(got) != want {
		t.Errorf("the Compose file is\n%s%v\nwant\n%s", got, err, want)
	}
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
	for _, want := range []string{"shop_data", "shop-data", "db:/var/lib/mysql", "gold", filepath.Join(s.p.dir, "cache"), "it is a single file", "compose.yaml:12:"} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan does not contain %q:\n%s", want, out)
		}
	}
	s.w.wantVolumes(t)
	s.wantText(t, moved)
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
	if after := s.w.docker(t, "ps", "-q"); after != before {
		t.Errorf("containers %s became %s", before, after)
	}
	if r := s.w.h.Exec(t, "adopt-project", "shop"); r.Exit != 2 || !strings.Contains(r.Err, "use --yes") {
		t.Errorf("without a terminal: %+v", r)
	}
	s.wantFiles(t, ".env", "cache", "compose.yaml", "redis.conf")
}

// planProjects plans the moves of the three projects with which package composefile is tested. So docker compose reads
// the changed files, and finds nothing but the plan.
func (w *world) planProjects(t *testing.T) {
	t.Helper()
	top, err := filepath.Abs("../../cmd/drover/internal/composefile/testdata")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dirs  []string
		files []string
		plan  []string // parts of the output
	}{
		"wordpress":  {[]string{"html", "data/db", "data/conf.d"}, []string{"compose.yaml"}, []string{"wordpress-html", "wordpress-data-db", "compose.yaml:29: ./html becomes html"}},
		"monitoring": {[]string{"rules", "prometheus"}, []string{"docker-compose.yml"}, []string{"monitoring-prometheus-data", "docker-compose.yml:11: ./rules becomes rules"}},
		"nextcloud":  {[]string{"cloud/files", "cloud/skins"}, []string{"compose.yaml", "compose.override.yaml"}, []string{"nextcloud-nextcloud", "nextcloud-redis", "compose.override.yaml:4: ${DATA_DIR}/files becomes"}},
	} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(top, name))); err != nil {
			t.Fatal(err)
		}
		for _, d := range c.dirs {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, d, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("DATA_DIR="+dir+"/cloud\nDB_PASSWORD=s3cret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"adopt-project", name, "--profile", "silver", "--dry-run"}
		for _, f := range c.files {
			args = append(args, "--file", filepath.Join(dir, f))
		}
		r := w.h.Exec(t, args...)
		for _, want := range c.plan {
			if r.Exit != 0 || !strings.Contains(r.Out, want) || strings.Contains(r.Out+r.Err, "s3cret") {
				t.Errorf("plan of %s without %q:\n%s%s", name, want, r.Out, r.Err)
			}
		}
	}
}

// adoptKilled moves the project, while the command is killed at each of its places.
func (s *adopted) adoptKilled(t *testing.T) {
	t.Helper()
	args := []string{"adopt-project", "shop", "--profile", "silver", "--yes"}
	for _, place := range []string{"stop", "copy", "submit", "copied", "verify", "verified", "switch", "kept", "switched", "start", "recreated", "up"} {
		t.Setenv("DROVER_STEP", "adopt-project."+place)
		t.Setenv("DROVER_STEP_DO", "kill")
		if r := s.w.h.Exec(t, args...); r.Exit != -1 {
			t.Fatalf("killed at %s: %+v", place, r)
		}
	}
	t.Setenv("DROVER_STEP", "")
	s.w.drover(t, args...)
	s.await(t)
}
