package placement_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/dataset"
)

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
