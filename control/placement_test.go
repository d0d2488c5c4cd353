package control

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestMisfits(t *testing.T) {
	loop := placement.Candidate{Pool: dataset.Pool{Name: "fast", Backend: "loop", Capabilities: loopCan}}
	dir := placement.Candidate{Pool: dataset.Pool{Name: "plain", Backend: "dir", Capabilities: dirCan}}
	anew, there, guarded := dir, loop, loop
	anew.Anew, there.Anew, guarded.Guarded = true, true, true
	limited := func(l dataset.Limits) placement.Candidate {
		c := loop
		c.Capabilities.OwnDevice, c.Capabilities.Limits = true, l
		return c
	}
	unsized := dir
	unsized.Missing = []string{"sizes need quotas (enable)"}
	less := loop
	less.Capabilities.Filesystems, less.Missing = nil, []string{"xfs needs mkfs.xfs (apt-get install xfsprogs)", "ext4: the kernel has it not (modprobe ext4)", "encryption needs cryptsetup (apt-get install cryptsetup-bin)"}
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
		{dir, dataset.Profile{Quiesce: dataset.QuiesceNone}, ""},
		{loop, dataset.Profile{Pool: "plain"}, "it is not pool plain"},
		{dir, dataset.Profile{Backend: "loop"}, "its backend is dir, not loop"},
		{dir, dataset.Profile{Size: 1}, "it cannot enforce a size"},
		{unsized, dataset.Profile{Size: 1}, "it cannot enforce a size: on its node sizes need quotas (enable), and then a restart of drover"},
		{unsized, dataset.Profile{Size: 1, Snapshots: dataset.Snapshots{Schedule: "@daily"}}, "it cannot take snapshots without copying"}, // which nothing there mends
		{less, dataset.Profile{Encryption: sealed.Encryption, Filesystem: dataset.Filesystem{Type: "btrfs"}}, "it has no filesystem btrfs inside volumes"},
		{limited(""), dataset.Profile{QoS: slow, Access: dataset.AccessMany}, "several hosts cannot have a volume of it mounted at once, as access many wants"},
		{dir, dataset.Profile{Snapshots: dataset.Snapshots{Required: true}}, "it cannot take snapshots without copying"},
		{dir, dataset.Profile{Snapshots: dataset.Snapshots{Schedule: "@daily"}}, "it cannot take snapshots without copying"},
		{dir, dataset.Profile{Quiesce: dataset.QuiesceFreeze}, "it cannot freeze one volume alone"},
		{dir, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs"}}, "it has no filesystem xfs inside volumes"},
		{dir, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs", Chosen: true}}, "it has no filesystem xfs inside volumes"},
		{anew, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs", Chosen: true}}, ""},
		{dir, sealed, "it cannot encrypt"}, // on no host
		{less, sealed, "it cannot encrypt: on its node encryption needs cryptsetup (apt-get install cryptsetup-bin), and then a restart of drover"},
		{less, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs"}}, "it has no filesystem xfs inside volumes: on its node xfs needs mkfs.xfs (apt-get install xfsprogs), and then a restart of drover"},
		{less, dataset.Profile{Filesystem: dataset.Filesystem{Type: "ext4"}}, "it has no filesystem ext4 inside volumes: on its node ext4: the kernel has it not (modprobe ext4), and then a restart of drover"},
		{less, dataset.Profile{Filesystem: dataset.Filesystem{Type: "ext"}}, "it has no filesystem ext inside volumes"},
		{anew, dataset.Profile{Filesystem: dataset.Filesystem{Type: "xfs"}}, "it has no filesystem xfs inside volumes"},
		{anew, dataset.Profile{Replicas: dataset.Replicas{Count: 1}}, "it cannot tell replicas what changed"},
		{there, dataset.Profile{Replicas: dataset.Replicas{Count: 1}}, ""},
		{dir, dataset.Profile{Replicas: dataset.Replicas{Count: 1}}, ""}, // which is refused with a reason of its own
		{loop, auto, "its node has no guard, which failover auto needs (systemctl enable --now drover-guard there)"},
		{guarded, auto, ""},
		{loop, dataset.Profile{Filesystem: dataset.Filesystem{Type: "btrfs"}}, "it has no filesystem btrfs inside volumes"},
		{dir, dataset.Profile{QoS: slow}, "it has no block device for each volume, whose speed could be limited"},
		{loop, dataset.Profile{QoS: slow}, "it has no block device for each volume, whose speed could be limited"}, // of an agent from before
		{limited(""), dataset.Profile{QoS: slow}, "its node cannot limit the speed of volumes (drover doctor there says why)"},
		{limited(""), dataset.Profile{}, ""},
		{limited(dataset.LimitsContainer), dataset.Profile{QoS: slow}, ""},
		{limited(dataset.LimitsContainer), dataset.Profile{QoS: strict}, "its node has control groups of version 1, which limit each container by itself from about a second after its start, and qos is strict"},
		{limited(dataset.LimitsStrict), dataset.Profile{QoS: strict}, ""},
		{dir, dataset.Profile{Filesystem: dataset.Filesystem{Mount: []string{"noatime"}}}, "it has no mount options for one volume alone"},
	} {
		if got := placement.WhyUnsuitable(c.on, c.profile); got != c.want {
			t.Errorf("%s, %+v: %q, not %q", c.on.Name, c.profile, got, c.want)
		}
	}
}

// ErrOffline where it would go if something were back, ErrUnsupported where it
// never will.
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
		{"not heard of", []placement.Candidate{pool("a", loopCan, nil)}, "a", nil, nil},
		{"the first is away", []placement.Candidate{pool("a", loopCan, off), pool("b", loopCan, on)}, "b", nil, nil},
		{"none", nil, "", dataset.ErrOffline, []string{"volume db: there is no pool", "pool create"}},
		{"none fits", []placement.Candidate{pool("a", dirCan, on), pool("b", dirCan, off)}, "", dataset.ErrUnsupported, []string{"no pool can keep profile gold", ": pools a, b: it cannot enforce a size"}},
		{"one would fit", []placement.Candidate{pool("a", dirCan, on), pool("b", loopCan, off)}, "", dataset.ErrOffline, []string{"pool a: it cannot enforce", "pool b: it is offline: its disk is absent"}},
		{"cordoned", []placement.Candidate{cordoned}, "", dataset.ErrOffline, []string{"its node is cordoned"}},
	} {
		got, err := placement.Choose(c.cands, placement.Requirement{What: "volume db", Profile: gold})
		if got.Name != c.want || dataset.KindOf(err) != c.kind {
			t.Errorf("%s: %q, %v", c.name, got.Name, err)
		}
		if err != nil {
			refused(t, err, c.kind, c.parts...)
		}
	}
}

func TestPlacement(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	for _, x := range []*agent{a, b} {
		if d := x.plan(create("db")).Dataset; d.Home != x.id || d.Pool != x.pools[0].ID {
			t.Errorf("a node's own request goes to %s, %s", d.Home, d.Pool)
		}
	}
	if d := a.plan(create("db", "pool=plain")).Dataset; d.Pool != a.pools[1].ID {
		t.Errorf("%s", d.Pool)
	}
	status := func(x *agent, online bool) {
		st := dataset.PoolStatus{ID: x.pools[0].ID, Online: online, Reason: "absent"}
		if err := e.Heartbeat(e.ctx, x.id, api.Heartbeat{Incarnation: x.incarnation, Pools: []dataset.PoolStatus{st}}); err != nil {
			t.Fatal(err)
		}
	}
	a.create("mine@gold")
	status(a, false)
	if op := a.plan(create("db@gold")); op.Node != b.id || op.Dataset.Pool != b.pools[0].ID {
		t.Errorf("what cannot be on a node that is away from its pool goes to %s", op.Node)
	}
	status(b, false)
	a.planned(create("db@gold"), dataset.ErrOffline, "nodes alpha, beta: pool fast: it is offline: absent, pool plain: it cannot enforce a size")
	status(b, true)
	a.planned(create("db", "from=mine"), dataset.ErrOffline, "it is offline")
	if out := e.submit(create("db@gold")); out.Operation.Node != b.id { // anyone's request
		t.Errorf("%+v", out.Operation)
	}
	status(a, true)
	a.plan(create("db3@gold"))

	// Another node's pool is not this one's to speak of.
	if err := e.Heartbeat(e.ctx, b.id, api.Heartbeat{Incarnation: b.incarnation, Pools: []dataset.PoolStatus{{ID: a.pools[0].ID}}}); err != nil {
		t.Fatal(err)
	}
	a.plan(create("db3@gold"))
	// A pool that another node has adopted is that one's.
	b.pools = append(b.pools, a.pools[0])
	b.register("beta")
	if op := a.plan(create("db3", "pool=fast")); op.Node != b.id {
		t.Errorf("pool fast is beta's, and the volume goes to %s", op.Node)
	}
	a.planned(create("db3", "pool=fats"), dataset.ErrInvalid, `unknown pool "fats" (have: fast, plain)`)

	pools, err := e.Pools(e.ctx)
	if err != nil || len(pools) != 4 {
		t.Errorf("%+v, %v", pools, err)
	}
	for _, p := range pools {
		if (p.NodeName == "alpha") != (p.ID == a.pools[1].ID) {
			t.Errorf("%s is %s's", p.Path, p.NodeName)
		}
	}
	nobody := uuid.New()
	if p, err := e.Plan(e.ctx, nobody, create("db3")); err != nil || p.Operation.Node != a.id && p.Operation.Node != b.id {
		t.Errorf("%+v, %v", p.Operation, err)
	}
}

func TestRegister(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	cluster := func() uuid.UUID {
		s, err := e.Sync(e.ctx, a.id, 0, 0)
		if err != nil || s.Cluster == uuid.Nil {
			t.Fatal(s.Cluster, err)
		}
		return s.Cluster
	}
	id := cluster()
	a.create("db")
	_, err := e.ledger.Update(e.ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(a.id), dataset.Node{ID: a.id, Name: "alpha", Incarnation: a.incarnation, Cordoned: true, Pools: []uuid.UUID{a.pools[0].ID, a.pools[1].ID}})
	})
	if err != nil {
		t.Fatal(err)
	}
	gone := a.pools[1].ID
	a.pools = a.pools[:1]
	a.incarnation = uuid.New()
	a.register("alpha2")
	nodes, err := e.NodeList(e.ctx, "")
	if err != nil || len(nodes) != 1 {
		t.Fatal(nodes, err)
	}
	if n := nodes[0]; n.Name != "alpha2" || !n.Cordoned || len(n.Pools) != 2 || n.Pools[1] != gone || n.Incarnation != a.incarnation {
		t.Errorf("%+v", n)
	}
	if cluster() != id {
		t.Error("the store has another identity than before")
	}
	a.planned(create("db2"), dataset.ErrOffline, "its node is cordoned")
	for _, r := range []api.Registration{
		{}, {Node: dataset.Node{ID: uuid.New()}}, {Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{{Name: "x"}}},
		{Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{a.pools[0], a.pools[0]}},
	} {
		refused(t, e.Register(e.ctx, r), dataset.ErrInvalid, "register")
	}
}

// Pools are listed by node and name, and not as their UUIDs happen to be.
func TestPoolsAreInOrder(t *testing.T) {
	e := newEnv(t)
	for _, node := range []string{"gamma", "alpha", "delta", "beta"} {
		e.agent(node)
	}
	pools, err := e.Pools(e.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pools {
		got = append(got, p.NodeName+"/"+p.Name)
	}
	if len(got) != 8 || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
}
