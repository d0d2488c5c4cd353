package dataset_test

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

// TestActionOfOperation: the action of an operation is the command that was given.
func TestActionOfOperation(t *testing.T) {
	for record, want := range map[string]string{
		`{"kind": "update", "options": {"profile": "gold"}}`: "set-profile",
		`{"kind": "resize", "options": {"profile": "gold"}}`: "set-profile",
		`{"kind": "resize"}`: "resize",
		`{"kind": "update", "options": {"protect": "true"}}`:               "protect",
		`{"kind": "update", "options": {"protect": "false"}}`:              "unprotect",
		`{"kind": "update", "options": {"label.a": "1", "unlabel.b": ""}}`: "label",
		`{"kind": "update", "options": {"unlabel.profile": ""}}`:           "label",
		`{"kind": "update"}`: "update",
		`{"kind": "rename"}`: "rename",
		`{"kind": "create", "options": {"profile": "gold", "label.a": "1"}}`: "create",
	} {
		var op dataset.Operation
		if err := dataset.DecodeRecord([]byte(record), &op); err != nil {
			t.Fatal(err)
		}
		if got := op.Action(); got != want {
			t.Errorf("%s: got %s, want %s", record, got, want)
		}
	}
}
