package facts

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func machine(name string) func() (string, error) {
	return func() (string, error) { return name, nil }
}

// files is the root of a host with these files, on top of those that each has.
func files(more map[string]string) fs.FS {
	out := fstest.MapFS{}
	for _, set := range []map[string]string{{
		"proc/sys/kernel/osrelease":     "6.1.0-18-amd64\n",
		"proc/cpuinfo":                  "processor\t: 0\nflags\t\t: fpu vme\n\nprocessor\t: 1\nflags\t\t: fpu\n",
		"proc/meminfo":                  "MemTotal:        8000000 kB\nMemFree:          100 kB\nMemAvailable:    4000000 kB\n",
		"proc/loadavg":                  "0.50 1.00 3.00 2/210 4711\n",
		"sys/devices/system/cpu/online": "0-1,4\n",
		"etc/os-release":                "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n",
	}, more} {
		for name, text := range set {
			if text == "" {
				delete(out, name)
				continue
			}
			out[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return out
}

func TestFactsAreReadFromTheHostsFiles(t *testing.T) {
	h := Host{FS: files(nil), Machine: machine("aarch64")}
	f, err := h.ReadStatic()
	require.NoError(t, err)
	require.NoError(t, h.ReadDynamic(&f))
	want := dataset.Facts{
		Architecture: "aarch64", Kernel: "6.1.0-18-amd64", OS: "debian", OSVersion: "12", CPUs: 3,
		MemoryTotal: 8000000 << 10, MemoryFree: 4000000 << 10, Load1: 0.5, Load10: 2, Load15: 3,
	}
	if d := cmp.Diff(want, f); d != "" {
		t.Error(d)
	}
}

func TestThisHostHasFacts(t *testing.T) {
	h := Host{FS: os.DirFS("/"), Machine: Machine}
	f, err := h.ReadStatic()
	require.NoError(t, err)
	require.NoError(t, h.ReadDynamic(&f))
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	if f.Architecture != arch || f.CPUs < runtime.NumCPU() || f.MemoryTotal <= f.MemoryFree || f.MemoryFree <= 0 ||
		f.Kernel == "" || f.OS == "" {
		t.Errorf("facts of this host: %+v", f)
	}
}

func TestVirtualMachinesAreKnownAndContainersAreNone(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  bool
	}{
		{
			"bare metal",
			map[string]string{
				"sys/class/dmi/id/sys_vendor":   "Dell Inc.\n",
				"sys/class/dmi/id/product_name": "PowerEdge R640\n",
			},
			false,
		},
		{"no DMI at all", nil, false},
		{"flag of the CPU", map[string]string{"proc/cpuinfo": "processor : 0\nflags : fpu hypervisor vme\n"}, true},
		{
			"a word like the flag",
			map[string]string{"proc/cpuinfo": "processor : 0\nflags : fpu hypervisor_x\nbugs : hypervisor\n"}, false,
		},
		{
			"first domain of Xen",
			map[string]string{"proc/cpuinfo": "flags : hypervisor\n", "proc/xen/capabilities": "control_d\n"}, false,
		},
		{
			"other domain of Xen",
			map[string]string{"proc/cpuinfo": "flags : hypervisor\n", "proc/xen/capabilities": "\n"}, true,
		},
		{"QEMU without the flag", map[string]string{"sys/class/dmi/id/sys_vendor": "QEMU\n"}, true},
		{"VirtualBox", map[string]string{"sys/class/dmi/id/product_name": "VirtualBox\n"}, true},
		{"Hyper-V", map[string]string{"sys/class/dmi/id/product_name": "Virtual Machine\n"}, true},
		{
			"arm64 on EC2",
			map[string]string{
				"proc/cpuinfo":                  "processor : 0\nFeatures : fp\n",
				"sys/class/dmi/id/sys_vendor":   "Amazon EC2\n",
				"sys/class/dmi/id/product_name": "m7g.large\n",
			},
			true,
		},
		{
			"arm64 metal on EC2",
			map[string]string{
				"proc/cpuinfo":                  "processor : 0\nFeatures : fp\n",
				"sys/class/dmi/id/sys_vendor":   "Amazon EC2\n",
				"sys/class/dmi/id/product_name": "m7g.metal\n",
			},
			false,
		},
		{"device tree", map[string]string{"proc/device-tree/hypervisor/compatible": "linux,kvm"}, true},
		{"container", map[string]string{".dockerenv": "x", "run/.containerenv": "x"}, false},
	} {
		f, err := Host{FS: files(c.files), Machine: machine("x86_64")}.ReadStatic()
		if err != nil || f.Virtual != c.want {
			t.Errorf("%s: virtual %v, %v", c.name, f.Virtual, err)
		}
	}
}

func TestWhatIsMissingOrDamagedIsSaid(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"no cpuinfo":    {"proc/cpuinfo", "", "proc/cpuinfo"},
		"no meminfo":    {"proc/meminfo", "", "proc/meminfo"},
		"no available":  {"proc/meminfo", "MemTotal: 5 kB\n", "MemAvailable"},
		"total in text": {"proc/meminfo", "MemTotal: much\n", "MemTotal"},
		"load":          {"proc/loadavg", "0.1 x\n", "/proc/loadavg"},
		"cpus":          {"sys/devices/system/cpu/online", "3-1\n", "list of CPUs"},
		"no release":    {"proc/sys/kernel/osrelease", "", "osrelease"},
	} {
		h := Host{FS: files(map[string]string{c.file: c.text}), Machine: machine("x86_64")}
		f, err := h.ReadStatic()
		err = errors.Join(err, h.ReadDynamic(&f))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := Host{FS: files(map[string]string{"etc/os-release": ""}), Machine: machine("x86_64")}
	if f, err := none.ReadStatic(); err != nil || f.OS != "linux" || f.OSVersion != "" {
		t.Errorf("without os-release: %+v, %v", f, err)
	}
	elsewhere := Host{
		FS:      files(map[string]string{"etc/os-release": "", "usr/lib/os-release": "ID='alpine'\nVERSION_ID=3.20\n"}),
		Machine: machine("x86_64"),
	}
	if f, err := elsewhere.ReadStatic(); err != nil || f.OS != "alpine" || f.OSVersion != "3.20" {
		t.Errorf("os-release in /usr/lib: %+v, %v", f, err)
	}
}

// kernel computes a load average every 5 seconds, as kernel/sched/loadavg.c does.
type kernel struct {
	over time.Duration
	load float64
}

func (k *kernel) tick(tasks float64) {
	e := math.Exp(-5 / k.over.Seconds())
	k.load = k.load*e + tasks*(1-e)
}

func TestLoadOfTenMinutesIsWhatTheKernelWouldSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, ten := kernel{over: time.Minute}, kernel{over: 10 * time.Minute}
		var a Average
		a.Add(0, 0, 0)
		got := 0.0
		for at := time.Duration(0); at < time.Hour; {
			tasks := float64(rapid.IntRange(0, 40).Draw(t, "tasks"))
			for range rapid.IntRange(1, 60).Draw(t, "ticks") {
				one.tick(tasks)
				ten.tick(tasks)
				at += 5 * time.Second
			}
			got = a.Add(at, math.Round(one.load*100)/100, 0)
		}
		// Average assumes that the number of tasks was constant since the previous call.
		if math.Abs(got-ten.load) > 0.02*ten.load+0.1 {
			t.Fatalf("load of ten minutes %.2f, the kernel's would be %.2f", got, ten.load)
		}
	})
}

func TestLoadOfTenMinutesBeginsWhereItIsTold(t *testing.T) {
	var a Average
	if got := a.Add(time.Hour, 9, 4); got != 4 {
		t.Errorf("it begins with %v", got)
	}
	if got := a.Add(time.Hour, 90, 7); got != 4 {
		t.Errorf("no time passed, and it is %v", got)
	}
	if got := a.Add(time.Hour+10*time.Minute, 4, 0); math.Abs(got-4) > 0.01 {
		t.Errorf("a steady load of 4 gives %v", got)
	}
	if got := a.Add(2*time.Hour, 0, 0); got > 0.05 || got < 0 {
		t.Errorf("long idle it is %v", got)
	}
}

func published() (dataset.Node, dataset.Facts) {
	return dataset.Node{Name: "web1", Labels: map[string]string{"rack": "r1", "a.b/c": "x y"}}, dataset.Facts{
		Architecture: "x86_64", Kernel: "6.12", OS: "debian", CPUs: 4, Virtual: true, MemoryTotal: 8 << 30,
		MemoryFree: 2 << 30,
		Load1:      0.5, Load10: 3.14159, Load15: 2, Backends: []string{"btrfs", "dir", "loop", "zfs"},
		Pools: []dataset.PoolFacts{
			{Name: "fast", Backend: "loop", Online: true, Free: 7}, {Name: "gone", Backend: "zfs", Free: 9},
			{Name: "large", Backend: "loop", Online: true, Free: 8},
		},
	}
}

// Only online pools and their backends are published, so that a constraint on them selects hosts where a volume can be
// created.
func TestPublished(t *testing.T) {
	want := map[string]string{
		"node": "web1", "architecture": "x86_64", "kernel": "6.12", "os": "debian", "is_virtual": "true", "cpus": "4",
		"memory_total": "8589934592", "memory_free": "2147483648", "load_1": "0.5", "load_10": "3.14", "load_15": "2",
		"backend.loop": "true", "pool.fast": "true", "pool.fast.free": "7", "pool.large": "true",
		"pool.large.free": "8", "label.rack": "r1", "label.a.b/c": "x y",
	}
	if d := cmp.Diff(want, Published(published())); d != "" {
		t.Error(d)
	}
}

func TestTagsAndMetaForConsul(t *testing.T) {
	want := []string{
		"architecture.x86_64", "backend.loop", "label.a.b/c.x y", "label.rack.r1", "os.debian", "pool.fast",
		"pool.large", "virtual",
	}
	if d := cmp.Diff(want, Tags(published())); d != "" {
		t.Error(d)
	}
	n, f := published()
	meta := Meta(n, f)
	if meta["drover_load_10"] != "3.14" || meta["drover_pool_fast_free"] != "7" ||
		meta["drover_label_a_b_c"] != "x y" || len(meta) != len(Published(n, f)) {
		t.Errorf("%v", meta)
	}
	n.Labels["long"] = strings.Repeat("x", metaValue+1)
	for i := range 100 {
		f.Pools = append(f.Pools, dataset.PoolFacts{Name: fmt.Sprint("p", i), Backend: "loop", Online: true})
	}
	meta = Meta(n, f)
	if _, long := meta["drover_label_long"]; len(meta) != metaPairs || long || meta["drover_architecture"] != "x86_64" {
		t.Errorf("%d pairs: %v", len(meta), meta)
	}
}
