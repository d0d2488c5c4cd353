package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
)

// An engineVolume makes and removes volumes as Docker's command line does, without the
// time that the command line itself takes.
type engineVolume struct {
	tb     testing.TB
	engine peer
	driver string
	n      int
}

func (v *engineVolume) createAndRemove() {
	v.n++
	name := fmt.Sprintf("bench-%s-%d", v.driver, v.n)
	body := struct{ Name, Driver string }{name, v.driver}
	v.engine.must(v.tb, "POST", "/volumes/create", body)
	v.engine.must(v.tb, "DELETE", "/volumes/"+name, nil)
}

// BenchmarkCreateRemove: create and remove through the engine, Drover against local. Both
// flush, Drover more often, and a flush takes as long as a disk wants; so the same flushes
// are timed beside and taken off both. The raw times are printed as well.
func BenchmarkCreateRemove(b *testing.B) {
	header(os.Stdout, "local", "drover")
	for _, fs := range []string{"xfs", "btrfs"} {
		b.Run(fs, func(b *testing.B) {
			h := host.Start(b, host.Options{Pool: fs})
			e := engine.Start(b, engine.Options{})
			createRemove(b, h, e, "create + remove, loop on "+fs)
			quiet(b)
		})
	}
}

func createRemove(b *testing.B, h *host.Host, e *engine.Engine, what string) {
	api := dial(strings.TrimPrefix(e.Host, "unix://"))
	defer api.close()
	local := &engineVolume{tb: b, engine: api, driver: "local"}
	ours := &engineVolume{tb: b, engine: api, driver: h.Driver}
	ours.createAndRemove() // the template is made
	dir := func(path string) string {
		if strings.HasPrefix(path, e.Dir) {
			return e.Dir
		}
		return top(h)
	}
	flushes := func(v *engineVolume) *beside {
		seen := traced(b, v.createAndRemove, e.PID(), h.PID())
		all := slices.Concat(seen[e.PID()].events, seen[h.PID()].events)
		return newBeside(b, all, dir, template(b, h))
	}
	localFlushes, ourFlushes := flushes(local), flushes(ours)
	s := inTurns(pairs(b),
		func() float64 { return timed(local.createAndRemove) }, localFlushes.time,
		func() float64 { return timed(ours.createAndRemove) }, ourFlushes.time)
	compare(what+", without flushes", minus(s[0], s[1]), minus(s[2], s[3]), "ms", atMost(1.5))
	compare(what+", raw", s[0], s[2], "ms", goal{})
	compare(fmt.Sprintf("flushes alone (%d and %d)", localFlushes.flushes, ourFlushes.flushes), s[1], s[3], "ms", goal{})
}

// top is the root of the filesystem that a host's pool lies on.
func top(h *host.Host) string { return filepath.Dir(h.Root) }

// template is the image that volumes of the default profile start from, once there was
// one.
func template(tb testing.TB, h *host.Host) string {
	tb.Helper()
	found, err := filepath.Glob(filepath.Join(h.Root, "pools", "default", "templates", "*.img"))
	if err != nil || len(found) != 1 {
		tb.Fatalf("templates: %v, %v", found, err)
	}
	return found[0]
}
