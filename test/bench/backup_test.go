package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// BenchmarkBackup compares backups and restores with restic itself, on the files of a PostgreSQL database of about 1
// GiB, and measures the database while it is backed up. BENCH_BACKUP_SCALE is the scale of pgbench, at 15 MiB each: 330
// makes 5 GiB.
func BenchmarkBackup(b *testing.B) {
	s := newBackups(b)
	header(os.Stdout, "restic", "drover")
	s.compareRuns("first backup", true, func() {})
	s.compareRuns("second backup, after a change of 1 %", false, s.change)
	s.restores()
	s.writerBeside()
	quiet(b)
}

// backups is a database in a volume, and what is needed to back it up twice: by Drover, and by restic itself.
type backups struct {
	*testing.B
	host   *host.Host
	plug   *host.Plug
	engine *engine.Engine
	at     place  // the volume with the running database
	dir    string // for repositories and the password
	source string // where restic itself finds the files: always the same path, as it compares with the last backup
	scale  int    // of pgbench
	copies int
	last   [2]string // the last repository of restic itself, and of Drover
	ids    [2]string // the last backup in each
}

func newBackups(b *testing.B) *backups {
	h := host.Start(b, host.Options{Size: 64 << 30, Profiles: "default: plain\nprofiles:\n" +
		"  plain: {size: 14GiB, backend: loop}\n"})
	s := &backups{B: b, host: h, plug: h.Plug(b), engine: engine.Start(b, engine.Options{}), dir: b.TempDir()}
	s.source = filepath.Join(s.dir, "source")
	s.ok(os.Mkdir(s.source, 0o700))
	s.ok(os.WriteFile(filepath.Join(s.dir, "password"), []byte("correct horse\n"), 0o600))
	db := engine.PostgreSQL()
	s.at = place{name: "database", volume: benched}
	s.ok(s.plug.Create(benched, nil))
	s.engine.Must(b, "run", "--detach", "--name", s.at.name, "--volume", benched+":"+db.DataDir, "--volume-driver", h.Driver,
		db.Image, "postgres", "-c", "checkpoint_timeout=1h", "-c", "autovacuum=off")
	b.Cleanup(func() { s.engine.Must(b, "rm", "--force", s.at.name) })
	db.Await(b, s.engine, s.at.name)
	s.scale = knob(b, "BENCH_BACKUP_SCALE", 66)
	pgbench(b, s.engine, s.at, "--initialize", "--init-steps=dtgp", fmt.Sprintf("--scale=%d", s.scale), "--quiet")
	s.sql("CHECKPOINT")
	return s
}

func (s *backups) ok(err error) {
	s.Helper()
	require.NoError(s, err)
}

func (s *backups) sql(text string) {
	s.Helper()
	script := `exec /usr/lib/postgresql/*/bin/psql "$@"`
	s.engine.Must(s, "exec", s.at.name, "sh", "-c", script, "psql", "--username=postgres", "--quiet", "--command="+text)
}

// change updates a row in two hundred, next to each other: their pages change, and as many new ones are written.
func (s *backups) change() {
	s.sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 1000000 < 5000")
	s.sql("CHECKPOINT")
}

// compareRuns compares the time of a backup, and the bytes that it adds to the repository. Each round backs up the same
// state of the database: Drover by a snapshot, and restic itself from a mounted clone. If fresh, each round has new
// repositories.
func (s *backups) compareRuns(what string, fresh bool, before func()) {
	s.Helper()
	var took, added [2][]float64
	for round := range knob(s.B, "BENCH_BACKUP_ROUNDS", 3) {
		before()
		if fresh || s.last[0] == "" {
			s.newRepositories("0") // restic itself has no limit
		}
		unmount := s.mountCopy()
		measure := []func() (float64, float64){s.byRestic, s.byDrover}
		for i := range measure {
			i = (i + round) % len(measure)
			s.ok(os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
			seconds, bytes := measure[i]()
			took[i], added[i] = append(took[i], seconds), append(added[i], bytes)
		}
		unmount()
	}
	compare(what, took[0], took[1], "ms", atMost(1.1))
	compare(what+": MiB added", added[0], added[1], "MiB", atMost(1.03))
}

// newRepositories makes an empty repository for each, and removes the former ones. maxRead limits what a backup by
// Drover reads in a second. If it is empty, the default applies.
func (s *backups) newRepositories(maxRead string) {
	s.Helper()
	s.copies++
	for i, name := range []string{"restic", "drover"} {
		if s.last[i] != "" {
			s.ok(os.RemoveAll(s.last[i]))
		}
		s.last[i] = filepath.Join(s.dir, fmt.Sprintf("%s-%d", name, s.copies))
	}
	s.restic("init")
	add := []string{"repository", "add", s.repository(), s.last[1], "--password", "file:" + filepath.Join(s.dir, "password")}
	if maxRead != "" {
		add = append(add, "--max-read", maxRead)
	}
	s.host.Must(s, add...)
}

func (s *backups) repository() string { return filepath.Base(s.last[1]) }

// mountCopy mounts a clone of the database at source.
func (s *backups) mountCopy() (unmount func()) {
	s.Helper()
	s.copies++
	name := fmt.Sprintf("copy-%d", s.copies)
	s.ok(s.plug.Create(name, map[string]string{"from": benched}))
	path, err := s.plug.Mount(name, "bench")
	s.ok(err)
	s.ok(unix.Mount(path, s.source, "", unix.MS_BIND, ""))
	return func() {
		s.ok(unix.Unmount(s.source, 0))
		s.ok(s.plug.Unmount(name, "bench"))
		s.ok(s.plug.Remove(name))
	}
}

// restic runs restic itself in the folder with the database.
func (s *backups) restic(args ...string) []byte {
	s.Helper()
	cmd := exec.Command("restic", append([]string{
		"--repo=" + s.last[0], "--password-file=" + filepath.Join(s.dir, "password"), "--cache-dir=" + filepath.Join(s.dir, "cache"), "--json",
	}, args...)...)
	cmd.Dir = s.source
	out, err := cmd.Output()
	require.NoErrorf(s, err, "%s", cmd)
	return out
}

func (s *backups) byRestic() (ms, mib float64) {
	s.Helper()
	var out []byte
	ms = timed(func() { out = s.restic("backup", "--host=bench", ".") })
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var summary struct {
		Added      float64 `json:"data_added"`
		SnapshotID string  `json:"snapshot_id"`
	}
	s.ok(json.Unmarshal(lines[len(lines)-1], &summary))
	s.ids[0] = summary.SnapshotID
	return ms, summary.Added / (1 << 20)
}

func (s *backups) byDrover() (ms, mib float64) {
	s.Helper()
	var id string
	ms = timed(func() {
		id = s.host.Must(s, "backup", "create", benched, "--to", s.repository(), "--detach")
		s.host.Must(s, "operation", "inspect", "--wait", id)
	})
	var op dataset.Operation
	s.ok(json.Unmarshal([]byte(s.host.Must(s, "operation", "inspect", id, "-o", "json")), &op))
	s.ids[1] = op.Backup
	return ms, float64(op.BytesAdded) / (1 << 20)
}

// restores compares the time of a restore into a new volume, and of a verification. restic itself writes into a volume
// too, and flushes it.
func (s *backups) restores() {
	s.Helper()
	s.compareReads("restore",
		func() { s.restoreByRestic() },
		func() { s.host.Must(s, "backup", "restore", s.ids[1][:16], "restored", "--repository", s.repository()) })
	s.compareReads("verify",
		func() { s.restoreByRestic("--verify") },
		func() {
			s.host.Must(s, "backup", "verify", s.ids[1][:16], "--repository", s.repository())
			s.ok(s.plug.Create("restored", nil)) // removed after each measurement
		})
}

// compareReads compares the time of two ways to read a whole backup, which leave a volume "restored". The removal of
// that volume is on the disk before the next measurement, so that no way pays for the one before it.
func (s *backups) compareReads(what string, measure ...func()) {
	s.Helper()
	var took [2][]float64
	for round := range knob(s.B, "BENCH_BACKUP_ROUNDS", 3) {
		for i := range measure {
			i = (i + round) % len(measure)
			unix.Sync()
			s.ok(os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
			took[i] = append(took[i], timed(measure[i]))
			s.ok(s.plug.Remove("restored"))
			s.host.Must(s, "trash", "purge", "--all", "--yes")
		}
	}
	compare(what, took[0], took[1], "ms", atMost(1.1))
}

func (s *backups) restoreByRestic(options ...string) {
	s.Helper()
	s.ok(s.plug.Create("restored", nil))
	path, err := s.plug.Mount("restored", "bench")
	s.ok(err)
	s.restic(append([]string{"restore", s.ids[0], "--target=" + path}, options...)...)
	f, err := os.Open(path)
	s.ok(err)
	s.ok(unix.Syncfs(int(f.Fd())))
	s.ok(f.Close())
	s.ok(s.plug.Unmount("restored", "bench"))
}

// The parts of a run of pgbench beside a backup, and how long each lasts. A backup lasts as long as it takes.
const (
	partTime = 10 * time.Second
	alone    = 0
	before   = 1 // beside a snapshot, before the backup
	backedUp = 2
	after    = 3 // beside a later snapshot, after the backup
	parts    = 4
)

// writerBeside measures transactions a second alone, beside a snapshot, and during a first backup with the default limit
// of what a backup reads. All are measured in one run of pgbench, second by second. The rate beside a snapshot is the
// mean of a part before the backup and of one after it, so that a machine that becomes slower or faster does not look
// like the effect of the backup. No checkpoint of the database begins by itself: it would halve the rate of a part.
//
// The goal compares the backup with a snapshot only. A backup needs a snapshot, and after each snapshot the blocks that
// the volume shares with it must be copied before they are overwritten. The limit cannot change this part, so it is
// reported in a row without a goal.
func (s *backups) writerBeside() {
	s.Helper()
	s.sql("ALTER SYSTEM SET max_wal_size = '8GB'")
	s.sql("SELECT pg_reload_conf()")
	var byItself, shared, backup []float64
	for range knob(s.B, "BENCH_BACKUP_ROUNDS", 3) {
		s.newRepositories("")
		s.sql("SELECT sum(abalance) FROM pgbench_accounts") // otherwise the first part reads from a cold disk
		s.sql("CHECKPOINT")
		rates := s.beside()
		byItself = append(byItself, rates[alone])
		shared = append(shared, (rates[before]+rates[after])/2)
		backup = append(backup, rates[backedUp])
	}
	header(os.Stdout, "alone", "beside")
	compare("pgbench, 4 clients, beside a snapshot", byItself, shared, "/s", goal{})
	compare("pgbench, 4 clients, beside a first backup", byItself, backup, "/s", goal{})
	header(os.Stdout, "snapshot only", "backed up")
	compare("pgbench, 4 clients, beside a first backup", shared, backup, "/s", atLeast(0.9))
}

// beside returns the mean transactions a second of each part of a run of pgbench.
func (s *backups) beside() (rates [parts]float64) {
	s.Helper()
	// pgbench runs three times as long as the limit lets the backup take. The scale is that of 15 MiB each.
	lasts := 3*partTime + 15*time.Second + 3*time.Duration(s.scale*15/64)*time.Second
	out := make(chan string, 1)
	go func() {
		defer close(out) // also if pgbench fails
		out <- pgbench(s.B, s.engine, s.at, "--client=4", "--jobs=2", fmt.Sprintf("--time=%.0f", lasts.Seconds()),
			"--no-vacuum", "--progress=1", "--progress-timestamp")
	}()
	var from, to [parts]time.Time
	part := func(i int, run func()) {
		from[i] = time.Now()
		run()
		to[i] = time.Now()
	}
	wait := func() { time.Sleep(partTime) }
	part(alone, wait)
	s.host.Must(s, "snapshot", "create", benched, "--name", "before")
	part(before, wait)
	part(backedUp, func() {
		id := s.host.Must(s, "backup", "create", benched, "--to", s.repository(), "--detach")
		s.host.Must(s, "operation", "inspect", "--wait", id)
	})
	s.host.Must(s, "snapshot", "create", benched, "--name", "after")
	part(after, wait)
	text := <-out
	s.host.Must(s, "snapshot", "rm", benched+"@before")
	s.host.Must(s, "snapshot", "rm", benched+"@after")
	for part := range rates {
		if rates[part] = rateBetween(text, from[part], to[part]); rates[part] == 0 {
			s.Fatalf("pgbench measured no second of part %d: %s", part, text)
		}
	}
	return rates
}

// rateBetween returns the mean of the transactions a second in the progress of pgbench. Only seconds that begin after
// from and end before to count.
func rateBetween(text string, from, to time.Time) float64 {
	var rates []float64
	for line := range strings.Lines(text) {
		var end, rate float64
		if n, _ := fmt.Sscanf(line, "progress: %f s, %f tps", &end, &rate); n != 2 {
			continue
		}
		at := time.UnixMicro(int64(end * 1e6))
		if at.Add(-time.Second).After(from) && at.Before(to) {
			rates = append(rates, rate)
		}
	}
	if len(rates) == 0 {
		return 0
	}
	var sum float64
	for _, rate := range rates {
		sum += rate
	}
	return sum / float64(len(rates))
}
