package control

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/dataset"
)

// kind is what control does for one kind of operation, and what it permits. A new kind is a constant of
// dataset.OpKind, a row here, and, if an agent carries it out, a handler in Operations.Connect
// (agent/operation/operations.go). Look also at controlsync.StatusReader.OperationEnded and withHolders of the command
// line. Tests require a row in submissions (powers_test.go); also add the kind to PlanEachKind of package controltest
// and to TestSubmitKeepsEveryRequest. Its text is in control/api/openapi/enums.json, which go generate writes. Without
// an endpoint of its own, clients reach it through endpoint.SubmitOperation.
type kind struct {
	// plan returns the operation for a request. If the dataset already is as requested, it returns the dataset instead.
	plan func(*Service) planner
	// begin changes the records when an operation is recorded. nil: it changes nothing.
	begin func(*Service, *record.Tx, *dataset.Operation) error
	// settle carries out an operation that changes only records. nil: an agent carries it out.
	settle func(*Service) settler
	// check returns what is wrong with an agent's report, or "". nil: such a report needs nothing but its dataset.
	check func(node uuid.UUID, op dataset.Operation) string
	// commit writes the changes of an operation that an agent has carried out. nil: agents carry out no such operation.
	commit func(*Service) committer
	// hasEffect reports whether the records show the effect of an operation on a recorded dataset. nil: they show it
	// only by the ID of the request in the record.
	hasEffect func(*record.Tx, dataset.Dataset, dataset.Operation) (bool, error)
	// end changes the records when an operation has ended or failed. nil: it changes nothing.
	end settler

	records   bool   // changes only records, except for an update in which the home takes part (needsHome)
	submitted bool   // recorded before it begins, so an agent does not plan it
	planned   bool   // an agent carries it out only if control has recorded it
	makes     bool   // makes a dataset and claims a name
	temporary bool   // makes a dataset that is never recorded
	bare      bool   // the response has no dataset
	cancels   bool   // makes something new, so it can be cancelled
	path      string // what the path in a request names; "": a request has no path
	reads     bool   // can read a backup
	writes    bool   // writes to a repository
	unused    string // the verb for a dataset that must not be in use; "": it may be in use
}

type (
	planner   = func(*record.Tx, uuid.UUID, api.Request) (*dataset.Operation, *dataset.Dataset, error)
	committer = func(*record.Tx, dataset.Operation, *api.Committed) error
	settler   = func(*record.Tx, dataset.Operation) error
)

// anywhere returns a planner for a decision that does not depend on the node that asks.
func anywhere(f func(*record.Tx, api.Request) (*dataset.Operation, *dataset.Dataset, error)) func(*Service) planner {
	return func(*Service) planner {
		return func(t *record.Tx, _ uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
			return f(t, req)
		}
	}
}

// volumePlan is anywhere for a decision that also reads the profiles or the last reports.
func volumePlan(f func(*Service, *record.Tx, api.Request) (*dataset.Operation, *dataset.Dataset, error)) func(
	*Service) planner {
	return func(s *Service) planner {
		return func(t *record.Tx, _ uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
			return f(s, t, req)
		}
	}
}

func always[F any](f F) func(*Service) F { return func(*Service) F { return f } }

// withoutAnswer returns a committer that adds nothing to the response.
func withoutAnswer(f settler) func(*Service) committer {
	return always(func(t *record.Tx, op dataset.Operation, _ *api.Committed) error { return f(t, op) })
}

// newVolume is the row of a create. A clone and an import are creates with a source.
var newVolume = kind{
	plan: func(s *Service) planner { return s.planCreate }, check: checkNewVolume,
	commit: func(s *Service) committer { return s.commitCreate }, makes: true, cancels: true,
}

var newSnapshot = kind{
	plan: volumePlan((*Service).planSnapshot), check: checkSnapshot,
	commit: always(commitSnapshot), hasEffect: hasSnapshot, cancels: true,
}

var snapshotRemoval = kind{
	plan: anywhere(planSnapshotDelete), check: checkSnapshot,
	commit: always(commitSnapshotDelete), hasEffect: lacksSnapshot,
}

// backup is the row of a backup. A push is a backup with an entry in the history of a name.
var backup = kind{
	plan: anywhere(planBackup), begin: beginBackup, commit: withoutAnswer(commitBackup),
	end: tolerateDamage(endBackup), submitted: true, planned: true, bare: true, cancels: true, writes: true,
}

// shown is the row of the operations on a superseded copy. They only record what its node must do.
var shown = kind{
	plan:   func(s *Service) planner { return anywhere(s.deleter.PlanShow)(s) },
	settle: always(deletion.SettleShow), records: true, submitted: true,
}

// kinds has a row for each kind of operation.
var kinds = allKinds()

func allKinds() map[dataset.OpKind]kind {
	imported, push, discarded := newVolume, backup, shown
	imported.path, imported.reads = "folder to import", true
	push.plan, push.begin, push.end = anywhere(planPush), nil, nil
	push.commit = withoutAnswer(commitPush)
	discarded.plan, discarded.settle = anywhere(deletion.PlanDiscard), always(deletion.SettleDiscard)
	return map[dataset.OpKind]kind{
		dataset.OpCreate:         newVolume,
		dataset.OpClone:          newVolume,
		dataset.OpImport:         imported,
		dataset.OpSnapshot:       newSnapshot,
		dataset.OpSnapshotDelete: snapshotRemoval,
		dataset.OpRestore: {
			plan: volumePlan((*Service).planRestore), begin: beginRestore, check: checkRestore,
			commit: always(commitRestore), hasEffect: hasSnapshot, unused: "restore",
		},
		dataset.OpResize: {
			plan: volumePlan((*Service).planResize), check: checkSize,
			commit: func(s *Service) committer { return s.commitResize },
		},
		dataset.OpRekey: {
			plan: volumePlan((*Service).planRekey), check: checkDataKey,
			commit: always(commitRekey), path: "old key file",
		},
		dataset.OpBackup: backup,
		dataset.OpPush:   push,
		dataset.OpVerify: {
			plan: func(s *Service) planner { return s.planVerify }, begin: beginVerification,
			commit: withoutAnswer(func(*record.Tx, dataset.Operation) error { return nil }), // see noteResult
			end:    tolerateDamage(record.EndVerification), submitted: true, planned: true, temporary: true, bare: true,
			cancels: true, reads: true,
		},
		dataset.OpUpdate: {
			plan: volumePlan((*Service).planUpdate), check: checkUpdate,
			settle:  func(s *Service) settler { return s.settleUpdate },
			commit:  func(s *Service) committer { return s.commitUpdate },
			records: true, submitted: true, planned: true,
		},
		dataset.OpRename: {
			plan: anywhere(planRename), settle: always(settleNames), records: true, submitted: true,
		},
		dataset.OpDropAlias: {
			plan:   volumePlan((*Service).planDropAlias),
			settle: always(settleNames), records: true, submitted: true,
		},
		dataset.OpDelete: {
			plan:   func(s *Service) planner { return s.deleter.PlanDelete },
			settle: func(s *Service) settler { return s.deleter.SettleDelete },
			commit: func(s *Service) committer { return s.deleter.CommitDelete }, hasEffect: isDeleted,
			unused: "remove",
		},
		dataset.OpUndelete: {
			plan:   func(s *Service) planner { return anywhere(s.planUndelete)(s) },
			settle: always(deletion.SettleUndelete), records: true, submitted: true,
		},
		dataset.OpPurge: {
			plan: anywhere(deletion.PlanPurge), begin: beginPurge, commit: withoutAnswer(deletion.CommitPurge),
			bare: true,
		},
		dataset.OpMove: {
			plan:  func(s *Service) planner { return anywhere(s.Relocator.Plan)(s) },
			begin: beginMove, commit: func(s *Service) committer { return s.Relocator.Commit }, end: endMove,
			submitted: true, cancels: true, unused: "move",
		},
		dataset.OpDiscard: discarded,
		dataset.OpShow:    shown,
		dataset.OpHide:    shown,
	}
}

func (s *Service) planUndelete(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	op, d, err := deletion.PlanUndelete(t, req)
	if err == nil {
		err = s.checkUndelete(t, *op)
	}
	return op, d, err
}

func beginBackup(_ *Service, t *record.Tx, op *dataset.Operation) error {
	if !op.Scheduled {
		return nil
	}
	return record.BeginBackup(t, *op)
}

func beginVerification(_ *Service, t *record.Tx, op *dataset.Operation) error {
	if !op.Scheduled {
		return nil
	}
	return record.BeginVerification(t, *op)
}

func beginPurge(s *Service, t *record.Tx, op *dataset.Operation) error {
	d, err := record.CurrentDataset(t, *op)
	if err != nil {
		return err
	}
	return deletion.Condemn(t, &d, s.Clock.Now(), api.EventVolumePurge)
}

func beginMove(s *Service, t *record.Tx, op *dataset.Operation) error {
	if err := s.Relocator.Begin(t, op); err != nil {
		return err
	}
	return relocation.AnnounceLoss(t, *op)
}

// endMove gives the lease back to the home if the move did not succeed.
func endMove(t *record.Tx, op dataset.Operation) error {
	if op.State == dataset.OpDone {
		return nil
	}
	return releaseLease(t, op)
}

// endBackup records what the end of a backup means for the schedule of the dataset.
func endBackup(t *record.Tx, op dataset.Operation) error {
	if op.Scheduled {
		return record.EndBackup(t, op)
	}
	return record.EndManualBackup(t, op)
}

// tolerateDamage returns a function that succeeds if f finds a damaged record, of a schedule or of a dataset. The
// operation ends nevertheless, because its agent would report it again for ever. An event then names the damaged
// record, and the background work reports it until it is repaired.
func tolerateDamage(f settler) settler {
	return func(t *record.Tx, op dataset.Operation) error {
		err := f(t, op)
		if dataset.KindOf(err) != dataset.ErrCorrupt {
			return err
		}
		t.Notice.Events = append(t.Notice.Events, api.Event{
			Type:    api.EventOperationFail,
			Volume:  op.Volume,
			Dataset: op.DatasetID,
			Detail:  op.Action() + ": it has ended, but its result is not recorded: " + dataset.OneLine(err),
		})
		return nil
	}
}

func isDeleted(_ *record.Tx, d dataset.Dataset, _ dataset.Operation) (bool, error) {
	return d.State != dataset.StateReady, nil
}

func hasSnapshot(t *record.Tx, d dataset.Dataset, op dataset.Operation) (bool, error) {
	if op.Snapshot == nil { // only a report of a failure has no snapshot
		return false, nil
	}
	return t.Get(record.SnapshotKey(d.ID, op.Snapshot.ID), &dataset.Snapshot{})
}

func lacksSnapshot(t *record.Tx, d dataset.Dataset, op dataset.Operation) (bool, error) {
	there, err := hasSnapshot(t, d, op)
	return op.Snapshot != nil && !there, err
}
