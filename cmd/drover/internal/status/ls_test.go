package status

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

// TestDetail: the detail of a move names the nodes, also while the move runs.
func TestDetail(t *testing.T) {
	nodes := "from node host-a to node host-b"
	for want, op := range map[string]dataset.Operation{
		nodes: {Kind: dataset.OpMove, State: dataset.OpPending, Change: nodes},
		nodes + ": copy 50% (1MiB of 2MiB)": {
			Kind: dataset.OpMove, State: dataset.OpRunning, Change: nodes,
			Progress: dataset.Progress{Step: "copy", Done: 1 << 20, Total: 2 << 20},
		},
		"copy": {
			Kind: dataset.OpMove, State: dataset.OpRunning, Progress: dataset.Progress{Step: "copy"},
		},
		"it is in use": {
			Kind: dataset.OpMove, State: dataset.OpFailed, Change: nodes, Problem: &dataset.Problem{Message: "it is in use"},
		},
	} {
		if got := detail(op); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
