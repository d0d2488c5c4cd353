package product

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// TestProjectAfterDisaster loses a host on which a Compose project runs: the pool, Drover's store and the engine's
// state. The volumes were backed up while the databases were in use. On another host, drover recover brings them back,
// "docker compose up" starts the project from its unchanged file, and the databases have their rows.
func TestProjectAfterDisaster(t *testing.T) {
	elsewhere := t.TempDir()
	at, secret := filepath.Join(elsewhere, "offsite"), filepath.Join(elsewhere, "password")
	if err := os.WriteFile(secret, []byte("correct horse battery staple"), 0o600); err != nil {
		t.Fatal(err)
	}
	db, cache := engine.MariaDB(), engine.Redis()
	up := func(t *testing.T, w *world, p project) {
		t.Helper()
		p.must(t, "up", "-d")
		db.Await(t, w.e, "shop-db-1")
		cache.Await(t, w.e, "shop-cache-1")
	}
	const rows = "SELECT COUNT(*), SUM(id) FROM shop.orders"
	var want string
	if !t.Run("lost", func(t *testing.T) { // all that this host has is removed at the end
		w := begin(t, host.Options{}, engine.Options{})
		p := w.project(t, "shop", shop)
		up(t, w, p)
		db.Query(t, w.e, "shop-db-1", "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); "+
			"INSERT INTO shop.orders SELECT seq FROM shop.seq_1_to_20000")
		cache.Query(t, w.e, "shop-cache-1", "SET order 7")
		want = db.Query(t, w.e, "shop-db-1", rows)
		restictest.Make(t, at, "correct horse battery staple")
		w.drover(t, "repository", "add", "offsite", at, "--password", "file:"+secret)
		w.drover(t, "backup", "create", "data", "cache")
		db.Query(t, w.e, "shop-db-1", "INSERT INTO shop.orders VALUES (30000)") // after the backup
		p.must(t, "down", "-v")
	}) {
		return
	}
	w := begin(t, host.Options{}, engine.Options{})
	if out := w.drover(t, "recover", "--from", at, "--name", "offsite", "--password", "file:"+secret, "--all", "--take-over"); !strings.HasSuffix(
		strings.TrimSpace(out), "2 of 2 volumes are recovered") {
		t.Fatalf("got %q", out)
	}
	p := w.project(t, "shop", shop)
	up(t, w, p)
	if got := db.Query(t, w.e, "shop-db-1", rows); got != want || !strings.HasPrefix(got, "20000") {
		t.Errorf("the database has %q, want %q", got, want)
	}
	if got := cache.Query(t, w.e, "shop-cache-1", "GET order"); got != "7" {
		t.Errorf("the cache has %q", got)
	}
	if left := w.drover(t, "volume", "ls", "-q"); len(strings.Fields(left)) != 2 {
		t.Errorf("compose made other volumes: %q", left)
	}
	p.must(t, "down", "-v")
}
