package cli

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestUniquePoolName: the node is part of the name only if another pool has the same name. Pools that could not be
// opened have no ID, but those of two nodes differ.
func TestUniquePoolName(t *testing.T) {
	one, two := uuid.New(), uuid.New()
	pool := func(node uuid.UUID, nodeName, name string, id uuid.UUID) api.Pool {
		return api.Pool{Pool: dataset.Pool{ID: id, Node: node, Name: name}, NodeName: nodeName}
	}
	pools := []api.Pool{
		pool(one, "host-a", "fast", uuid.New()), pool(two, "host-b", "fast", uuid.New()),
		pool(one, "host-a", "failed", uuid.Nil), pool(two, "host-b", "failed", uuid.Nil),
		pool(one, "host-a", "plain", uuid.New()), pool(two, "host-b", "other", uuid.Nil),
	}
	want := []string{"host-a/fast", "host-b/fast", "host-a/failed", "host-b/failed", "plain", "other"}
	for i, p := range pools {
		if got := UniquePoolName(p, pools); got != want[i] {
			t.Errorf("pool %s of %s: got %s, want %s", p.Name, p.NodeName, got, want[i])
		}
	}
}
