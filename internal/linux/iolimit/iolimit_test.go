package iolimit

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

var (
	dev  = Device{7, 5}
	some = Limits{WriteBPS: 5 << 20, ReadIOPS: 100}
)

func put(t *testing.T, text string, path ...string) {
	t.Helper()
	file := filepath.Join(path...)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

func text(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(b)
}

// tree1 is a hierarchy of version 1 with a root group and one below it.
func tree1(t *testing.T) Hierarchy {
	t.Helper()
	h := Hierarchy{V1, t.TempDir()}
	for _, g := range []string{Root, "/docker/abc"} {
		for _, f := range v1Files() {
			put(t, "7:5 1\n7:50 9\n", h.Dir, g, f.name)
		}
	}
	return h
}

// The kernel takes each rule as one write, and an absent limit as 0.
func TestSetV1(t *testing.T) {
	h := tree1(t)
	for _, f := range v1Files() {
		put(t, "", h.Dir, "docker/abc", f.name)
	}
	require.NoError(t, h.Set("/docker/abc", dev, some))
	for name, want := range map[string]string{
		"write_bps":  "7:5 5242880",
		"read_bps":   "7:5 0",
		"write_iops": "7:5 0",
		"read_iops":  "7:5 100",
	} {
		if got := text(t, h.Dir, "docker/abc/blkio.throttle."+name+"_device"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestGetV1(t *testing.T) {
	h := tree1(t)
	if got, err := h.Get(Root, dev); err != nil || got != (Limits{1, 1, 1, 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := h.Get(Root, Device{8, 0}); err != nil || got != (Limits{}) {
		t.Errorf("of a device without rules: %+v, %v", got, err)
	}
	if got, err := h.Get("/docker/gone", dev); err != nil || got != (Limits{}) {
		t.Errorf("of a group that is gone: %+v, %v", got, err)
	}
	put(t, "7:5 many\n", h.Dir, "blkio.throttle.read_bps_device")
	if _, err := h.Get(Root, dev); err == nil {
		t.Error("what is no number was read")
	}
}

// For a group that does not exist any more, Set fails, and Clear has nothing to do.
func TestGroupThatIsGone(t *testing.T) {
	for _, h := range []Hierarchy{tree1(t), {V2, t.TempDir()}} {
		assert.ErrorIsf(t, h.Set("/gone", dev, some), fs.ErrNotExist, "version %d: set", h.Version)
		assert.NoErrorf(t, h.Clear("/gone", dev), "version %d: clear", h.Version)
		if h.Has("/gone") {
			t.Errorf("version %d has it", h.Version)
		}
	}
}

func TestV2(t *testing.T) {
	h := Hierarchy{V2, t.TempDir()}
	put(t, "", h.Dir, "system.slice/io.max")
	require.NoError(t, h.Set("/system.slice", dev, some))
	if got := text(t, h.Dir, "system.slice/io.max"); got != "7:5 rbps=max wbps=5242880 riops=100 wiops=max" {
		t.Errorf("set: %q", got)
	}
	put(t, "8:0 rbps=1 wbps=1 riops=1 wiops=1\n7:5 rbps=max wbps=5242880 riops=100 wiops=max\n", h.Dir,
		"system.slice/io.max")
	if got, err := h.Get("/system.slice", dev); err != nil || got != some {
		t.Errorf("%+v, %v", got, err)
	}
	put(t, "", h.Dir, "system.slice/io.max")
	require.NoError(t, h.Clear("/system.slice", dev))
	if got := text(t, h.Dir, "system.slice/io.max"); got != "7:5 rbps=max wbps=max riops=max wiops=max" {
		t.Errorf("clear: %q", got)
	}
}

// Enable enables the controller in all groups from the root down. It creates the group itself, but not a slice, because
// systemd creates slices.
func TestEnable(t *testing.T) {
	h := Hierarchy{V2, t.TempDir()}
	put(t, "cpu memory", h.Dir, "cgroup.subtree_control")
	put(t, "cpu io", h.Dir, "a/cgroup.subtree_control")
	put(t, "", h.Dir, "a/b/io.max") // as the kernel creates it
	require.NoError(t, os.Remove(filepath.Join(h.Dir, "a/b/io.max")))
	err := h.Enable("/a/b")
	if !errors.Is(err, fs.ErrNotExist) { // no kernel creates the files of a group here
		t.Errorf("%v", err)
	}
	if got := text(t, h.Dir, "cgroup.subtree_control"); !strings.HasPrefix(got, "+io") {
		t.Errorf("root: %q", got)
	}
	if got := text(t, h.Dir, "a/cgroup.subtree_control"); got != "cpu io" {
		t.Errorf("a, which hands it down already: %q", got)
	}
	assert.ErrorIsf(t, h.Enable("/absent.slice"), fs.ErrNotExist, "a slice that is absent")
	if _, err := os.Stat(filepath.Join(h.Dir, "absent.slice")); err == nil {
		t.Error("it was made")
	}
	put(t, "", h.Dir, "a/b/io.max")
	put(t, "cpu", h.Dir, "cgroup.subtree_control")
	assert.NoError(t, h.Enable("/a/b"))
	if got := text(t, h.Dir, "cgroup.subtree_control"); got != "cpu" {
		t.Errorf("written again: %q", got)
	}
}

func TestGroupIn(t *testing.T) {
	const hybrid = "9:name=systemd:/docker/abc\n7:cpu,blkio:/docker/abc\n0::/docker/unified\n"
	for _, c := range []struct {
		version Version
		file    string
		want    string
	}{
		{V1, hybrid, "/docker/abc"},
		{V2, hybrid, "/docker/unified"},
		{V1, "0::/x\n", ""},
		{V2, "7:blkio:/x\n", ""},
		{V2, "0::/system.slice/docker-abc.scope\n", "/system.slice/docker-abc.scope"},
		{V2, "0::/a:b\n", "/a:b"},
		{V2, "0::/../../other\n", ""},
		{V1, "", ""},
	} {
		if got, ok := (Hierarchy{Version: c.version}).groupIn(c.file); got != c.want || ok != (c.want != "") {
			t.Errorf("version %d of %q: %q, %t", c.version, c.file, got, ok)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		group, other string
		want         bool
	}{
		{"/docker/abc", "/docker", true}, {"/docker", "/docker", true}, {"/docker2", "/docker", false},
		{"/x", "/", true}, {"/docker", "/docker/abc", false},
	} {
		if Below(c.group, c.other) != c.want {
			t.Errorf("%s below %s: %t", c.group, c.other, !c.want)
		}
	}
}

// Detect finds the mounted hierarchy that has the controller.
func TestDetect(t *testing.T) {
	v1, v2, bare := t.TempDir(), t.TempDir(), t.TempDir()
	put(t, "", v1, v1Files()[0].name)
	put(t, "cpuset cpu io memory\n", v2, "cgroup.controllers")
	put(t, "hugetlb\n", bare, "cgroup.controllers")
	blkio := &mount.Entry{FSType: "cgroup", Root: "/", Mountpoint: v1, VFSOptions: "rw,cpu,blkio"}
	unified := func(dir string) *mount.Entry { return &mount.Entry{FSType: "cgroup2", Root: "/", Mountpoint: dir} }
	freezer := &mount.Entry{FSType: "cgroup", Root: "/", Mountpoint: bare, VFSOptions: "rw,freezer"}
	for name, c := range map[string]struct {
		table mount.Mounts
		want  Hierarchy
	}{
		"v1":              {mount.Mounts{freezer, blkio}, Hierarchy{V1, v1}},
		"v2":              {mount.Mounts{unified(v2)}, Hierarchy{V2, v2}},
		"both, v1 has it": {mount.Mounts{unified(bare), freezer, blkio}, Hierarchy{V1, v1}},
		"both, v2 has it": {mount.Mounts{freezer, unified(v2)}, Hierarchy{V2, v2}},
		"v2 without":      {mount.Mounts{unified(bare)}, Hierarchy{}},
		"none":            {nil, Hierarchy{}},
		"v1 of a kernel that throttles nothing": {
			mount.Mounts{{FSType: "cgroup", Root: "/", Mountpoint: bare, VFSOptions: "blkio"}}, Hierarchy{},
		},
	} {
		got, err := Detect(c.table)
		if got != c.want || (err == nil) != (c.want != Hierarchy{}) || err != nil && !errors.Is(err, ErrNone) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// In version 2, the kernel needs the controller memory to attribute later writes to a group.
func TestHolds(t *testing.T) {
	for _, c := range []struct {
		version     Version
		controllers string
		want        bool
	}{{V1, "", true}, {V2, "cpuset io memory", true}, {V2, "cpuset io pids", false}} {
		h := Hierarchy{c.version, t.TempDir()}
		put(t, c.controllers, h.Dir, "cgroup.controllers")
		if err := h.CheckWriteback(); (err == nil) != c.want || err != nil && !errors.Is(err, ErrNone) {
			t.Errorf("version %d with %q: %v", c.version, c.controllers, err)
		}
	}
}

// On a real hierarchy of this host, the limits that were set are read back, and other groups do not change.
func TestRealRules(t *testing.T) {
	table, err := mount.Table()
	require.NoError(t, err)
	h, err := Detect(table)
	require.NoError(t, err)
	group := "/drover-iolimit-test"
	require.NoError(t, os.Mkdir(h.path(group), 0o755))
	t.Cleanup(func() { assert.NoError(t, os.Remove(h.path(group))) })
	require.NoError(t, h.Enable(group))
	own, is, err := DeviceOf("/")
	if err != nil || !is {
		t.Fatal(is, err)
	}
	before := text(t, h.path(group), h.file())
	for _, want := range []Limits{some, {1 << 20, 2 << 20, 30, 40}, {}} {
		require.NoError(t, h.Set(group, own, want))
		if got, err := h.Get(group, own); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	if after := text(t, h.path(group), h.file()); after != before {
		t.Errorf("after all: %q, before %q", after, before)
	}
	if err := h.Set(group, Device{7, 1<<20 - 1}, some); err == nil || !isAbsent(err) {
		t.Errorf("of a device that is not there: %v", err)
	}
	if g, ok := h.GroupOf(os.Getpid()); !ok || h.Version == V1 && !h.Has(g) {
		t.Errorf("own group: %q", g)
	}
}

// Filesystems in memory have no block device.
func TestDeviceOf(t *testing.T) {
	if d, is, err := DeviceOf("/proc"); is || err != nil {
		t.Errorf("of /proc: %s, %t, %v", d, is, err)
	}
	if _, _, err := DeviceOf(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

// LimitsOn finds the limits of a device in all groups.
func TestLimiting(t *testing.T) {
	h := Hierarchy{V2, t.TempDir()}
	put(t, "cpu", h.Dir, "cgroup.subtree_control")
	put(t, "7:5 rbps=max wbps=5 riops=max wiops=max\n", h.Dir, "docker/abc/io.max")
	put(t, "8:0 rbps=1 wbps=1 riops=1 wiops=1\n", h.Dir, "system.slice/io.max")
	put(t, "", h.Dir, "user.slice/cgroup.procs")
	got, err := h.LimitsOn(dev)
	if want := map[string]Limits{"/docker/abc": {WriteBPS: 5}}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if h.Exists("/absent") || !h.Exists("/user.slice") {
		t.Error("which groups there are")
	}
}

func TestWithout(t *testing.T) {
	all := Limits{1, 2, 3, 4}
	if got, want := all.Without(Limits{ReadBPS: 1, WriteBPS: 9},
		Limits{WriteIOPS: 4}), (Limits{WriteBPS: 2, ReadIOPS: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := all.Without(Limits{}); got != all {
		t.Errorf("%+v without none", got)
	}
}

func TestOr(t *testing.T) {
	if got, want := (Limits{ReadBPS: 1, WriteIOPS: 4}).Or(Limits{9, 8, 7, 6}), (Limits{1, 8, 7, 4}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// During RunInGroup, this process is in the new group. Afterwards the group is removed. The group of a killed process
// is removed too. The group of a living process stays.
func TestWithin(t *testing.T) {
	h, err := Find()
	require.NoError(t, err)
	home, _ := h.GroupOf(os.Getpid())
	const prefix = "drover-iolimit-within-"
	killed, alive := h.path(prefix+"999999999"), h.path(prefix+"1")
	for _, dir := range []string{killed, alive} {
		require.NoError(t, os.Mkdir(dir, 0o755))
	}
	defer func() { _ = os.Remove(alive) }()
	failed := errors.New("failed")
	var was string
	err = h.RunInGroup(prefix, func(group string) error {
		if in, _ := h.GroupOf(os.Getpid()); in != group || in == home || !h.Has(group) {
			t.Errorf("it is in %s, and %s is its own", in, group)
		}
		was = group
		return failed
	})
	if in, _ := h.GroupOf(os.Getpid()); !errors.Is(err, failed) || in != home || h.Exists(was) {
		t.Errorf("%v; after it in %s, was in %s", err, in, home)
	}
	if h.Exists(prefix+"999999999") || !h.Exists(prefix+"1") {
		t.Error("what was left is there, or what is used is gone")
	}
}

func TestParse(t *testing.T) {
	all, err := parseStats(strings.NewReader("   7       8 loop8 1130 1 9880 386 68899 22414 827992 161411 0 152588 274982 9 0 1003984 21 45552 113163\n" +
		" 254       0 vda 1 0 2 3 4 0 5 6 0 0 0\n"))
	require.NoError(t, err)
	want := Stats{
		Counters{1130, 9880 * 512, 386 * time.Millisecond}, Counters{68899, 827992 * 512, 161411 * time.Millisecond},
	}
	if got := all[BlockDevice{7, 8}]; got != want || len(all) != 2 {
		t.Errorf("got %+v of %d devices, want %+v of 2", got, len(all), want)
	}
	for _, bad := range []string{"7 8 loop8 1", "7 8 loop8 1 2 3 4 5 6 7 -8"} {
		if _, err := parseStats(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestRead reads the counters of this host, each device of which is listed.
func TestRead(t *testing.T) {
	if all, err := ReadStats(); err != nil || len(all) == 0 {
		t.Errorf("%d devices, %v", len(all), err)
	}
}
