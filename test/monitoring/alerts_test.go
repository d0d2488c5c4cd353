package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

const alertProfiles = `default: plain
profiles:
  plain: {size: 320MiB, on_delete: purge}
`

// alerts is a drover with the pools default, tight and far, each on its own disk, and a Prometheus that scrapes it.
type alerts struct {
	*host.Host

	web        string // address of Prometheus
	tight, far string // where the disks of the pools are mounted
}

// TestAlertsOnFaults: real faults make alerts fire in a real Prometheus, and their mend resolves them. The rules are
// those that ship, without the time for which a condition must last.
func TestAlertsOnFaults(t *testing.T) {
	metrics := freeAddress(t)
	w := &alerts{web: freeAddress(t), tight: scratch.Mount(t, "xfs", 1<<30), far: scratch.Mount(t, "xfs", 1<<30)}
	near := scratch.Mount(t, "xfs", 1<<30)
	w.Host = host.Start(t, host.Options{
		Root: filepath.Join(near, "root"), Profiles: alertProfiles, Flags: []string{"--metrics-listen", metrics},
		Config: fmt.Sprintf("pools:\n- {name: default, backend: loop, path: %s/pool}\n"+
			"- {name: tight, backend: loop, path: %s/pool}\n- {name: far, backend: loop, path: %s/pool}\n",
			near, w.tight, w.far),
	})
	plug, use := w.Plug(t), host.NewID()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, w.LogTail(20))
		}
	}
	for name, pool := range map[string]string{"small": "default", "crowded": "tight", "away": "far"} {
		ok(plug.Create(name, map[string]string{"pool": pool}))
	}
	at, err := plug.Mount("small", use)
	ok(err)
	startPrometheusWith(t, withoutDelay(t), metrics, w.web)
	w.await(t, "all is well")

	later, pool, kept := filepath.Join(w.Dir, "later"), filepath.Join(w.far, "pool"), filepath.Join(w.far, "kept")
	ok(fill(at))
	ok(fill(w.tight))
	ok(os.Rename(pool, kept))
	for _, args := range [][]string{
		{"snapshot", "create", "crowded"}, {"volume", "import", "later", "--from", "/sys/devices/virtual/net/lo"},
	} {
		if r := w.Exec(t, args...); r.Exit == 0 {
			t.Errorf("drover %v succeeded", args)
		}
	}
	w.await(t, "volume and pool full, pool offline, snapshot and import failed", "DroverVolumeNearlyFull",
		"DroverVolumeFull", "DroverPoolNearlyFull", "DroverPoolFull", "DroverPoolOffline", "DroverDoctorErrors",
		"DroverSnapshotFailed", "DroverOperationFailed", "DroverVolumeFailing")
	ok(os.Rename(kept, pool))
	ok(os.Remove(filepath.Join(w.tight, "filler")))
	ok(os.Remove(filepath.Join(at, "filler")))
	ok(os.Mkdir(later, 0o755))
	w.await(t, "all is mended")

	w.Stop(t)
	w.await(t, "drover has stopped", "DroverDown")
	out, err := exec.Command("cp", "-a", "--reflink=always", pool, kept).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.Up(t)
	w.await(t, "drover runs")
	ok(plug.Remove("away")) // raises the generation of the pool
	w.Stop(t)
	ok(os.RemoveAll(pool))
	ok(os.Rename(kept, pool))
	w.Up(t)
	w.await(t, "the disk of a pool was restored from an older state", "DroverPoolHeld", "DroverDoctorErrors")
	ok(plug.Unmount("small", use))
}

// fill writes a file into a directory until its filesystem has no space left.
func fill(dir string) error {
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, max(int64(fs.Bavail)*fs.Bsize-1<<20, 1))
}

// await waits until each of these alerts has fired, and no other one fires.
func (w *alerts) await(t *testing.T, what string, want ...string) {
	t.Helper()
	began := time.Now()
	var fired []string
	host.Await(t, what, func() error {
		firing, err := w.firing(t)
		if err != nil {
			return err
		}
		fired = append(fired, firing...)
		for _, name := range want {
			if !slices.Contains(fired, name) {
				return fmt.Errorf("%v fire, and %s did not", firing, name)
			}
		}
		for _, name := range firing {
			if !slices.Contains(want, name) {
				return fmt.Errorf("%v fire, want %v", firing, want)
			}
		}
		return nil
	})
	t.Logf("%s: %v after %v", what, want, time.Since(began).Round(100*time.Millisecond))
}

// firing returns the names of the alerts that fire, sorted.
func (w *alerts) firing(t *testing.T) (names []string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+w.web+"/api/v1/alerts", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			Alerts []struct {
				State  string
				Labels struct{ Alertname string }
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			names = append(names, a.Labels.Alertname)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// withoutDelay writes the rules that ship to a file, without the time for which a condition must last, and with windows
// of ten seconds, and returns its path. promtool tests the times of the rules.
func withoutDelay(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^ +for: .*\n`).ReplaceAll(text, nil)
	text = regexp.MustCompile(`(\[|offset )(10m|1d)`).ReplaceAll(text, []byte("${1}10s"))
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestCommandsOfAlerts: the command of each alert exists.
func TestCommandsOfAlerts(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations struct{ Command string }
			}
		}
	}
	read(t, rules, &file)
	for _, r := range file.Groups[0].Rules {
		command := regexp.MustCompile(`^drover [a-z]+( [a-z]+)*`).FindString(r.Annotations.Command)
		if strings.HasPrefix(r.Annotations.Command, "drover") && !strings.Contains(string(text), "\n## "+command+"\n") {
			t.Errorf("%s: docs/cli.md has no %q", r.Alert, command)
		}
	}
}
