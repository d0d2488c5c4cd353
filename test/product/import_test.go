package product

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

const imported = `
services:
  db: {image: drover-mariadb, network_mode: none, volumes: ["data:/var/lib/mysql"]}
volumes:
  data: {VOLUME}
`

// TestImportExport imports databases of a Compose project, from a volume of driver local and from a bind mount, and
// exports them again.
func TestImportExport(t *testing.T) {
	w := begin(t, host.Options{}, engine.Options{})
	t.Setenv("DOCKER_HOST", w.e.Host) // the VOLUME of --from docker:VOLUME
	t.Run("local volume", func(t *testing.T) { testImportLocal(t, w) })
	t.Run("export", func(t *testing.T) { testExport(t, w) })
	t.Run("bind mount", func(t *testing.T) { testImportBind(t, w) })
}

// testImportLocal leaves the project running on Drover.
func testImportLocal(t *testing.T, w *world) {
	db := engine.MariaDB()
	p := w.project(t, "old", strings.Replace(imported, "{VOLUME}", "", 1))
	p.must(t, "up", "-d")
	db.Await(t, w.e, "old-db-1")
	db.Query(t, w.e, "old-db-1", "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT); INSERT INTO shop.orders VALUES (7)")

	r := w.h.Exec(t, "volume", "import", "shopdb@gold", "--from", "docker:old_data")
	if want := `drover: docker volume "old_data" is in use by old-db-1: stop them, or use --live to copy while the data changes
`; r.Exit != 1 || r.Err != want {
		t.Errorf("import of what is in use: exit %d, %q, want %q", r.Exit, r.Err, want)
	}
	w.wantVolumes(t)
	p.must(t, "down")
	w.drover(t, "volume", "import", "shopdb@gold", "--from", "docker:old_data")
	if r := w.h.Exec(t, "volume", "import", "shopdb@gold", "--from", "docker:old_data"); r.Exit != 1 || !strings.Contains(r.Err, `volume "shopdb" exists already`) {
		t.Errorf("a second import: %+v", r)
	}
	if r := w.h.Exec(t, "volume", "import", "other", "--from", "docker:nothing"); r.Exit != 1 || !strings.Contains(r.Err, `no such Docker volume: "nothing"`) {
		t.Errorf("import of nothing: %+v", r)
	}

	p.write(t, strings.Replace(imported, "{VOLUME}", `{name: "shopdb@gold", driver: DRIVER}`, 1))
	p.must(t, "up", "-d")
	db.Await(t, w.e, "old-db-1")
	if got := db.Query(t, w.e, "old-db-1", "SELECT id FROM shop.orders"); got != "7" {
		t.Errorf("on Drover the database has %q", got)
	}
	db.Query(t, w.e, "old-db-1", "INSERT INTO shop.orders VALUES (8)")
	if got := w.docker(t, "exec", "old-db-1", "stat", "-c", "%U %a", "/var/lib/mysql"); got != w.docker(t, "run", "--rm", "-v", "old_data:/old", db.Image, "stat", "-c", "%U %a", "/old") {
		t.Errorf("owner and mode became %s", got)
	}
	// The source is unchanged.
	w.docker(t, "run", "-d", "--name", "source", "--network", "none", "-v", "old_data:"+db.DataDir, db.Image)
	db.Await(t, w.e, "source")
	if got := db.Query(t, w.e, "source", "SELECT MAX(id) FROM shop.orders"); got != "7" {
		t.Errorf("the source has %q", got)
	}
	w.docker(t, "rm", "-f", "source")
	w.docker(t, "volume", "rm", "old_data")
}

// testExport exports the data of a running database into a volume of driver local, and into another volume of Drover.
func testExport(t *testing.T, w *world) {
	db := engine.MariaDB()
	archive := filepath.Join(t.TempDir(), "shopdb.tar")
	out := w.h.Exec(t, "volume", "export", "shopdb")
	if out.Exit != 0 {
		t.Fatal(out.Err)
	}
	if err := os.WriteFile(archive, []byte(out.Out), 0o600); err != nil {
		t.Fatal(err)
	}
	w.docker(t, "run", "--rm", "-v", "back:"+db.DataDir, "-v", archive+":/archive:ro", db.Image, "tar", "--extract", "--file", "/archive", "--directory", db.DataDir)
	if r := w.h.ExecIn(t, []byte(out.Out), "volume", "import", "again@silver", "--from", "-"); r.Exit != 0 {
		t.Fatal(r.Err)
	}
	for name, mount := range map[string][]string{
		"local": {"-v", "back:" + db.DataDir},
		"again": {"-v", "again@silver:" + db.DataDir, "--volume-driver", w.h.Driver},
	} {
		w.docker(t, append(append([]string{"run", "-d", "--name", name, "--network", "none"}, mount...), db.Image)...)
		db.Await(t, w.e, name)
		if got := db.Query(t, w.e, name, "SELECT MAX(id) FROM shop.orders"); got != "8" {
			t.Errorf("%s has rows up to %q, want 8", name, got)
		}
		w.docker(t, "rm", "-f", name)
	}
	// Nothing remains of an archive that was cut in half.
	before := w.everything(t)
	if r := w.h.ExecIn(t, []byte(out.Out[:len(out.Out)/2]), "volume", "import", "half@gold", "--from", "-"); r.Exit != 2 || !strings.Contains(r.Err, "drover: import of volume half: ") || !strings.Contains(r.Err, "the tar stream is damaged or truncated: unexpected EOF (create it again") {
		t.Errorf("import of half an archive: %+v", r)
	}
	if after := w.everything(t); after != before {
		t.Errorf("something is left of half an archive\nbefore: %s\nafter:  %s", before, after)
	}
	w.docker(t, "rm", "-f", "old-db-1")
	w.docker(t, "volume", "rm", "back", "again@silver", "shopdb@gold")
}

func testImportBind(t *testing.T, w *world) {
	db, dir := engine.PostgreSQL(), t.TempDir()
	bind := dir + ":" + db.DataDir
	w.docker(t, "run", "-d", "--name", "bound", "--network", "none", "-v", bind, db.Image)
	db.Await(t, w.e, "bound")
	db.Query(t, w.e, "bound", "CREATE TABLE orders (id INT)")
	db.Query(t, w.e, "bound", "INSERT INTO orders VALUES (7)")
	w.docker(t, "stop", "-t", "60", "bound")
	w.docker(t, "rm", "bound")
	if r := w.h.Exec(t, "volume", "import", "pg@gold", "--from", dir+"/nothing"); r.Exit != 2 || !strings.Contains(r.Err, "no such file or directory") {
		t.Errorf("import of no folder: %+v", r)
	}
	w.drover(t, "volume", "import", "pg@gold", "--from", dir)
	w.docker(t, "run", "-d", "--name", "pg", "--network", "none", "-v", "pg@gold:"+db.DataDir, "--volume-driver", w.h.Driver, db.Image)
	db.Await(t, w.e, "pg")
	if got := db.Query(t, w.e, "pg", "SELECT id FROM orders"); got != "7" {
		t.Errorf("the database has %q", got)
	}
	w.docker(t, "rm", "-f", "pg")
	w.docker(t, "volume", "rm", "pg@gold")
}
