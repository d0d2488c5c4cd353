// Package agenttest starts whole agents for the tests of all components of the agent: the agent of one host that is
// alone (New), several hosts of a cluster (NewCluster), or hosts whose leases are bounded and whose guards run
// (NewBounded). Disks, mounts and the control service are real. The test cuts connections (Link, Network), simulates
// crashes (Fuse), and moves the clock of a host that is alone.
package agenttest

import (
	"flag"
	"testing"

	"go.uber.org/goleak"

	"github.com/droverhq/drover/internal/scratch"
)

// Main runs the tests of a package in a separate mount namespace, and fails if they leave goroutines. Without the
// namespace, the agent would take a copy of its mounts in the namespace of another package's tests for a container's
// use.
func Main(m *testing.M) { goleak.VerifyTestMain(ownNamespace{m}) }

type ownNamespace struct{ *testing.M }

// Run runs the tests, at most four at once: most of them wait for leases, promises and sessions.
func (o ownNamespace) Run() int {
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	return scratch.Main(o.M)
}
