package cluster_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/cluster"
)

// statusTime is how long the test waits until drover status names a condition, and until it is quiet after its end. The
// goal is 20 seconds: the log has how long it took. A busy machine takes longer, and timings do not decide.
const statusTime = 2 * time.Minute

// findings returns what drover status finds on a host.
func findings(t *testing.T, h *cluster.Host) []api.Finding {
	t.Helper()
	var r struct{ Findings []api.Finding }
	out := h.Exec(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out.Out), &r); err != nil {
		t.Fatalf("drover status on %s: %v\n%s%s", h.Name, err, out.Out, out.Err)
	}
	return r.Findings
}

// awaitFinding waits until drover status on a host has, or no longer has, a finding, but no longer than statusTime.
func awaitFinding(t *testing.T, h *cluster.Host, level, subject, text string, want bool) {
	t.Helper()
	began := time.Now()
	for {
		all := findings(t, h)
		has := slices.ContainsFunc(all, func(f api.Finding) bool {
			return f.Level == level && strings.Contains(f.Subject, subject) && strings.Contains(f.Text, text)
		})
		took := time.Since(began)
		if has == want {
			t.Logf("%s %s %q: %t after %v", level, subject, text, want, took.Round(100*time.Millisecond))
			return
		}
		if took > statusTime {
			t.Fatalf("finding %s %s %q on %s is %t after %v, want %t; all: %+v", level, subject, text, h.Name, has, took, want, all)
		}
		time.Sleep(200 * time.Millisecond) // nothing announces what the next report of a node has
	}
}

// testStatus: drover status on any host names what is wrong in the cluster, and is quiet again when it is mended.
func testStatus(t *testing.T, w *world) {
	here, other := w.Hosts[0], w.Hosts[1]
	if err := other.Plug(t).Create("watched", nil); err != nil {
		t.Fatal(err)
	}
	server := w.Consul.Servers[0]
	if server == w.Consul.Leader() {
		server = w.Consul.Servers[1]
	}
	filler := other.File(filepath.Join(other.Dir, "disk", "filler"))
	ok := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name                 string
		cause                func(t *testing.T)
		level, subject, text string
		mend                 func(t *testing.T)
	}{
		{
			"control replica is dead", func(t *testing.T) { w.Controls[0].Kill9(t) },
			"warning", "control ", "does not answer",
			func(t *testing.T) { w.Controls[0].Up(t) },
		},
		{
			"server of Consul is dead", func(*testing.T) { server.Kill() },
			"warning", "store", "Consul server",
			func(*testing.T) { server.Start() },
		},
		{
			"node is dead", func(t *testing.T) { other.KillAgent(t) },
			"error", "node " + other.Name, "home of",
			func(t *testing.T) { other.StartAgent(t) },
		},
		{
			"node is cordoned", func(t *testing.T) { w.Controls[1].Must(t, "node", "cordon", other.Name) },
			"info", "node " + other.Name, "cordoned",
			func(t *testing.T) { w.Controls[1].Must(t, "node", "uncordon", other.Name) },
		},
		{
			"pool of another node is nearly full", func(t *testing.T) { ok(t, fillTo(filler, 90)) },
			"warning", "pool default on " + other.Name, "NEARLY FULL",
			func(t *testing.T) { ok(t, os.Remove(filler)) },
		},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			awaitFinding(t, here, c.level, c.subject, c.text, false)
			c.cause(t)
			awaitFinding(t, here, c.level, c.subject, c.text, true)
			c.mend(t)
			awaitFinding(t, here, c.level, c.subject, c.text, false)
		}) {
			return
		}
	}
	w.Consul.AwaitLeader()
	w.Controls[1].Must(t, "volume", "rm", "watched", "--yes")
}

// fillTo makes a file, so that so many percent of its filesystem are used.
func fillTo(file string, percent int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	used := int64(fs.Blocks - fs.Bfree)
	return unix.Fallocate(int(f.Fd()), 0, 0, ((used+int64(fs.Bavail))*percent/100-used)*fs.Bsize)
}
