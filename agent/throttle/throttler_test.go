package throttle_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

var slowly = iolimit.Limits{WriteBPS: 5 << 20}

// limitFlock returns a cluster whose first host limits speed in a new control group, which nothing else on this
// machine uses.
func limitFlock(t *testing.T) *agenttest.Cluster {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	h, err := iolimit.Detect(table)
	if err != nil || h.Version != iolimit.V1 {
		t.Fatal(h, err)
	}
	h.Dir = filepath.Join(h.Dir, "drover-test-"+uuid.NewString())
	require.NoError(t, os.Mkdir(h.Dir, 0o755))
	t.Cleanup(func() {
		assert.NoError(t, os.Remove(h.Dir))
	})
	return limitedBy(t, h)
}

// limitedBy returns a cluster whose first host limits speed in a hierarchy.
func limitedBy(t *testing.T, h iolimit.Hierarchy) *agenttest.Cluster {
	t.Helper()
	f := agenttest.NewCluster(t, "loop", "dir")
	f.A.Config.Cgroups.Hierarchy = h
	f.A.Restart()
	return f
}

// files returns a hierarchy of plain files that hold the last written text. At first they are empty.
func files(t *testing.T, version iolimit.Version, groups ...string) iolimit.Hierarchy {
	t.Helper()
	h := iolimit.Hierarchy{Version: version, Dir: t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(h.Dir, "cgroup.controllers"), []byte("cpu io memory"), 0o600))
	for _, g := range groups {
		names := []string{"io.max", "cgroup.subtree_control"}
		if version == iolimit.V1 {
			names = nil
			for _, what := range []string{"write_bps", "read_bps", "write_iops", "read_iops"} {
				names = append(names, "blkio.throttle."+what+"_device")
			}
		}
		for _, n := range names {
			require.NoError(t, os.MkdirAll(filepath.Join(h.Dir, g), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(h.Dir, g, n), nil, 0o600))
		}
	}
	return h
}

// device returns the device of a mounted dataset.
func device(h *agenttest.Host, d dataset.Dataset) iolimit.Device {
	h.Cluster.Helper()
	dev, is, err := iolimit.DeviceOf(h.MountPath(d.ID))
	if err != nil || !is {
		h.Cluster.Fatal(is, err)
	}
	return dev
}

// limitsOnDevice returns the limits of a device in the root group.
func limitsOnDevice(h *agenttest.Host, dev iolimit.Device) iolimit.Limits {
	h.Cluster.Helper()
	l, err := h.Throttle.Hierarchy.Get(iolimit.Root, dev)
	require.NoError(h.Cluster, err)
	return l
}

func wantTold(h *agenttest.Host, dev iolimit.Device, want iolimit.Limits, when string) {
	h.Cluster.Helper()
	if got := limitsOnDevice(h, dev); got != want {
		h.Cluster.Errorf("%s: told %+v, want %+v", when, got, want)
	}
}

// A mount is limited before it is reported, and the limit of its device is removed when it is unmounted.
func TestLimitLastsFromMountToUnmount(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	wantTold(f.A, dev, slowly, "mounted")
	f.A.MustUnmount("db", "one")
	wantTold(f.A, dev, iolimit.Limits{}, "unmounted")
	other := f.A.NewVolume("other", nil)
	f.A.MustMount("other", "two")
	if device(f.A, other) != dev {
		t.Logf("it got device %s, not %s", device(f.A, other), dev)
	}
	wantTold(f.A, device(f.A, other), iolimit.Limits{}, "the next on a device")
	f.A.MustUnmount("other", "two")
	if left := f.A.Throttle.All(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// An agent that crashes leaves the limit of a mount. A limit that is lifted, or that somebody has changed meanwhile,
// is restored by the next agent.
func TestLimitIsRestoredAfterStart(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	_, err := f.A.Throttle.Suspend(d, time.Hour)
	require.NoError(t, err)
	wantTold(f.A, dev, iolimit.Limits{}, "lifted")
	f.A.Restart()
	wantTold(f.A, dev, slowly, "after a start")
	if f.A.Throttle.Get(d.ID).Record.Suspended != (time.Time{}) {
		t.Error("it is lifted on record")
	}
	f.A.MustUnmount("db", "one")
	wantTold(f.A, dev, iolimit.Limits{}, "unmounted")
}

// A limit that a crash left on a device number is removed by the next start if it is unchanged. A limit that somebody
// else has set for the present owner of the number stays.
func TestLimitOfMissingDeviceIsRemoved(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev, h := device(f.A, d), f.A.Throttle.Hierarchy
	f.A.MustUnmount("db", "one")
	theirs := iolimit.Limits{WriteBPS: 7 << 20}
	before := iolimit.Limits{WriteBPS: 3 << 20, WriteIOPS: 30}
	for _, c := range []struct{ is, want iolimit.Limits }{
		{slowly, iolimit.Limits{}}, {theirs, theirs}, {before, iolimit.Limits{}},
		// Partly set.
		{iolimit.Limits{WriteBPS: slowly.WriteBPS, ReadBPS: 1 << 20, WriteIOPS: 30}, iolimit.Limits{ReadBPS: 1 << 20}},
	} {
		rec := throttle.LimitRecord{Boot: f.A.Boot, Device: dev, Limits: slowly, Earlier: []iolimit.Limits{before}, Groups: []string{iolimit.Root, "/gone"}}
		require.NoError(t, f.A.DB.Put(t.Context(), map[string]any{"limits/" + d.ID.String(): rec}))
		require.NoError(t, h.Set(iolimit.Root, dev, c.is))
		f.A.Restart()
		wantTold(f.A, dev, c.want, "after a start")
		if n := len(f.A.Throttle.All()); n > 0 {
			t.Errorf("%d datasets are limited that are not mounted", n)
		}
		require.NoError(t, h.Clear(iolimit.Root, dev))
	}
}

// A limit that is lifted for longer than allowed is set again, whatever the flush does.
func TestLiftedLimitReturnsAfterTimeout(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	up, err := f.A.Throttle.Suspend(d, time.Nanosecond)
	require.NoError(t, err)
	f.A.Throttle.EndSuspensions()
	wantTold(f.A, dev, slowly, "lifted for too long")
	up.Resume()
	wantTold(f.A, dev, slowly, "after that")
	f.A.MustUnmount("db", "one")
}

// A change of a rule by somebody else is undone.
func TestChangedLimitIsRepaired(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	require.NoError(t, f.A.Throttle.Hierarchy.Set(iolimit.Root, dev, iolimit.Limits{ReadIOPS: 50}))
	f.AwaitNamed("mended", func() bool { return limitsOnDevice(f.A, dev) == slowly })

	// A restarted container has the same group, without a rule.
	e := f.A.Throttle.Get(d.ID)
	e.Mu.Lock()
	rec := e.Record
	rec.Groups = throttle.Union(rec.Groups, []string{"/again"})
	err := f.A.Throttle.SetRules(t.Context(), e, rec)
	e.Mu.Unlock()
	require.NoError(t, err)
	again := filepath.Join(f.A.Throttle.Hierarchy.Dir, "again")
	require.NoError(t, os.Mkdir(again, 0o755))
	defer os.Remove(again) //nolint:errcheck // the group above it could not be removed
	(&throttle.GroupScanner{Throttler: f.A.Throttle}).Scan(f.A.Clock.Steady(), false)
	if got, err := f.A.Throttle.Hierarchy.Get("/again", dev); err != nil || got != slowly {
		t.Errorf("its group, after it was made again: %+v, %v", got, err)
	}
	f.A.MustUnmount("db", "one")
}

// hasFinding reports whether a finding of doctor contains a text.
func hasFinding(h *agenttest.Host, text string) bool {
	h.Cluster.Helper()
	list, err := h.Doctor(h.Cluster.Context())
	require.NoError(h.Cluster, err)
	return slices.ContainsFunc(list, func(l api.Finding) bool { return strings.Contains(l.Text, text) })
}

// A change of the profile changes the limit of a mounted volume, also to none.
func TestLimitFollowsTheProfile(t *testing.T) {
	f := limitFlock(t)
	d := f.A.NewVolume("db@slow", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	for _, c := range []struct {
		profile string
		want    iolimit.Limits
	}{{"faster", iolimit.Limits{WriteBPS: 20 << 20}}, {"plain", iolimit.Limits{}}, {"slow", slowly}} {
		if _, err := f.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: c.profile}); err != nil {
			t.Fatal(err)
		}
		f.AwaitNamed(c.profile, func() bool { return limitsOnDevice(f.A, dev) == c.want })
	}
	f.A.MustUnmount("db", "one")
	wantTold(f.A, dev, iolimit.Limits{}, "unmounted")
}

// On version 2 the groups below which engines put containers get one rule, also with a strict profile. The root group
// gets none.
func TestLimitsOnCgroupV2(t *testing.T) {
	h := files(t, iolimit.V2, "system.slice", "docker")
	f, dir := limitedBy(t, h), h.Dir
	d := f.A.NewVolume("db@strict", nil)
	f.A.MustMount("db", "one")
	dev := device(f.A, d)
	rule := dev.String() + " rbps=max wbps=5242880 riops=max wiops=max"
	for _, g := range []string{"system.slice", "docker"} {
		if b, err := os.ReadFile(filepath.Join(dir, g, "io.max")); err != nil || string(b) != rule {
			t.Errorf("%s: %q, %v", g, b, err)
		}
	}
	for _, g := range []string{"/docker/abc", "/system.slice/docker-abc.scope", "/"} {
		if !f.A.Throttle.Covers(f.A.Throttle.Get(d.ID).Record.Groups, g) {
			t.Errorf("a container in %s is not held", g)
		}
	}
	if f.A.Throttle.Covers(f.A.Throttle.Get(d.ID).Record.Groups, "/user.slice/x") {
		t.Error("one in another slice is taken for held")
	}
	f.A.MustUnmount("db", "one")
	for _, g := range []string{"system.slice", "docker"} {
		if b, err := os.ReadFile(filepath.Join(dir, g, "io.max")); err != nil || !strings.HasPrefix(string(b), dev.String()+" rbps=max wbps=max riops=max wiops=max") {
			t.Errorf("unmounted, %s: %q, %v", g, b, err)
		}
	}
}

// A process that has the volume in a separate mount namespace is found, with its group.
func TestCgroupsOfUsersAreFound(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "dir")
	d := f.A.NewVolume("db@slow", nil)
	path := f.A.MustMount("db", "one")
	dev := device(f.A, d)
	var users mount.Users
	var now time.Duration
	of := func() int {
		require.NoError(t, users.Update(now, false))
		return len(users.Of(int(dev.Major), int(dev.Minor), path))
	}
	late := exec.Command("sh", "-c", `read x; exec unshare --mount sh -c 'mount --bind "$0" "$1" && echo ready && exec sleep infinity' "$0" "$1"`, path, t.TempDir())
	late.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err1 := late.StdinPipe()
	out, err2 := late.StdoutPipe()
	require.NoError(t, errors.Join(err1, err2, late.Start()))
	for range 50 { // checks in quick succession, as after many events
		if n := of(); n != 0 {
			t.Errorf("%d before there is one", n)
		}
	}
	now = time.Second
	_, err := io.WriteString(in, "\n")
	require.NoError(t, err)
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	if n := of(); n == 0 {
		t.Error("what was there for a second was not found when it became a container")
	}
	_ = late.Process.Kill()
	_ = late.Wait()
	f.AwaitNamed("it is gone", func() bool { return of() == 0 })
	end := agenttest.StartContainer(t, path)
	if n := of(); n == 0 {
		t.Error("the container was not found")
	}
	end()
	f.AwaitNamed("it is gone", func() bool { return of() == 0 })
	f.A.MustUnmount("db", "one")
}

func TestMain(m *testing.M) { agenttest.Main(m) }
