package controlsync

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// heartbeats is a control replica that records heartbeats, and answers with answer.
type heartbeats struct {
	api.Service
	got    []api.Heartbeat
	answer func(api.Heartbeat) error
}

func (s *heartbeats) Heartbeat(_ context.Context, _ uuid.UUID, h api.Heartbeat) error {
	s.got = append(s.got, h)
	return s.answer(h)
}

// A replica of an earlier version refuses the names by which engines use volumes, and the paths of mounts: it gets its
// reports without them, until a report fails. Then the replica may be newer, and gets them again.
func TestOlderReplicaGetsNoNewKeys(t *testing.T) {
	plain := api.Heartbeat{Datasets: []dataset.DatasetStatus{{Mounted: true, Mounts: []dataset.Mount{{ID: "m"}}}}}
	named := api.Heartbeat{Datasets: []dataset.DatasetStatus{{
		Mounted: true, MountPath: "/m", Mounts: []dataset.Mount{{ID: "m", Names: []string{"db"}}}, EngineAliases: []string{"old"},
	}}}
	for _, text := range []string{
		`bad request: body: bad JSON: unknown field "names"`,
		`bad request: body: bad JSON: unknown field "engine_aliases"`,
		"bad request: unknown field body.datasets[0].engine_aliases",
		`bad request: body: bad JSON: unknown field "mount_path"`,
		"bad request: unknown field body.datasets[3].mount_path",
		"bad request: unknown field body.datasets[12].mounts[3].names; and 3 more",
	} {
		refuse := func(h api.Heartbeat) error {
			if cmp.Equal(h, named) {
				return errors.New(text)
			}
			return nil
		}
		s := &heartbeats{answer: refuse}
		to := &replicaReporter{to: s}
		send := func() error { return to.send(t.Context(), uuid.New(), named) }
		for range 2 {
			if err := send(); err != nil {
				t.Error(err)
			}
		}
		s.answer = func(api.Heartbeat) error { return dataset.ErrConflict }
		if err := send(); !errors.Is(err, dataset.ErrConflict) {
			t.Error(err)
		}
		s.answer = func(api.Heartbeat) error { return nil }
		if err := send(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]api.Heartbeat{named, plain, plain, plain, named}, s.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	s := &heartbeats{answer: func(api.Heartbeat) error { return errors.New(`unknown field "colour"`) }}
	if err := (&replicaReporter{to: s}).send(t.Context(), uuid.New(), named); err == nil || len(s.got) != 1 {
		t.Errorf("another refusal: %v after %d reports", err, len(s.got))
	}
}
