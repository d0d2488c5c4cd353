// Package handover_test tests the handover part of package move. It is a folder of its own, so that it runs beside the other tests.
package handover_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }
