package agent

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A folder that the pool itself lies in is refused: the copy would never end.
func TestImportOfWhatHoldsThePool(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{r.root, r.root + "/pool"} {
		out, err := r.link.Service.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpImport, Volume: "all", Path: path, Live: true})
		if err != nil {
			t.Fatal(err)
		}
		var op dataset.Operation
		await(t, func() bool {
			op, _ = r.known(t.Context(), out.Operation.ID)
			return op.State.Final()
		})
		if op.Problem == nil || op.Problem.Code != "invalid" || !strings.Contains(op.Problem.Message, "pool default") {
			t.Errorf("%s: %s, %+v", path, op.State, op.Problem)
		}
		if left := r.inPool("incoming"); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}
