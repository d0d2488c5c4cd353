package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// Plan decides on a request that the node itself will carry out. It writes nothing. Depending on the kind of request,
// it fails with dataset.ErrInvalid, ErrNotFound, ErrAmbiguous, ErrExists, ErrProtected, ErrUnsupported or ErrOffline.
// It fails with ErrUnavailable if the store does not answer.
func (s *Service) Plan(ctx context.Context, node uuid.UUID, req api.Request) (p api.Plan, err error) {
	if changesOnlyRecords(req.Kind) {
		return p, dataset.Errorf(dataset.ErrInvalid,
			"a change of kind %q only changes records, and is not planned: submit it", req.Kind)
	}
	if req.Kind == dataset.OpBackup {
		return p, dataset.Errorf(dataset.ErrInvalid, "a backup is recorded before it begins: submit it")
	}
	if req.Kind == dataset.OpPush {
		return p, dataset.Errorf(dataset.ErrInvalid, "a push is recorded before it begins: submit it")
	}
	if req.Kind == dataset.OpVerify {
		return p, dataset.Errorf(dataset.ErrInvalid, "a verification is recorded before it begins: submit it")
	}
	if req.Kind == dataset.OpMove {
		return p, dataset.Errorf(dataset.ErrInvalid, "a move is recorded before it begins: submit it")
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

// changesOnlyRecords reports whether an operation of this kind changes nothing on disk. Its request is submitted, and
// control carries it out, except for an update in which the home takes part (planning.NeedsHome).
func changesOnlyRecords(k dataset.OpKind) bool {
	switch k {
	case dataset.OpUpdate, dataset.OpRename, dataset.OpDropAlias, dataset.OpUndelete, dataset.OpDiscard,
		dataset.OpShow, dataset.OpHide:
		return true
	}
	return false
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
	switch req.Kind {
	case dataset.OpCreate, dataset.OpClone, dataset.OpImport:
		return s.volumes.PlanCreate(t, node, req)
	case dataset.OpSnapshot:
		return s.volumes.PlanSnapshot(t, req)
	case dataset.OpSnapshotDelete:
		return planning.PlanSnapshotDelete(t, req)
	case dataset.OpRestore:
		return s.volumes.PlanRestore(t, req)
	case dataset.OpResize:
		return s.volumes.PlanResize(t, req)
	case dataset.OpRekey:
		return s.volumes.PlanRekey(t, req)
	case dataset.OpBackup:
		return planning.PlanBackup(t, req)
	case dataset.OpPush:
		return planning.PlanPush(t, req)
	case dataset.OpVerify:
		op, err := s.volumes.PlanVerify(t, node, req)
		return op, nil, err
	case dataset.OpUpdate:
		return s.volumes.PlanUpdate(t, req)
	case dataset.OpRename:
		return planning.PlanRename(t, req)
	case dataset.OpDropAlias:
		return s.volumes.PlanDropAlias(t, req)
	case dataset.OpDelete:
		return s.deleter.PlanDelete(t, node, req)
	case dataset.OpUndelete:
		op, d, err := deletion.PlanUndelete(t, req)
		if err == nil {
			err = s.volumes.CheckUndelete(t, *op)
		}
		return op, d, err
	case dataset.OpPurge:
		return deletion.PlanPurge(t, req)
	case dataset.OpMove:
		return s.Relocator.Plan(t, req)
	case dataset.OpDiscard:
		return deletion.PlanDiscard(t, req)
	case dataset.OpShow, dataset.OpHide:
		return s.deleter.PlanShow(t, req)
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

// makesDataset reports whether an operation of this kind makes a dataset and claims a name.
func makesDataset(k dataset.OpKind) bool {
	return k == dataset.OpCreate || k == dataset.OpClone || k == dataset.OpImport
}
