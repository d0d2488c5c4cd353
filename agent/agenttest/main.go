// Package agenttest starts whole agents for the tests of all components of the agent: the agent of a single host
// without a cluster (New), several hosts of a cluster (NewCluster), or hosts whose leases are bounded and whose guards
// run (NewBounded). Disks, mounts and the control service are real. No other code uses the package. The test cuts
// connections (Link, Network), simulates crashes (Fuse), has the pools of a backend hang or fail (HangingBackend,
// FailingBackend), sets the load of a host (Machine), and moves the clock of a single host. Each of these types has a
// mutex for its state, with two exceptions. The Offline of a FailingBackend is atomic, and its Refuse changes only
// while no request runs. The load of a Machine changes only while no agent reads it. Host has a mutex only for the
// running agent and for Off.
//
// A new failure of the connection to control belongs in link.go, a new act at which an agent can crash in fused.go, and
// a new expectation in expect.go.
package agenttest

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/internal/linux/freezer"
	"github.com/droverhq/drover/internal/scratch"
)

// Main runs the tests of a package in a separate mount namespace, and fails if they leave goroutines. In a shared
// namespace, the tests of another package could get copies of the mounts of this agent, and the agent would think that
// a container uses these copies.
func Main(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == freezerCommand {
		freezer.Serve()
		os.Exit(0)
	}
	freezerArgs = []string{"/proc/self/exe", freezerCommand}
	goleak.VerifyTestMain(ownNamespace{m})
}

const freezerCommand = "freezer"

// freezerArgs is agent.Config.Freezer of all hosts. It is empty in a program that does not call Main.
var freezerArgs []string

type ownNamespace struct{ *testing.M }

// Run runs the tests, at most four at once: most of them wait for leases, promises and sessions.
func (o ownNamespace) Run() int {
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	return scratch.Main(o.M)
}
