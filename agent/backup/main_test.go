package backup_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }

// here is the cluster of the tests.
var here = ofCluster(uuid.MustParse("11111111-1111-4111-8111-111111111111"))

type ofCluster uuid.UUID

func (c ofCluster) Cluster() uuid.UUID { return uuid.UUID(c) }
