package backup

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// An operation counts as new only if control recorded it for this start of the agent, and only once.
func TestOperationIsNewOnce(t *testing.T) {
	var m memory
	agent := uuid.New()
	for name, c := range map[string]struct {
		incarnation uuid.UUID
		want        bool
	}{
		"recorded for this start": {agent, true}, "recorded for an earlier start": {uuid.New(), false},
		"recorded by an older control": {uuid.Nil, false},
	} {
		op := dataset.Operation{ID: uuid.New(), Incarnation: c.incarnation}
		if got := m.begin(op, agent); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
		op.Incarnation = agent // a report sets it
		if m.begin(op, agent) {
			t.Errorf("%s: the second run counts as new", name)
		}
	}
	for len(m.begun) < maxBegun {
		m.begun[uuid.New()] = true
	}
	if m.begin(dataset.Operation{ID: uuid.New(), Incarnation: agent}, agent) {
		t.Error("an operation counts as new that cannot be remembered")
	}
}

// The parent is the newest known backup in the same repository, made since the volume came to this node.
func TestKnownParent(t *testing.T) {
	var m memory
	op := dataset.Operation{DatasetID: uuid.New(), Epoch: 3}
	at := time.Now()
	m.note(op, "/a", restic.Backup{})
	m.note(op, "/a", restic.Backup{ID: "volume", Time: at})
	m.note(op, "/a", restic.Backup{ID: "older snapshot", Time: at.Add(-time.Hour)})
	moved := op
	moved.Epoch++
	for _, c := range []struct {
		op   dataset.Operation
		url  string
		want string
	}{{op, "/a", "volume"}, {op, "/b", ""}, {moved, "/a", ""}, {dataset.Operation{DatasetID: uuid.New()}, "/a", ""}} {
		if got := m.parent(c.op, c.url); got != c.want {
			t.Errorf("got %q for %+v in %s, want %q", got, c.op, c.url, c.want)
		}
	}
	m.note(moved, "/a", restic.Backup{ID: "moved", Time: at.Add(-time.Minute)})
	if got := m.parent(moved, "/a"); got != "moved" {
		t.Errorf("got %q", got)
	}
	m.forget(op.DatasetID)
	if got := m.parent(moved, "/a"); got != "" {
		t.Errorf("got %q after forget", got)
	}
}
