package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

// image is the image of containers for which any image will do.
const image = "drover-redis"

// BenchmarkDockerRun measures the whole of `docker run --rm` with an existing volume.
func BenchmarkDockerRun(b *testing.B) {
	h := startHost(b, "xfs")
	e := engine.Start(b, engine.Options{})
	run := func(driver string) func() float64 {
		e.Must(b, "volume", "create", "--driver", driver, "bench-"+driver)
		args := []string{"run", "--rm", "--volume", "bench-" + driver + ":/bench", "--volume-driver", driver, image, "true"}
		return func() float64 { return timed(func() { e.Must(b, args...) }) }
	}
	header(os.Stdout, "local", "drover")
	s := inTurns(pairs(b), run("local"), run(h.Driver))
	compare("docker run --rm with a volume", s[0], s[1], "ms", atMost(1.05))
	quiet(b)
}

// BenchmarkVolumeList measures `docker volume ls` with all volumes of driver local, against all volumes of Drover. An
// engine asks every plugin that it finds, so these are two engines that run side by side. The plugin's socket is
// hidden while the engine without Drover is asked. It also measures the start of each engine, which asks for every
// volume that it remembers.
func BenchmarkVolumeList(b *testing.B) {
	n := volumes(b)
	h := startHost(b, "xfs")
	hidden := filepath.Join(filepath.Dir(h.Socket()), "hidden")
	hide := func() { rename(b, h.Socket(), hidden) }
	show := func() { rename(b, hidden, h.Socket()) }

	hide()
	plain := engine.Start(b, engine.Options{})
	create(b, plain, "local", n)
	show()
	ours := engine.Start(b, engine.Options{})
	create(b, ours, h.Driver, n)
	ls := func(e *engine.Engine) float64 {
		out := list(b, e)
		if got := strings.Count(out, "\n"); got != n {
			b.Fatalf("docker volume ls shows %d volumes, want %d", got, n)
		}
		return timed(func() { list(b, e) })
	}
	header(os.Stdout, "local", "drover")
	s := inTurns(pairs(b), func() float64 {
		hide()
		defer show()
		return ls(plain)
	}, func() float64 { return ls(ours) })
	compare(fmt.Sprintf("docker volume ls, %d volumes", n), s[0], s[1], "ms", atMost(1.2))
	s = inTurns(min(pairs(b), 7), func() float64 {
		hide()
		defer show()
		return timed(func() { plain.Restart(b) })
	}, func() float64 { return timed(func() { ours.Restart(b) }) })
	compare(fmt.Sprintf("stop and start of the engine, %d volumes", n), s[0], s[1], "ms", goal{})
	quiet(b)
}

// create makes volumes through an engine.
func create(b *testing.B, e *engine.Engine, driver string, n int) {
	b.Helper()
	api := dial(strings.TrimPrefix(e.Host, "unix://"))
	defer api.close()
	atOnce(b, 16, n, func(i int) error {
		return api.call("POST", "/volumes/create", struct{ Name, Driver string }{fmt.Sprintf("volume-%d", i), driver})
	})
}

func rename(tb testing.TB, from, to string) {
	tb.Helper()
	require.NoError(tb, os.Rename(from, to))
}

// list returns the output of docker volume ls -q.
func list(tb testing.TB, e *engine.Engine) string {
	tb.Helper()
	cmd := exec.Command("docker", "volume", "ls", "--quiet")
	cmd.Env = e.Env()
	out, err := cmd.Output()
	require.NoError(tb, err)
	return string(out)
}

// BenchmarkSyncedWrites measures random writes of 16 KiB into an existing file, with fdatasync after each, by fio.
func BenchmarkSyncedWrites(b *testing.B) {
	h := startHost(b, "xfs")
	at := places(b, h)
	for _, p := range at { // the file, so that all blocks are there
		fio(b, p, "--rw=write", "--bs=1M", "--end_fsync=1")
	}
	header(os.Stdout, "other place", "volume")
	againstPlaces(b, "16 KiB + fdatasync", "/s", at, func(p place) float64 {
		return fio(b, p, "--rw=randwrite", "--bs=16k", "--fdatasync=1", "--randrepeat=0",
			"--time_based", "--runtime="+strconv.FormatInt(loadTime(b).Milliseconds(), 10)+"ms")
	})
	quiet(b)
}

// fio runs a job on a file of 256 MiB and returns its writes a second.
func fio(b *testing.B, p place, job ...string) float64 {
	b.Helper()
	args := append([]string{
		"--name=bench", "--filename=" + filepath.Join(p.dir, "fio"), "--size=256M", "--ioengine=psync", "--output-format=json",
	}, job...)
	out, err := exec.Command("fio", args...).Output()
	if err != nil {
		b.Fatalf("fio on %s: %v: %s", p.name, err, out)
	}
	var report struct {
		Jobs []struct{ Write struct{ IOPS float64 } }
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 {
		b.Fatalf("fio on %s: %v: %s", p.name, err, out)
	}
	return report.Jobs[0].Write.IOPS
}

// BenchmarkPgbench: transactions a second of PostgreSQL with four clients.
func BenchmarkPgbench(b *testing.B) {
	h := startHost(b, "xfs")
	e := engine.Start(b, engine.Options{})
	at := places(b, h)
	db := engine.PostgreSQL()
	for _, p := range at {
		from := p.volume
		if from == "" {
			from = filepath.Join(p.dir, "postgres")
			require.NoError(b, os.Mkdir(from, 0o755))
		}
		// Checkpoints do not affect one place more than another.
		e.Must(b, "run", "--detach", "--name", p.name, "--volume", from+":"+db.DataDir, "--volume-driver", h.Driver,
			db.Image, "postgres", "-c", "checkpoint_timeout=1h", "-c", "max_wal_size=8GB", "-c", "autovacuum=off")
		db.Await(b, e, p.name)
		pgbench(b, e, p, "--initialize", "--scale=10", "--quiet")
	}
	header(os.Stdout, "other place", "volume")
	againstPlaces(b, "pgbench, 4 clients", "/s", at, func(p place) float64 {
		out := pgbench(b, e, p, "--client=4", "--jobs=2", fmt.Sprintf("--time=%d", max(int(loadTime(b).Seconds()), 1)), "--no-vacuum")
		m := regexp.MustCompile(`tps = ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			b.Fatalf("pgbench on %s: %s", p.name, out)
		}
		tps, err := strconv.ParseFloat(m[1], 64)
		require.NoError(b, err)
		return tps
	})
	for _, p := range at {
		e.Must(b, "rm", "--force", p.name)
	}
	quiet(b)
}

// pgbench runs pgbench in a place's container. The output includes the progress, which pgbench writes to the standard
// error.
func pgbench(b *testing.B, e *engine.Engine, p place, args ...string) string {
	b.Helper()
	script := `exec /usr/lib/postgresql/*/bin/pgbench --username=postgres "$@" 2>&1`
	return e.Must(b, append([]string{"exec", p.name, "sh", "-c", script, "pgbench"}, append(args, "postgres")...)...)
}
