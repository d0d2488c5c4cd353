package server

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// absent implements the interfaces that a process does not have: Local without an agent, Backup without a store
// that can be copied, Members without a cluster. Each method returns ErrUnsupported and says where to ask.
type absent struct{}

var (
	_ api.Local   = absent{}
	_ api.Backup  = absent{}
	_ api.Members = absent{}
)

func (absent) err() error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"this is control, which has no part in any host (ask on the host in question, with no DROVER_API and no --api)")
}

func (a absent) Doctor(context.Context) ([]api.Finding, error) { return nil, a.err() }

func (a absent) Collect(context.Context, uuid.UUID) error { return a.err() }

func (a absent) RebuildStore(context.Context, bool) ([]api.Rebuilt, error) { return nil, a.err() }

func (a absent) Diff(context.Context, string, string) (api.Diff, error) { return api.Diff{}, a.err() }

func (a absent) CreatePool(context.Context, api.NewPool) (dataset.Pool, error) {
	return dataset.Pool{}, a.err()
}

func (a absent) AdoptPool(context.Context, string) (dataset.Pool, []api.Rebuilt, error) {
	return dataset.Pool{}, nil, a.err()
}

func (a absent) AcceptPool(context.Context, api.AcceptPool) (dataset.Pool, error) {
	return dataset.Pool{}, a.err()
}

func (a absent) RemovePool(context.Context, string, bool) (api.RemovedPool, error) {
	return api.RemovedPool{}, a.err()
}

func (a absent) Export(context.Context, string, string, io.Writer) (api.LeftOut, error) {
	return api.LeftOut{}, a.err()
}

func (a absent) Import(context.Context, api.Request, io.Reader) (dataset.Dataset, error) {
	return dataset.Dataset{}, a.err()
}

func (absent) Backup(context.Context, io.Writer) error {
	return dataset.Errorf(dataset.ErrUnsupported, "this drover's store cannot be copied from here")
}

func (absent) alone() error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"this drover is one host by itself, or only a part of a cluster: ask one of the cluster's control "+
			"replicas (as root of a control host with "+api.OnControl+")")
}

func (a absent) MakeToken(context.Context, api.NewToken) (api.JoinToken, error) {
	return api.JoinToken{}, a.alone()
}

func (a absent) Join(context.Context, api.Join) (api.Joined, error) { return api.Joined{}, a.alone() }

func (a absent) Trust(context.Context) (api.Trust, error) { return api.Trust{}, a.alone() }

func (a absent) Recover(context.Context, api.Recover) (api.Recovery, error) {
	return api.Recovery{}, a.alone()
}

func (a absent) RevokeOperator(context.Context, string) error { return a.alone() }

func (a absent) Certify(context.Context, uuid.UUID, api.Certification) (pki.Signed, error) {
	return pki.Signed{}, a.alone()
}

func (a absent) RemoveNode(context.Context, string, bool) (api.Removed, error) {
	return api.Removed{}, a.alone()
}
