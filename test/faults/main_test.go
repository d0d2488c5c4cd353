// Package faults breaks the Drover of one host on purpose: it kills the process at every step, cuts the power, removes
// or fills up its disks and its store, and acts as a hostile user. The faults of a cluster are in test/cluster and
// test/chaos. A new operation needs a drill, which is interrupted at each of its steps (drills).
package faults

import (
	"testing"

	"github.com/droverhq/drover/test/engine"
)

// No test here needs an engine. The namespaces are needed: each test needs its own plugin socket, and the kernel then
// ends and unmounts whatever a failed test leaves.
func TestMain(m *testing.M) { engine.Main(m) }
