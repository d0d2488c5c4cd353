// Package volume_test tests the volume part of package operation. It is a folder of its own, so that it runs beside the other tests.
package volume_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }
