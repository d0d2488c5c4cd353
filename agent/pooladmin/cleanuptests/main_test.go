// Package cleanup_test tests the cleanup part of package pooladmin. It is a folder of its own, so that it runs beside the other tests.
package cleanup_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }
