// Package faults breaks Drover on purpose: it kills it at every step, cuts the power, takes its disks and its store
// away, fills them up, and acts as a hostile user.
package faults

import (
	"testing"

	"github.com/droverhq/drover/test/engine"
)

// No test here needs an engine. The namespaces are needed: each test needs its own plugin socket, and the kernel then
// ends and unmounts whatever a failed test leaves.
func TestMain(m *testing.M) { engine.Main(m) }
