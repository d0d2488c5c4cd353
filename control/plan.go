package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"strings"

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
	if err := cmp.Or(checkPath(req), checkRepository(req)); err != nil {
		return api.Plan{}, err
	}
	k, known := kinds[req.Kind]
	if !known {
		return api.Plan{}, dataset.Errorf(dataset.ErrInvalid, "unknown kind of operation %q",
			dataset.Clip(string(req.Kind)))
	}
	op, done, err := k.plan(s)(t, node, req)
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
	op.Kind = cmp.Or(op.Kind, req.Kind)
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

// preview decides on a request as Submit does, and discards the decision. The operation in the outcome is not recorded.
// The volume in the outcome is the present state of the dataset that the operation changes.
//
// The agent of the home refuses some requests while the dataset is in use. preview refuses such a request if the home
// last reported the dataset as in use.
func (s *Service) preview(ctx context.Context, req api.Request) (out api.Outcome, err error) {
	var done *dataset.Dataset
	err = s.Ledger.Preview(ctx, func(t *record.Tx) error {
		out, done, err = api.Outcome{}, nil, nil
		out.Operation, done, err = s.submit(t, req)
		return err
	})
	if err != nil {
		return api.Outcome{}, err
	}
	err = s.Ledger.View(ctx, func(t *record.Tx) error {
		d := dataset.Dataset{}
		switch {
		case done != nil:
			d = *done
		case kinds[out.Operation.Kind].makes, kinds[out.Operation.Kind].temporary:
			return nil
		default:
			there, err := t.Get(record.DatasetKey(out.Operation.DatasetID), &d)
			if err != nil || !there {
				return err
			}
		}
		v, err := s.Views.Present(t, d)
		if err != nil {
			return err
		}
		out.Volume = &v
		return checkReportedUnused(v, out.Operation, req.Force)
	})
	if err != nil {
		return api.Outcome{}, err
	}
	return out, nil
}

// checkReportedUnused fails with dataset.ErrInUse if an operation needs an unused dataset, and the home has reported a
// use of it. A move would first copy most of the data, and would be refused only after that. A move or deletion without
// the home (--force --fenced) does not ask the home. op may be nil.
func checkReportedUnused(v api.Volume, op *dataset.Operation, forced bool) error {
	if op == nil || v.Status == nil || len(v.Status.Mounts) == 0 {
		return nil
	}
	what := kinds[op.Kind].unused
	if what == "" || op.Kind == dataset.OpMove && forced || op.Kind != dataset.OpMove && op.OtherNode != uuid.Nil {
		return nil
	}
	return dataset.Errorf(dataset.ErrInUse,
		"cannot %s volume %s: it is mounted on node %s (stop its containers first; drover volume inspect %s lists the "+
			"mounts)", what, v.Volume, v.Node, v.Volume)
}

// maxPath is PATH_MAX of linux/limits.h.
const maxPath = 4096

// checkRepository fails with dataset.ErrInvalid if a request names a repository, a backup or a version, and a request
// of its kind uses none. It also fails if an import names only one of them, or reads a folder as well, or if a request
// names a check program that it cannot have.
func checkRepository(req api.Request) error {
	reads, writes := kinds[req.Kind].reads, kinds[req.Kind].writes
	if req.Repository != "" && !reads && !writes {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected repository: it applies only to backup, push, import and verify, not to %.40s (omit it)",
			req.Kind)
	}
	if req.Version != nil && (req.Kind != dataset.OpImport || req.Backup == "") {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected version: it applies only to the import of a backup, not to %.40s (omit it)", req.Kind)
	}
	if req.Backup != "" && !reads {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected backup: it applies only to import and verify, not to %.40s (omit it)", req.Kind)
	}
	if req.Check != "" {
		if req.Kind != dataset.OpVerify {
			return dataset.Errorf(dataset.ErrInvalid,
				"unexpected check program: it applies only to verify, not to %.40s (omit it)", req.Kind)
		}
		if err := dataset.CheckCheckProgram(req.Check); err != nil {
			return err
		}
	}
	switch {
	case !reads || req.Repository == "" && req.Backup == "":
		return nil
	case req.Repository == "" || req.Backup == "":
		return dataset.Errorf(dataset.ErrInvalid,
			"%s of volume %q from a backup: expected both repository and backup", req.Kind, dataset.Clip(req.Volume))
	case req.Path != "":
		return dataset.Errorf(dataset.ErrInvalid, "import of volume %q: path and backup exclude each other",
			dataset.Clip(req.Volume))
	}
	return dataset.CheckBackupID(req.Backup)
}

// checkPath fails with dataset.ErrInvalid if a request names a path that an agent cannot use: a relative path, which
// would depend on the working directory of the agent, a path that is not clean, or one that is too long. It also
// fails if a request of this kind cannot have a path, because it reads nothing from a host.
func checkPath(req api.Request) error {
	if req.Live && (req.Kind != dataset.OpImport || req.Path == "") {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected option live: it applies only to the import of a folder (omit it)")
	}
	if req.Path == "" {
		return nil
	}
	what := kinds[req.Kind].path
	switch {
	case what == "":
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected path: it applies only to import and rekey, not to %.40s (omit it)", req.Kind)
	case len(req.Path) > maxPath:
		return dataset.Errorf(dataset.ErrInvalid, "%s: a path of %d bytes is too long (%d at most)", what,
			len(req.Path), maxPath)
	case !filepath.IsAbs(req.Path):
		return dataset.Errorf(dataset.ErrInvalid,
			"%s %q: expected an absolute path on the volume's host", what, dataset.Clip(req.Path))
	case strings.ContainsRune(req.Path, 0):
		return dataset.Errorf(dataset.ErrInvalid, "%s %q: the path contains a zero byte", what, dataset.Clip(req.Path))
	case filepath.Clean(req.Path) != req.Path:
		return dataset.Errorf(dataset.ErrInvalid, "%s %q: the path is not clean (use %s)", what,
			dataset.Clip(req.Path), dataset.Clip(filepath.Clean(req.Path)))
	}
	return nil
}
