package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

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
