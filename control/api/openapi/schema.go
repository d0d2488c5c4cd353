package openapi

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Schemas of types that have no schema themselves: package dataset knows nothing about schemas.
type (
	uuidSchema         struct{}
	stateSchema        struct{}
	snapshotKindSchema struct{}
	leaseStateSchema   struct{}
	copyKindSchema     struct{}
	reachSchema        struct{}
	opKindSchema       struct{}
	opStateSchema      struct{}
	quiesceSchema      struct{}
	deleteModeSchema   struct{}
	accessSchema       struct{}
	fenceKindSchema    struct{}
	followModeSchema   struct{}
	limitsSchema       struct{}
	durationSchema     struct{}
	sizeSchema         struct{}
)

// Descriptions of types whose unit is the same in every field.
const (
	durationUnit = "hours, minutes and seconds"
	sizeUnit     = "bytes"
)

func (uuidSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "uuid"}
}

func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: durationUnit, Examples: []any{"72h0m0s"}}
}

func (sizeSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Format: "int64", Description: sizeUnit}
}

func (stateSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.StateReady, dataset.StateTrashed, dataset.StatePurging)
}

func (snapshotKindSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.SnapshotManual, dataset.SnapshotScheduled, dataset.SnapshotImplicit, dataset.SnapshotRestore,
		dataset.SnapshotTransfer, dataset.SnapshotSuperseded)
}

func (leaseStateSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.LeaseHeld, dataset.LeaseRecalled, dataset.LeaseMoving)
}

func (copyKindSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.CopyReplica, dataset.CopyLeft, dataset.CopySuperseded, dataset.CopyCondemned)
}

func (reachSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.ReachNode, dataset.ReachCluster)
}

func (opKindSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpSnapshotDelete,
		dataset.OpRestore, dataset.OpResize, dataset.OpRekey, dataset.OpRewrite, dataset.OpUpdate, dataset.OpDelete,
		dataset.OpUndelete, dataset.OpPurge, dataset.OpMove, dataset.OpDiscard,
		dataset.OpShow, dataset.OpHide)
}

func (opStateSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.OpPending, dataset.OpRunning, dataset.OpDone, dataset.OpFailed, dataset.OpCancelled)
}

func (quiesceSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.QuiesceNone, dataset.QuiesceFreeze)
}

func (deleteModeSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.DeleteTrash, dataset.DeletePurge, dataset.DeleteKeep)
}

func (accessSchema) Schema(huma.Registry) *huma.Schema { return words(dataset.AccessMany) }

func (fenceKindSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.FenceGuard, dataset.FenceWatchdog, dataset.FenceExec)
}

func (followModeSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.FollowAlways, dataset.FollowNever, dataset.FollowWithin)
}

func (limitsSchema) Schema(huma.Registry) *huma.Schema {
	return words(dataset.LimitsContainer, dataset.LimitsStrict)
}

// words returns the schema of a string with a fixed set of values.
func words[T ~string](values ...T) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	for _, v := range values {
		s.Enum = append(s.Enum, string(v))
	}
	return s
}

// registry returns an empty registry that knows the schemas above.
func registry() huma.Registry {
	r := huma.NewMapRegistry("#/components/schemas/", schemaName)
	alias[uuid.UUID, uuidSchema](r)
	alias[dataset.State, stateSchema](r)
	alias[dataset.SnapshotKind, snapshotKindSchema](r)
	alias[dataset.LeaseState, leaseStateSchema](r)
	alias[dataset.CopyKind, copyKindSchema](r)
	alias[dataset.Reach, reachSchema](r)
	alias[dataset.OpKind, opKindSchema](r)
	alias[dataset.OpState, opStateSchema](r)
	alias[dataset.Quiesce, quiesceSchema](r)
	alias[dataset.DeleteMode, deleteModeSchema](r)
	alias[dataset.Access, accessSchema](r)
	alias[dataset.FenceKind, fenceKindSchema](r)
	alias[dataset.FollowMode, followModeSchema](r)
	alias[dataset.LimitEnforcement, limitsSchema](r)
	alias[dataset.Duration, durationSchema](r)
	alias[dataset.Size, sizeSchema](r)
	alias[huma.ErrorModel, wire.Problem](r)
	r.Schema(reflect.TypeFor[wire.Problem](), true, "") // the shared responses refer to it
	code := r.Map()["Problem"].Properties["code"]
	for _, k := range dataset.Kinds() {
		code.Enum = append(code.Enum, k.Code)
	}
	return r
}

func alias[T, As any](r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[T](), reflect.TypeFor[As]())
}

// schemaName returns the name of a type's schema. If a record and a type for users have the same Go name, their
// schemas get different names. All other names are unique.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[dataset.Node](), reflect.TypeFor[dataset.Pool](), reflect.TypeFor[dataset.Problem]():
		return t.Name() + "Record"
	}
	return huma.DefaultSchemaNamer(t, hint)
}
