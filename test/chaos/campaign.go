// Package chaos runs campaigns of faults against whole clusters of the real parts (see
// test/cluster). It kills and pauses processes, cuts networks in one direction or both, takes
// quorums and hosts away, kills engines under their containers, and starts processes that keep a
// mount. Several faults happen at once, while users on all hosts start and stop containers, and
// operators move, snapshot and remove volumes. In the end it compares the volumes with what the
// writers noted outside of them, and with what clients were told.
//
// What happens is a function of a seed: the faults, and who does what. When each of it
// happens is not: the same seed does the same things to a cluster that may be elsewhere
// by then.
package chaos

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/history"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/lan"
)

// session is the time of sessions: a tenth of the default, and all times of leases with it.
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

// Options say what a campaign is.
type Options struct {
	Seed    uint64
	Seconds int      // that faults begin for
	Off     []string // protections that are switched off
}

// New makes a cluster for campaigns, one after the other.
func New(t testing.TB, off string) *cluster.Cluster {
	t.Helper()
	return cluster.New(t, cluster.Options{
		Engines: -1, Profiles: profiles, Step: session / 10,
		Env: []string{"DROVER_SESSION=" + session.String(), "DROVER_OFF=" + off},
	})
}

// Campaign is one: its volumes are its own.
type Campaign struct {
	*cluster.Cluster

	opts    Options
	dir     string // of what writers note
	writer  string // their program
	volumes []*volume
	engines map[*cluster.Host]*dockerd
	leases  *history.Recorder
	names   *cluster.Traffic
	report  tally

	mu    sync.Mutex
	parts map[string]*sync.Mutex // who has a fault
	cuts  map[cut]int
	lost  map[*cluster.Host]bool // no container is started on these

	// Of a store that was put back: see putBack.
	noneLost  sync.RWMutex
	quiet     sync.RWMutex // no fault begins
	recovered int
	over      []func()
	ended     ended
	raised    []witness.Raised
}

type cut struct{ from, to *lan.Machine }

// Run runs a campaign until its time is over, has all faults end, and holds what there is
// against what was noted. The test fails when that does not agree, or anything is left.
func Run(t testing.TB, c *cluster.Cluster, opts Options) Report {
	t.Helper()
	program, err := cluster.WriterProgram()
	if err != nil {
		t.Fatal(err)
	}
	k := &Campaign{
		Cluster: c, opts: opts, dir: t.TempDir(), writer: program, leases: history.Leases(),
		parts: map[string]*sync.Mutex{}, cuts: map[cut]int{}, lost: map[*cluster.Host]bool{}, ended: ended{},
		report: tally{Report: Report{
			Seed:       opts.Seed,
			Faults:     map[Kind]int{},
			Operations: map[string]int{},
			Reasons:    map[string]int{},
		}},
	}
	defer k.units(t)()
	endEngines := k.startEngines(t)
	t.Cleanup(endEngines) // after the users, should this end in their middle
	k.makeVolumes(t)
	k.names = c.StartTraffic(t, cluster.Load{
		Prefix: fmt.Sprint("n", opts.Seed, "-"),
		Seed:   opts.Seed,
		Pause:  300 * time.Millisecond,
		Fresh:  30,
	})
	stop := k.startUsers(t)
	k.wreak(t)
	stop()
	all, done := k.names.Check(t)
	k.report.Operations["names asked"] += all
	k.report.Operations["names done"] += done
	k.judge(t)
	k.sweep(t)
	endEngines()
	return k.report.Report
}
