package product

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

// project is a Compose project: a folder with one file.
type project struct {
	w    *world
	name string
	dir  string
}

// project makes a project. DRIVER in the file stands for the driver's name.
func (w *world) project(t testing.TB, name, file string) project {
	t.Helper()
	p := project{w: w, name: name, dir: t.TempDir()}
	p.write(t, file)
	return p
}

func (p project) write(t testing.TB, file string) {
	t.Helper()
	file = strings.ReplaceAll(file, "DRIVER", p.w.h.Driver)
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "compose.yaml"), []byte(file), 0o600))
}

func (p project) try(t testing.TB, args ...string) engine.Result {
	t.Helper()
	return p.w.e.Compose(t, p.dir, append([]string{"--project-name", p.name}, args...)...)
}

func (p project) must(t testing.TB, args ...string) string {
	t.Helper()
	r := p.try(t, args...)
	if r.Exit != 0 {
		t.Fatalf("exit %d: %v", r.Exit, r)
	}
	return strings.TrimSpace(r.Stdout)
}

const shop = `
services:
  db:
    image: drover-mariadb
    network_mode: none
    volumes: ["data:/var/lib/mysql"]
  cache:
    image: drover-redis
    network_mode: none
    command: [redis, --appendonly, "yes", --appendfsync, always]
    volumes: ["cache:/data"]
volumes:
  data: {name: "data@gold", driver: DRIVER}
  cache: {name: cache, driver: DRIVER, driver_opts: {profile: gold, size: 1GiB}}
`

// testA3: the same through Compose, with the profile in the name and in driver_opts.
func testA3(t *testing.T, w *world) {
	w.drover(t, "trash", "purge", "--all", "--yes")
	p := w.project(t, "shop", shop)
	db, cache := engine.MariaDB(), engine.Redis()
	up := func(t *testing.T) {
		t.Helper()
		p.must(t, "up", "-d")
		db.Await(t, w.e, "shop-db-1")
		cache.Await(t, w.e, "shop-cache-1")
	}
	up(t)
	db.Query(t, w.e, "shop-db-1", "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT); INSERT INTO shop.orders VALUES (7)")
	cache.Query(t, w.e, "shop-cache-1", "SET order 7")
	for spelling, size := range map[string]int64{"data@gold": 1 << 30, "cache": 1 << 30} {
		if st := w.inspect(t, spelling); st.Driver != w.h.Driver || st.Status.Profile != "gold" || st.Status.Size != size {
			t.Errorf("%s: %+v", spelling, st)
		}
		w.wantUses(t, spelling, 1, 1)
	}

	// An `up` without a change recreates nothing.
	containers, datasets := p.must(t, "ps", "-q"), w.drover(t, "volume", "ls", "-q")
	up(t)
	if again := p.must(t, "ps", "-q"); again != containers {
		t.Errorf("containers %q became %q", containers, again)
	}

	p.must(t, "down")
	w.wantUses(t, "data@gold", 0, 0)
	w.wantVolumes(t, "cache", "data")
	up(t)
	if got := db.Query(t, w.e, "shop-db-1", "SELECT id FROM shop.orders"); got != "7" {
		t.Errorf("after down and up the database has %q", got)
	}
	if got := cache.Query(t, w.e, "shop-cache-1", "GET order"); got != "7" {
		t.Errorf("after down and up the cache has %q", got)
	}
	if again := w.drover(t, "volume", "ls", "-q"); again != datasets {
		t.Errorf("datasets %q became %q", datasets, again)
	}

	p.must(t, "down", "-v")
	w.wantVolumes(t)
	if trash := w.drover(t, "trash", "ls", "-q"); len(strings.Fields(trash)) != 2 {
		t.Errorf("in the trash: %q, want both", trash)
	}
	// And back, under the name for which Compose looks.
	for id := range strings.FieldsSeq(datasets) {
		w.drover(t, "trash", "restore", id)
	}
	up(t)
	if got := db.Query(t, w.e, "shop-db-1", "SELECT id FROM shop.orders"); got != "7" {
		t.Errorf("back from the trash the database has %q", got)
	}
	// Compose does not remove what it did not make.
	p.must(t, "down", "-v")
	w.wantVolumes(t, "cache", "data")
	w.docker(t, "volume", "rm", "data@gold", "cache")

	// A wrong word is reported as elsewhere, and nothing is made (A10).
	p.write(t, strings.ReplaceAll(shop, "profile: gold", "profile: glod"))
	r := p.try(t, "up", "-d")
	if want := `create cache: VolumeDriver.Create: drover: unknown profile "glod" (available: brief, bronze, gold, silver)`; r.Exit == 0 || !strings.Contains(r.Stderr, want) {
		t.Errorf("up with an unknown profile: exit %d, %s, want %s", r.Exit, r.Stderr, want)
	}
	p.must(t, "down", "-v")
	w.wantVolumes(t)
}
