package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// Plan decides on a request that the node itself will carry out. It writes nothing. Depending on the kind of request,
// it fails with dataset.ErrInvalid, ErrNotFound, ErrAmbiguous, ErrExists, ErrProtected, ErrUnsupported or ErrOffline.
// It fails with ErrUnavailable if the store does not answer.
func (s *Service) Plan(ctx context.Context, node uuid.UUID, req api.Request) (p api.Plan, err error) {
	if kinds[req.Kind].submitted {
		return p, dataset.Errorf(dataset.ErrInvalid, "an operation of kind %q is not planned: submit it", req.Kind)
	}
	if req.Kind == dataset.OpDelete && req.Fenced != "" {
		return p, dataset.Errorf(dataset.ErrInvalid, "a delete without the home is not planned: submit it")
	}
	if err := checkCallersID(req.ID); err != nil {
		return p, err
	}
	req, req.RequestID = req.Parsed(), requestid.Of(ctx)
	err = s.Ledger.View(ctx, func(t *record.Tx) error {
		p, err = s.plan(t, node, req)
		return err
	})
	return p, err
}

// plan makes the decision of Plan. Besides its arguments and the records that it reads through t, its result depends on
// the valid profiles, the last reports of agents, the clock and new UUIDs.
func (s *Service) plan(t *record.Tx, node uuid.UUID, req api.Request) (api.Plan, error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	op, done, err := s.decide(t, node, req)
	if err != nil || done != nil {
		return api.Plan{Unchanged: done}, err
	}
	if !s.Shared { // in a shared store, the records say whether it is halted
		if err := s.Reports.CheckTrust(); err != nil {
			return api.Plan{}, err
		}
	}
	if err := t.Halted(); err != nil {
		return api.Plan{}, err
	}
	if op.Kind == "" {
		op.Kind = req.Kind
	}
	op.ID, op.RequestDigest, op.State, op.Created = req.ID, digest(req), dataset.OpPending, s.Clock.Now()
	op.RequestID, op.By = req.RequestID, requestid.By(t.Context())
	if op.DatasetRecord != nil {
		op.DatasetRecord.Request = req.ID
	}
	if op.Snapshot != nil {
		op.Snapshot.Request = req.ID
	}
	return api.Plan{Operation: op}, nil
}

// decide returns the operation for a request. If the dataset already is as requested, it returns the dataset instead.
func (s *Service) decide(t *record.Tx, node uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	if err := cmp.Or(checkPath(req), checkRepository(req)); err != nil {
		return nil, nil, err
	}
	if k, known := kinds[req.Kind]; known {
		return k.plan(s)(t, node, req)
	}
	return nil, nil, dataset.Errorf(dataset.ErrInvalid, "unknown kind of operation %q", dataset.Clip(string(req.Kind)))
}

// digest returns a digest of a request without its ID. Two requests with the same ID are the same request only if
// their digests are equal.
func digest(req api.Request) string {
	req.ID = uuid.Nil
	text, err := json.Marshal(req)
	if err != nil {
		return "" // cannot fail: the request has strings, flags and a UUID
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}
