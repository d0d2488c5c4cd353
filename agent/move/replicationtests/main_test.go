// Package replication_test tests the replication part of package move. It is a folder of its own, so that it runs beside the other tests.
package replication_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }
