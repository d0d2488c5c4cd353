package product

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
	"github.com/droverhq/drover/test/volumes"
)

// story is a database with which A1, A2 and A7 run on one kind of pool.
type story struct {
	pool    string // of host.Options
	profile string
	db      engine.Database
	server  []string // additional arguments of the server

	table  string // creates the table for numbers
	stream string // shell: reads numbers from n, stores them, and prints each one when it is durable
	last   string // query for the largest number stored
	drop   string // destroys all data
	live   bool   // the pool can clone a volume while it is written to
}

func stories() []story {
	const numbers = `n=0; while :; do n=$((n+1)); %s; done | %s > /tmp/acked`
	maria := story{
		pool: "xfs", profile: "gold", db: engine.MariaDB(), live: true,
		table:  "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, what VARCHAR(80))",
		stream: fmt.Sprintf(numbers, `echo "INSERT INTO shop.orders VALUES ($n, 'nails'); SELECT $n;"`, "mariadb --user=root --batch --skip-column-names --unbuffered"),
		last:   "SELECT MAX(id) FROM shop.orders", drop: "DROP DATABASE shop",
	}
	postgres := story{
		pool: "btrfs", profile: "gold", db: engine.PostgreSQL(), live: true,
		table:  "CREATE TABLE orders (id INT PRIMARY KEY, what VARCHAR(80))",
		stream: fmt.Sprintf(numbers, `echo "INSERT INTO orders VALUES ($n, 'nails') RETURNING id;"`, "psql --username=postgres --no-align --tuples-only --quiet"),
		last:   "SELECT MAX(id) FROM orders", drop: "DROP TABLE orders",
	}
	// A pool of plain folders has neither sizes nor consistent snapshots of a volume in use.
	redis := story{
		pool: "dir", profile: "bronze", db: engine.Redis(), server: []string{"redis", "--appendonly", "yes", "--appendfsync", "always"},
		table:  "SET orders 0",
		stream: fmt.Sprintf(numbers, `echo "INCR orders"`, "redis-cli"),
		last:   "GET orders", drop: "DEL orders",
	}
	return []story{maria, postgres, redis}
}

// start runs the database of the story on a volume and waits until it answers.
func (s story) start(t *testing.T, w *world, name, volume string, options ...string) {
	t.Helper()
	args := []string{"run", "-d", "--name", name, "-v", volume + ":" + s.db.DataDir, "--volume-driver", w.h.Driver}
	w.docker(t, append(append(append(args, options...), s.db.Image), s.server...)...)
	s.db.Await(t, w.e, name)
}

// acked returns the last number that the writer got an acknowledgement for.
func (s story) acked(t *testing.T, w *world, name string) int {
	t.Helper()
	all := w.lines(t, name, "/tmp/acked")
	if len(all) == 0 {
		return 0
	}
	n, err := strconv.Atoi(all[len(all)-1])
	if err != nil {
		t.Fatalf("the writer was told %q", all)
	}
	return n
}

func (s story) stored(t *testing.T, w *world, name string) int {
	t.Helper()
	n, err := strconv.Atoi(s.db.Query(t, w.e, name, s.last))
	require.NoError(t, err)
	return n
}

// TestA1A2A7 runs the main story on every kind of pool: a database on a profile, a clone of it while it writes, and a
// restore to a snapshot.
func TestA1A2A7(t *testing.T) {
	for _, s := range stories() {
		t.Run(s.pool, func(t *testing.T) {
			w := begin(t, host.Options{Pool: s.pool}, engine.Options{Ports: s.pool == "xfs"})
			t.Run("A1", func(t *testing.T) { testA1(t, w, s) })
			t.Run("A2", func(t *testing.T) { testA2(t, w, s) })
			t.Run("A7", func(t *testing.T) { testA7(t, w, s) })
		})
	}
}

func testA1(t *testing.T, w *world, s story) {
	volume := "demoVol@" + s.profile
	var publish []string
	if s.pool == "xfs" {
		publish = []string{"-p", fmt.Sprintf("127.0.0.1::%d", s.db.Port)}
	}
	s.start(t, w, "db", volume, publish...)
	s.db.Query(t, w.e, "db", s.table)

	mounts := w.docker(t, "inspect", "--format", "{{.Mounts}}", "db")
	for _, want := range []string{volume, s.db.DataDir, w.h.Driver, "true"} {
		if !strings.Contains(mounts, want) {
			t.Errorf("docker inspect shows no %q in %s", want, mounts)
		}
	}
	st := w.inspect(t, volume)
	in := st.Status
	if st.Driver != w.h.Driver || in.Volume != "demoVol" || in.Profile != s.profile || in.Node != "host-a" || in.Pool != "default" || in.Problem != "" {
		t.Errorf("docker volume inspect: %+v", st)
	}
	if want := filepath.Join(w.h.Root, "mnt", in.Dataset); st.Mountpoint != want || len(in.Dataset) != 36 {
		t.Errorf("mount point %s, want %s", st.Mountpoint, want)
	}
	if _, err := time.Parse(time.RFC3339, st.CreatedAt); err != nil {
		t.Error(err)
	}
	if gold := s.profile == "gold"; gold && (in.Size != 20<<30 || in.Used < 1<<20 || in.Used > in.Size) || !gold && in.Size != 0 {
		t.Errorf("size %d, used %d", in.Size, in.Used)
	}
	w.wantUses(t, volume, 1, 1)
	if publish != nil {
		greeting(t, w.docker(t, "port", "db", strconv.Itoa(s.db.Port)))
	}

	// The image needs an empty root, whose owner and mode it sets.
	fresh := "fresh@" + s.profile
	if got := w.once(t, fresh, "ls -A /data; stat -c %U /data"); got != "redis" {
		t.Errorf("a new volume has %q, want an empty folder of the image's user", got)
	}
	// The path is inspected before the container is made, and is the same in the container.
	path := w.inspect(t, fresh).Mountpoint
	w.run(t, "seen", fresh)
	if got, want := w.docker(t, "inspect", "--format", "{{.Mounts}}", "seen"), fmt.Sprintf("[{volume %s %s /data %s  true }]", fresh, path, w.h.Driver); got != want {
		t.Errorf("docker inspect: %s, want %s", got, want)
	}
	w.docker(t, "rm", "-f", "seen")
	w.docker(t, "volume", "rm", fresh)
}

// greeting fails unless a MariaDB answers at the address.
func greeting(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	require.NoError(t, err)
	defer conn.Close()
	head := make([]byte, 64)
	if n, err := io.ReadAtLeast(conn, head, 16); err != nil || !strings.Contains(string(head[:n]), "MariaDB") {
		t.Errorf("at %s: %q, %v", addr, head, err)
	}
}

func testA2(t *testing.T, w *world, s story) {
	w.docker(t, "exec", "-d", "db", "sh", "-c", s.stream)
	w.awaitMore(t, "db", "/tmp/acked")
	started := w.docker(t, "inspect", "--format", "{{.State.StartedAt}}", "db")
	uuid := filepath.Base(w.inspect(t, "demoVol@"+s.profile).Mountpoint)
	spec := "demoVol-snap@snapshot-" + uuid[:8]
	if !s.live {
		w.refused(t, "it cannot be copied meanwhile", "volume", "create", "-d", w.h.Driver, spec)
		w.docker(t, "stop", "-t", "60", "db")
		w.docker(t, "volume", "create", "-d", w.h.Driver, spec)
		w.docker(t, "start", "db")
		s.db.Await(t, w.e, "db")
	}
	before, free := s.acked(t, w, "db"), w.free(t)
	s.start(t, w, "db-snap", spec)
	first := s.stored(t, w, "db-snap")
	if first < before {
		t.Errorf("the clone has rows up to %d, but %d was stored before it was made", first, before)
	}
	if s.live {
		if took := free - w.free(t); took > 64<<20 {
			t.Errorf("the clone took %d MiB of the pool, though it shares its blocks", took>>20)
		}
		w.awaitMore(t, "db", "/tmp/acked")
		if now := s.stored(t, w, "db-snap"); now != first {
			t.Errorf("the clone went on from %d to %d with its original", first, now)
		}
		if again := w.docker(t, "inspect", "--format", "{{.State.StartedAt}}", "db"); again != started {
			t.Errorf("the original started again at %s", again)
		}
	}
	s.db.Query(t, w.e, "db-snap", s.drop)
	if now := s.stored(t, w, "db"); now < before {
		t.Errorf("the original has rows up to %d, but %d was stored", now, before)
	}
	clone := w.inspect(t, spec).Status
	if clone.Dataset == uuid || clone.Profile != s.profile {
		t.Errorf("the clone is dataset %s with profile %s", clone.Dataset, clone.Profile)
	}
	w.docker(t, "rm", "-f", "db-snap")
	w.docker(t, "volume", "rm", spec)
}

// free returns the free bytes of the filesystem of the pool.
func (w *world) free(t testing.TB) int64 {
	t.Helper()
	root, err := os.Open(w.h.Root)
	require.NoError(t, err)
	defer root.Close()
	var st unix.Statfs_t
	require.NoError(t, errors.Join(unix.Syncfs(int(root.Fd())), unix.Fstatfs(int(root.Fd()), &st)))
	return int64(st.Bavail) * st.Bsize
}

func testA7(t *testing.T, w *world, s story) {
	start := func() {
		t.Helper()
		w.docker(t, "start", "db")
		s.db.Await(t, w.e, "db")
	}
	snapshot := func(args ...string) {
		t.Helper()
		if !s.live {
			w.docker(t, "stop", "-t", "60", "db")
			defer start()
		}
		w.drover(t, append([]string{"snapshot", "create", "demoVol"}, args...)...)
	}
	w.docker(t, "restart", "-t", "60", "db") // this ends the writer of A2
	s.db.Await(t, w.e, "db")
	kept := s.stored(t, w, "db")
	snapshot("--name", "before-upgrade", "-m", fmt.Sprintf("rows up to %d", kept))
	s.db.Query(t, w.e, "db", s.drop)
	snapshot("--name", "newer")

	id := w.inspect(t, "demoVol@"+s.profile).Status.Mounts[0].ID
	r := w.h.Exec(t, "snapshot", "restore", "demoVol", "before-upgrade")
	if want := "drover: cannot restore volume demoVol: it is mounted by " + id[:12] + " on node host-a (stop its containers first; docker ps -a --filter volume=demoVol@" + s.profile + " shows them)"; r.Exit != 1 || r.FirstError() != want {
		t.Errorf("restore while it runs: exit %d, %q, want 1 and %q", r.Exit, r.Err, want)
	}
	w.docker(t, "stop", "-t", "60", "db")
	w.drover(t, "snapshot", "restore", "demoVol", "before-upgrade")
	names := w.drover(t, "snapshot", "ls", "demoVol")
	for _, want := range []string{"before-upgrade", "newer", "before restore of"} {
		if !strings.Contains(names, want) {
			t.Errorf("after the restore there is no snapshot %q:\n%s", want, names)
		}
	}
	start()
	if now := s.stored(t, w, "db"); now != kept {
		t.Errorf("after the restore there are rows up to %d, want %d", now, kept)
	}
	if !s.live {
		w.docker(t, "stop", "-t", "60", "db")
	}
	var snaps []dataset.Snapshot
	w.h.JSON(t, &snaps, "snapshot", "ls", "demoVol")
	for _, snap := range snaps {
		w.drover(t, "snapshot", "rm", snap.ID.String())
	}
	if left := w.drover(t, "snapshot", "ls", "demoVol", "-q"); len(snaps) < 3 || left != "" { // a fourth at the full hour
		t.Errorf("of %d snapshots there are left: %s", len(snaps), left)
	}
}

// TestOtherPools runs the most important scenarios on the kinds of pools that TestA1A2A7 does not have: the preallocated
// image that is used on a host without reflinks, and subvolumes. In the short form, each scenario runs on one or both.
func TestOtherPools(t *testing.T) {
	// The profiles of the scenarios without a filesystem inside of volumes.
	const sized = `default: bronze
profiles: {bronze: {size: 256MiB}, silver: {size: 256MiB}, gold: {size: 512MiB}}
`
	pools := []host.Options{
		{Pool: "ext4", Profiles: threeProfiles},
		{Pool: "subvolumes", Profiles: sized},
	}
	scenarios := []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"B1", testB1}, {"B3", testB3}, {"B6", testB6},
		{"B8 I11", func(t *testing.T, w *world) { volumes.InUse(t, w.suite()) }},
		{"B12", testB12}, {"B17", testB17},
		{"B17 spellings", func(t *testing.T, w *world) { volumes.Spellings(t, w.suite()) }},
	}
	for row, o := range pools {
		t.Run(o.Pool, func(t *testing.T) {
			w := begin(t, o, engine.Options{})
			for column, s := range scenarios {
				if long.Turn(row, len(pools), column, len(scenarios), 2) {
					t.Run(s.name, func(t *testing.T) { s.test(t, w) })
				}
			}
		})
	}
}
