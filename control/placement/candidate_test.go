package placement_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/dataset"
)

// The error is ErrOffline if the volume could be placed once something is reachable again, and ErrUnsupported if it
// never could.
func TestChoose(t *testing.T) {
	pool := func(name string, can dataset.Capabilities, st *dataset.PoolStatus) placement.Candidate {
		return placement.Candidate{Pool: dataset.Pool{ID: uuid.New(), Name: name, Backend: "loop", Capabilities: can}, Status: st}
	}
	on, off := &dataset.PoolStatus{Online: true}, &dataset.PoolStatus{Reason: "its disk is absent"}
	cordoned := pool("fenced", loopCan, on)
	cordoned.Cordoned = true
	gold := dataset.Profile{Name: "gold", Size: 1}
	for _, c := range []struct {
		name  string
		cands []placement.Candidate
		want  string
		kind  *dataset.Kind
		parts []string
	}{
		{"the first that fits", []placement.Candidate{pool("a", dirCan, on), pool("b", loopCan, on), pool("c", loopCan, on)}, "b", nil, nil},
		{"not respond", []placement.Candidate{pool("a", loopCan, nil)}, "a", nil, nil},
		{"the first is away", []placement.Candidate{pool("a", loopCan, off), pool("b", loopCan, on)}, "b", nil, nil},
		{"none", nil, "", dataset.ErrOffline, []string{"volume db: there is no pool", "pool create"}},
		{"none fits", []placement.Candidate{pool("a", dirCan, on), pool("b", dirCan, off)}, "", dataset.ErrUnsupported, []string{"no pool can satisfy profile gold", ": pools a, b: it cannot enforce a size"}},
		{"one would fit", []placement.Candidate{pool("a", dirCan, on), pool("b", loopCan, off)}, "", dataset.ErrOffline, []string{"pool a: it cannot enforce", "pool b: it is offline: its disk is absent"}},
		{"cordoned", []placement.Candidate{cordoned}, "", dataset.ErrOffline, []string{"its node is cordoned (drover node cordon --off"}},
	} {
		got, err := placement.Choose(c.cands, placement.Requirement{Subject: "volume db", Profile: gold})
		if got.Name != c.want || dataset.KindOf(err) != c.kind {
			t.Errorf("%s: %q, %v", c.name, got.Name, err)
		}
		if err != nil {
			expect.Refusal(t, err, c.kind, c.parts...)
		}
	}
}

// A dataset that is removed soon may exceed the overcommit of a pool, and must fit into the pool.
func TestTemporaryIgnoresOvercommit(t *testing.T) {
	full := &dataset.PoolStatus{Online: true, Size: 4, Provisioned: 4, Overcommit: 1}
	c := []placement.Candidate{{Pool: dataset.Pool{ID: uuid.New(), Name: "a", Backend: "loop", Capabilities: loopCan}, Status: full}}
	for size, fits := range map[dataset.Size]bool{4: true, 5: false} {
		p := dataset.Profile{Name: "gold", Size: size}
		_, err := placement.Choose(c, placement.Requirement{Profile: p, Temporary: true})
		if _, lasting := placement.Choose(c, placement.Requirement{Profile: p}); (err == nil) != fits || lasting == nil {
			t.Errorf("size %d: %v, and %v if it stays", size, err, lasting)
		}
	}
}

// An error about many pools is short: it has each reason once, with the first names and the number of the others.
func TestADozenPoolsGiveAShortError(t *testing.T) {
	st := placement.Site{Node: dataset.Node{Name: "alpha"}}
	for i := range 12 {
		c := placement.Candidate{Pool: dataset.Pool{Name: fmt.Sprintf("pool-%d", i), Backend: "dir", Capabilities: dirCan, MissingFeatures: []string{"sizes need project quotas (unmount its filesystem, tune2fs -O project,quota /dev/sdb, mount it with -o prjquota)"}}}
		if i%2 == 1 {
			c.Cordoned, c.Capabilities = true, loopCan
		}
		st.Pools = append(st.Pools, c)
	}
	o := placement.Requirement{Subject: "volume db", Profile: dataset.Profile{Name: "gold", Size: 5}}
	for _, sites := range [][]placement.Site{{st}, {st, st, st, st, st}} {
		err := placement.NoPoolError(sites, o)
		expect.Refusal(t, err, dataset.ErrOffline, "volume db: no pool can satisfy profile gold: ", "pools pool-0, pool-2, pool-4 and 3 more: it cannot enforce a size: on its node sizes need", "tune2fs", "pools pool-1, pool-3, pool-5 and 3 more: its node is cordoned")
		if len(err.Error()) > 400 {
			t.Errorf("%d bytes: %v", len(err.Error()), err)
		}
	}
	for i := range st.Pools { // each with a different reason
		st.Pools[i].Status, st.Pools[i].Cordoned, st.Pools[i].Capabilities = &dataset.PoolStatus{Reason: fmt.Sprintf("%d %s", i, strings.Repeat("y", 60))}, false, loopCan
	}
	err := placement.NoPoolError([]placement.Site{st}, o)
	expect.Refusal(t, err, dataset.ErrOffline, "pool pool-0: it is offline: 0 y", "pool pool-1: it is offline: 1 y", "; and 9 more pools")
	if len(err.Error()) > 400 {
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
}

// TestAThousandNodesGiveAShortError: the error names the first few nodes, and how many more there are.
func TestAThousandNodesGiveAShortError(t *testing.T) {
	sites := make([]placement.Site, 1000)
	for i := range sites {
		sites[i] = placement.Site{Node: dataset.Node{Name: fmt.Sprintf("node-%d", i)}, Facts: &dataset.Facts{Load10: float64(i)}, Pools: []placement.Candidate{{Pool: dataset.Pool{Name: "default"}}}}
	}
	o := placement.Requirement{Subject: "volume db", Profile: dataset.Profile{Name: "busy", Placement: "load_10 < 0"}}
	var err error
	if o.Placement, err = placement.ParsePlacement(o.Profile); err != nil {
		t.Fatal(err)
	}
	expect.Refusal(t, placement.NoPoolError(sites, o), dataset.ErrUnsupported, "node node-5: pool default: load_10 is 5, not < 0; and 994 more nodes")
}

// TestSpreadGoesByFreeSpace: a pool with more free space is chosen more often, and always the same one for the same
// dataset. If a pool goes away, only its own datasets are placed elsewhere.
func TestSpreadGoesByFreeSpace(t *testing.T) {
	fit := []placement.Candidate{
		{Pool: dataset.Pool{ID: uuid.UUID{1}, Name: "a"}, Status: &dataset.PoolStatus{Free: 100 << 30}},
		{Pool: dataset.Pool{ID: uuid.UUID{2}, Name: "b"}, Status: &dataset.PoolStatus{Free: 300 << 30}},
		{Pool: dataset.Pool{ID: uuid.UUID{3}, Name: "c"}, Status: &dataset.PoolStatus{Free: 600 << 30}},
		{Pool: dataset.Pool{ID: uuid.UUID{4}, Name: "full"}, Status: &dataset.PoolStatus{}},
		{Pool: dataset.Pool{ID: uuid.UUID{5}, Name: "unheard"}},
	}
	got := map[string]int{}
	for i := range 10000 {
		id := uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "%d", i))
		got[placement.Spread(fit, id).Name]++
	}
	for name, want := range map[string]int{"a": 1000, "b": 3000, "c": 6000, "full": 0, "unheard": 0} {
		if d := got[name] - want; d > 200 || d < -200 {
			t.Errorf("%s: %d of 10,000, want about %d", name, got[name], want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		gone := rapid.IntRange(0, len(fit)-1).Draw(t, "gone")
		was := placement.Spread(fit, id)
		left := append(append([]placement.Candidate{}, fit[:gone]...), fit[gone+1:]...)
		if is := placement.Spread(left, id); was.ID != fit[gone].ID && is.ID != was.ID {
			t.Fatalf("%s was removed, and a dataset of %s goes to %s", fit[gone].Name, was.Name, is.Name)
		}
	})
}

// Capabilities as pools of the backends loop and dir declare them.
var (
	loopCan = dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, CloneIndependent: true, OnlineGrow: true, OwnFilesystem: true,
		Delta: true, Filesystems: []string{"xfs", "ext4"},
	}
	dirCan = dataset.Capabilities{CloneIndependent: true}
)

func TestMisfits(t *testing.T) {
	loop := placement.Candidate{Pool: dataset.Pool{Name: "fast", Backend: "loop", Capabilities: loopCan}}
	dir := placement.Candidate{Pool: dataset.Pool{Name: "plain", Backend: "dir", Capabilities: dirCan}}
	anew, there, guarded, copying := dir, loop, loop, loop
	copying.Capabilities.InstantSnapshot = false
	anew.FileCopy, there.FileCopy, guarded.Guarded = true, true, true
	limited := func(l dataset.LimitEnforcement) placement.Candidate {
		c := loop
		c.Capabilities.OwnDevice, c.Capabilities.Limits = true, l
		return c
	}
	unsized := dir
	unsized.MissingFeatures = []string{"sizes need quotas (enable)"}
	less := loop
	less.Capabilities.Filesystems, less.MissingFeatures = nil, []string{"xfs needs mkfs.xfs (apt-get install xfsprogs)", "ext4: the kernel does not support it (modprobe ext4)", "encryption needs cryptsetup (apt-get install cryptsetup-bin)"}
	sealed := dataset.Profile{Encryption: dataset.KeySource{KeyFile: "/key"}}
	slow, strict := dataset.QoS{WriteBPS: 5 * dataset.MiB}, dataset.QoS{WriteBPS: 5 * dataset.MiB, Strict: true}
	auto := dataset.Profile{Failover: dataset.Failover{Auto: true}}
	for _, c := range []struct {
		on      placement.Candidate
		profile dataset.Profile
		want    string
	}{
		{loop, dataset.Profile{}, ""},
		{dir, dataset.Profile{}, ""},
		{loop, dataset.Profile{Pool: "fast", Backend: "loop", Size: 1, Quiesce: dataset.QuiesceFreeze, Filesystem: dataset.Filesystem{Type: "ext4", Mount: []string{"noatime"}}, Snapshots: dataset.Snapshots{Required: true}}, ""},
		{dir, dataset.Profile{Quiesce: dataset.QuiesceFlush}, ""},
		{loop, dataset.Profile{Pool: "plain"}, "it is not pool plain"},
		{dir, dataset.Profile{Backend: "loop"}, "its backend is dir, not loop"},
		{dir, dataset.Profile{Size: 1}, "it cannot enforce a size"},
		{unsized, dataset.Profile{Size: 1}, "it cannot enforce a size: on its node sizes need quotas (enable), and then a restart of drover"},
		{unsized, dataset.Profile{Size: 1, Snapshots: dataset.Snapshots{Schedule: "@daily"}}, "it cannot take snapshots without copying"}, // which nothing there can repair
		{less, dataset.Profile{Encryption: sealed.Encryption, Filesystem: dataset.Filesystem{Type: "btrfs"}}, "it has no filesystem btrfs inside volumes"},
		{limited(""), dataset.Profile{QoS: slow, Access: dataset.AccessMany}, "it cannot mount a volume on several hosts, as access many requires"},
		{dir, dataset.Profile{Snapshots: dataset.Snapshots{Required: true}}, "it cannot take snapshots without copying"},
		{dir, dataset.Profile{Snapshots: dataset.Snapshots{Schedule: "@daily"}}, "it cannot take snapshots without copying"},
		{dir, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs"}}, "it has no filesystem xfs inside volumes"},
		{dir, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs", Chosen: true}}, "it has no filesystem xfs inside volumes"},
		{anew, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs", Chosen: true}}, ""},
		{dir, sealed, "it cannot encrypt"}, // on no host
		{less, sealed, "it cannot encrypt: on its node encryption needs cryptsetup (apt-get install cryptsetup-bin), and then a restart of drover"},
		{less, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs"}}, "it has no filesystem xfs inside volumes: on its node xfs needs mkfs.xfs (apt-get install xfsprogs), and then a restart of drover"},
		{less, dataset.Profile{Filesystem: dataset.Filesystem{Type: "ext4"}}, "it has no filesystem ext4 inside volumes: on its node ext4: the kernel does not support it (modprobe ext4), and then a restart of drover"},
		{less, dataset.Profile{Filesystem: dataset.Filesystem{Type: "ext"}}, "it has no filesystem ext inside volumes"},
		{anew, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs"}}, "it has no filesystem xfs inside volumes"},
		{anew, dataset.Profile{Replicas: dataset.Replicas{Count: 1}}, "it cannot send differences to replicas"},
		{there, dataset.Profile{Replicas: dataset.Replicas{Count: 1}}, ""},
		{dir, dataset.Profile{Replicas: dataset.Replicas{Count: 1}}, ""}, // it is refused with a separate reason
		{loop, auto, "its node has no guard, which failover auto requires (systemctl enable --now drover-guard there)"},
		{guarded, auto, ""},
		{loop, dataset.Profile{Filesystem: dataset.Filesystem{Type: "btrfs"}}, "it has no filesystem btrfs inside volumes"},
		{dir, dataset.Profile{QoS: slow}, "it has no block device for each volume, so it cannot throttle"},
		{loop, dataset.Profile{QoS: slow}, "it has no block device for each volume, so it cannot throttle"},
		{limited(""), dataset.Profile{QoS: slow}, "its node cannot throttle volumes (drover doctor -v there shows why)"},
		{limited(""), dataset.Profile{}, ""},
		{limited(dataset.LimitsContainer), dataset.Profile{QoS: slow}, ""},
		{limited(dataset.LimitsContainer), dataset.Profile{QoS: strict}, "its node has control groups of version 1, which throttle each container separately from about a second after its start, and qos is strict"},
		{limited(dataset.LimitsStrict), dataset.Profile{QoS: strict}, ""},
		{dir, dataset.Profile{Filesystem: dataset.Filesystem{Mount: []string{"noatime"}}}, "it has no mount options for a single volume"},
	} {
		if got := placement.WhyUnsuitable(c.on, c.profile); got != c.want {
			t.Errorf("%s, %+v: %q, not %q", c.on.Name, c.profile, got, c.want)
		}
	}
}

// A guard on its last home is not enough for a volume on a share.
func TestFailoverOnAShareWantsACommand(t *testing.T) {
	c := placement.Candidate{Pool: dataset.Pool{Capabilities: loopCan, Share: uuid.New()}, Guarded: true}
	p := dataset.Profile{Failover: dataset.Failover{Auto: true}}
	for kind, want := range map[dataset.FenceKind]bool{dataset.FenceGuard: false, dataset.FenceWatchdog: false, dataset.FenceExec: true} {
		p.Failover.Fence.Kind = kind
		if why := placement.WhyUnsuitable(c, p); (why == "") != want || !want && !strings.Contains(why, "fence: {exec: ") {
			t.Errorf("fence %s on a share: %q", kind, why)
		}
	}
	c.Share = uuid.Nil
	p.Failover.Fence.Kind = dataset.FenceGuard
	if why := placement.WhyUnsuitable(c, p); why != "" {
		t.Errorf("elsewhere: %q", why)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
