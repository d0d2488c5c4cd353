// Package faults breaks Drover on purpose: it kills it at every step, cuts the power, takes its disks and
// its store away, fills them up, and plants what a hostile user would.
package faults

import (
	"testing"

	"github.com/droverhq/drover/test/engine"
)

// No test here needs an engine, but for the namespaces: a plugin socket of its own, and the kernel ends
// and unmounts whatever a failed test leaves.
func TestMain(m *testing.M) { engine.Main(m) }
