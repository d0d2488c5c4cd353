package control

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

// TestEventNamesNewRevision: TestOperationsSayWhatTheyChange has the other changes.
func TestEventNamesNewRevision(t *testing.T) {
	gold := dataset.Dataset{Profile: dataset.Profile{Name: "gold", Revision: "a1"}}
	next := gold
	next.Profile.Revision = "a2"
	if got, none := describeUpdate(gold, next), describeUpdate(gold, gold); got != "profile gold, revision a2" || none != "" {
		t.Errorf("got %q, and %q for no change", got, none)
	}
}
