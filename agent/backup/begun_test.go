package backup

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// An operation counts as new only if control recorded it for this start of the agent, and only once.
func TestOperationIsNewOnce(t *testing.T) {
	var b begunOperations
	agent := uuid.New()
	for name, c := range map[string]struct {
		incarnation uuid.UUID
		want        bool
	}{
		"recorded for this start": {agent, true}, "recorded for an earlier start": {uuid.New(), false},
		"of a verification": {uuid.Nil, false},
	} {
		op := dataset.Operation{ID: uuid.New(), Incarnation: c.incarnation}
		if got := b.begin(op, agent); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
		op.Incarnation = agent // a report sets it
		if b.begin(op, agent) {
			t.Errorf("%s: the second run counts as new", name)
		}
	}
	for len(b.ids) < maxBegun {
		b.ids[uuid.New()] = true
	}
	if b.begin(dataset.Operation{ID: uuid.New(), Incarnation: agent}, agent) {
		t.Error("an operation counts as new that cannot be remembered")
	}
}

// Only the backup that control has recorded becomes the parent, and only if the content and the session are the same.
func TestOnlyRecordedParent(t *testing.T) {
	op := dataset.Operation{Parent: "recorded", ParentSession: "session", Content: 2}
	planned := dataset.Operation{ReadsAll: "planned"}
	for name, c := range map[string]struct {
		op               dataset.Operation
		content          uint64
		session          string
		parent, readsAll string
	}{
		"recorded":     {op, 2, "session", "recorded", ""},
		"none":         {planned, 2, "session", "", "planned"},
		"restored":     {op, 3, "session", "", "the content of the volume was replaced meanwhile"},
		"mounted anew": {op, 2, "later", "", "the volume was mounted or unmounted, or drover was started, since its last exact backup"},
	} {
		parent, readsAll := chooseParent(c.op, dataset.Dataset{Content: c.content}, c.session)
		if parent != c.parent || readsAll != c.readsAll {
			t.Errorf("%s: got %q, %q", name, parent, readsAll)
		}
	}
}
