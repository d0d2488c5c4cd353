// Package chaos runs campaigns of faults against whole clusters of the real parts (see test/cluster). It kills and
// pauses processes, cuts networks in one direction or both, takes quorums and hosts away, kills engines under their
// containers, and starts processes that keep a mount. Several faults happen at once, while users on all hosts start and
// stop containers, and operators move, snapshot and remove volumes. At the end it compares the volumes with the
// writers' notes outside of them, and with the answers that clients got. Only the tests of the package call it. A
// [Campaign] shares its state with its parts (scene, volume, dockerd, restorer, parts, tally), and each of
// these has a mutex. The mutex of a writer orders what the engine does to one container.
//
// A new kind of fault needs a [Kind] and a row of allKinds in plan.go, and a case in injector.inject. If that case only
// calls the disturber, the kind also needs a case in disturber.disturb.
//
// The seed determines the faults, and the actions of users and operators. It does not determine when each of these
// happens: the same seed does the same things to a cluster that may be in another state at that moment.
package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/history"
	"github.com/droverhq/drover/test/require"
)

// session is the TTL of sessions. It is a tenth of the default, and so are all times of leases.
const session = time.Second

const profiles = `default: passing
profiles:
  passing: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge}
  plain: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge, follow: always}
  rolled: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge, replicas: {count: 1, every: 1s}}
  staying: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge, follow: never}
  auto: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge, follow: always, replicas: {count: 1, every: 1s},
	failover: auto, fence: guard, max_loss: 20s}
  safe: {size: 64MiB, filesystem: {type: ext4}, on_delete: purge, follow: always, replicas: {count: 1, every: 1s}}
`

// Options describe a campaign.
type Options struct {
	Seed    uint64
	Seconds int // the time in which new faults begin
}

// New creates a cluster. Several campaigns can use it, one after the other.
func New(t testing.TB, off string) *cluster.Cluster {
	t.Helper()
	return cluster.New(t, cluster.Options{
		Engines: -1, Profiles: profiles, Step: session / 10,
		Env:   []string{"DROVER_SESSION=" + session.String(), "DROVER_OFF=" + off},
		Lease: time.Minute, // control is killed and cut off
	})
}

// scene has the state that all parts of a campaign share: the cluster, its volumes and engines, and the records of
// requests. After the campaign has begun, the fields above mu are not set again.
type scene struct {
	*cluster.Cluster

	opts    Options
	dir     string // for the notes of the writers
	writer  string // path of the writers' program
	volumes []*volume
	engines map[*cluster.Host]*dockerd
	leases  *history.Recorder
	names   *cluster.Traffic
	report  tally

	parts *parts

	mu   sync.Mutex
	lost map[*cluster.Host]bool // no container is started on these hosts
}

// Campaign is one run of faults on a cluster with users: see Run.
type Campaign struct {
	*scene
	disturber *disturber
	injector  *injector
	restorer  *restorer
	judge     *judge
	sweeper   *sweeper
}

// newCampaign connects the parts of a campaign.
func newCampaign(s *scene) *Campaign {
	k := &Campaign{scene: s}
	k.disturber = &disturber{scene: s}
	k.restorer = &restorer{scene: s, ended: ended{}}
	k.injector = &injector{scene: s, disturber: k.disturber, restorer: k.restorer}
	k.judge = &judge{scene: s, restorer: k.restorer}
	k.sweeper = &sweeper{scene: s, restorer: k.restorer}
	return k
}

// Run runs a campaign until its time is over, waits for the end of all faults, and compares the volumes with the notes
// of the writers. The test fails if they disagree, or if parts of removed volumes are left on a host.
func Run(t testing.TB, c *cluster.Cluster, opts Options) {
	t.Helper()
	program, err := cluster.WriterProgram()
	require.NoError(t, err)
	k := newCampaign(&scene{
		Cluster: c, opts: opts, dir: t.TempDir(), writer: program, leases: history.Leases(),
		parts: &parts{locks: map[string]*sync.Mutex{}},
		lost:  map[*cluster.Host]bool{},
	})
	defer func() { t.Logf("seed %d: %s", opts.Seed, &k.report) }()
	defer k.injector.restartAgents(t)()
	endEngines := k.startEngines(t)
	t.Cleanup(endEngines) // after the users have ended, also if this function ends early
	k.makeVolumes(t)
	k.names = c.StartTraffic(t, cluster.Load{
		Prefix:          fmt.Sprint("n", opts.Seed, "-"),
		Seed:            opts.Seed,
		Pause:           300 * time.Millisecond,
		RequestsPerName: 30,
	})
	stop := k.startUsers(t)
	k.injector.injectFaults(t)
	stop()
	k.names.Check(t)
	k.judge.verify(t)
	k.sweeper.sweep(t)
	endEngines()
}

// tally counts what a campaign did, by outcome. The last line of its output shows that it did something.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (r *tally) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[string]int{}
	}
	r.n[what]++
}

// String lists the counts.
func (r *tally) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(r.n)) {
		parts = append(parts, fmt.Sprint(what, " ", r.n[what]))
	}
	return strings.Join(parts, ", ")
}

// checkTime fails the test if a request took longer than Docker waits.
func checkTime(t testing.TB, what string, began time.Time) {
	if took := time.Since(began); took > cluster.Limit {
		t.Errorf("%s took %s", what, took)
	}
}
