package controlsync

import (
	"context"
	"regexp"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// send sends a heartbeat to the replica. A replica of an earlier version refuses the names by which engines use
// volumes, and the paths of mounts. Such a replica gets this heartbeat and the later ones without them, until a
// heartbeat fails. After a failure the replica may have restarted with a newer version, so send tries the complete
// heartbeat again.
func (t *replicaReporter) send(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	if t.older {
		err := t.to.Heartbeat(ctx, node, withoutNewStatus(h))
		t.older = err == nil
		return err
	}
	err := t.to.Heartbeat(ctx, node, h)
	if !refusesNewStatus(err) {
		return err
	}
	err = t.to.Heartbeat(ctx, node, withoutNewStatus(h))
	t.older = err == nil
	return err
}

// refusedKey matches the refusal of a heartbeat because of a key that withoutNewStatus omits. There are two forms: of
// the JSON decoder, and of the check against the API's schema.
var refusedKey = regexp.MustCompile(
	`unknown field ("names"|"engine_aliases"|"mount_path"|` +
		`body\.datasets\[\d+\]\.(mounts\[\d+\]\.names|engine_aliases|mount_path))`)

// refusesNewStatus reports whether an error is the refusal of a heartbeat because of a newer key in it. It examines the
// text, because control refuses each bad request with the same code.
func refusesNewStatus(err error) bool { return err != nil && refusedKey.MatchString(err.Error()) }

// withoutNewStatus returns a heartbeat without the keys that a replica of an earlier version refuses.
func withoutNewStatus(h api.Heartbeat) api.Heartbeat {
	datasets := make([]dataset.DatasetStatus, len(h.Datasets))
	for i, st := range h.Datasets {
		st.EngineAliases, st.MountPath = nil, ""
		mounts := make([]dataset.Mount, len(st.Mounts))
		for j, m := range st.Mounts {
			m.Names = nil
			mounts[j] = m
		}
		st.Mounts = mounts
		datasets[i] = st
	}
	h.Datasets = datasets
	return h
}
