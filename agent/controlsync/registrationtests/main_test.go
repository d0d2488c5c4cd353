// Package registration_test tests the registration part of package controlsync. It is a folder of its own, so that it runs beside the other tests.
package registration_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }
