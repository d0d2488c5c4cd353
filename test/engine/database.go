package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A Database is one of the servers in the images of scripts/image.sh.
type Database struct {
	Image   string // also its name
	DataDir string // the folder of its data in the container
	Port    int    // port on which it listens

	client []string // command that runs one query and prints only the result
}

// databaseTimeout is how long a database may take from its start to its first answer. It takes 3 s, and much
// longer if a disk is slow to flush.
const databaseTimeout = 2 * time.Minute

// MariaDB returns the MariaDB server; its queries run as root.
func MariaDB() Database {
	client := []string{"mariadb", "--user=root", "--batch", "--skip-column-names", "--execute"}
	return Database{Image: "drover-mariadb", DataDir: "/var/lib/mysql", Port: 3306, client: client}
}

// PostgreSQL returns the PostgreSQL server; its queries run as postgres.
func PostgreSQL() Database {
	client := []string{"psql", "--username=postgres", "--no-align", "--tuples-only", "--command"}
	return Database{Image: "drover-postgres", DataDir: "/var/lib/postgresql/data", Port: 5432, client: client}
}

// Redis returns the Redis server; its queries are a command of Redis, split at blanks.
func Redis() Database {
	return Database{Image: "drover-redis", DataDir: "/data", Port: 6379, client: []string{"redis-cli", "-e"}}
}

// Query runs one query in a container and returns what it printed, without the last newline.
func (d Database) Query(t testing.TB, e *Engine, container, query string) string {
	t.Helper()
	return e.Must(t, d.exec(container, query)...)
}

// Try is Query for a query that may fail.
func (d Database) Try(t testing.TB, e *Engine, container, query string) Result {
	t.Helper()
	return e.Docker(t, d.exec(container, query)...)
}

func (d Database) exec(container, query string) []string {
	args := append([]string{"exec", container}, d.client...)
	if d.client[0] == "redis-cli" {
		return append(args, strings.Fields(query)...)
	}
	return append(args, query)
}

// Await waits until the database in a container answers. If the container ends, the test fails at once and shows
// the output of the container.
func (d Database) Await(t testing.TB, e *Engine, container string) {
	t.Helper()
	probe := "SELECT 1"
	if d.client[0] == "redis-cli" {
		probe = "PING"
	}
	var ended error
	err := await(databaseTimeout, func() error {
		r := d.Try(t, e, container, probe)
		if r.Exit == 0 {
			return nil
		}
		if r.Exit == 126 || r.Exit == 127 { // docker could not even start the client
			ended = errors.New(strings.TrimSpace(r.Stdout + r.Stderr))
			return nil
		}
		state := e.Must(t, "inspect", "--format", "{{.State.Status}}", container)
		if state == "running" {
			return fmt.Errorf("%s does not answer: %s", container, strings.TrimSpace(r.Stdout+r.Stderr))
		}
		ended = fmt.Errorf("%s is %s", container, state)
		return nil
	})
	if err := errors.Join(err, ended); err != nil {
		t.Fatalf("%s: %v\n%v", d.Image, err, e.Docker(t, "logs", "--tail", "40", container))
	}
}
