package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
