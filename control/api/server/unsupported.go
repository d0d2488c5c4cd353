package server

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// unsupported implements the interfaces that a process does not have: Local without an agent, Backup without a store
// that can be copied, Members without a cluster. Each method returns ErrUnsupported and says where to ask.
type unsupported struct{}

var (
	_ api.Local   = unsupported{}
	_ api.Backup  = unsupported{}
	_ api.Members = unsupported{}
)

func (unsupported) hostOnly() error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"this is control: run the command on a node, or send the request there (without DROVER_API and --api)")
}

func (a unsupported) Doctor(context.Context) ([]api.Finding, error) { return nil, a.hostOnly() }

func (a unsupported) Collect(context.Context, uuid.UUID, bool) (api.Collected, error) {
	return api.Collected{}, a.hostOnly()
}

func (a unsupported) RebuildStore(context.Context, api.RebuildStore) ([]api.Rebuilt, error) {
	return nil, a.hostOnly()
}

func (a unsupported) SnapshotSpace(context.Context, string) (api.SnapshotSpace, error) {
	return api.SnapshotSpace{}, a.hostOnly()
}

func (a unsupported) VolumeIO(context.Context) ([]api.VolumeIO, error) { return nil, a.hostOnly() }

func (a unsupported) VolumeHolders(context.Context, string) (dataset.Holders, error) {
	return dataset.Holders{}, a.hostOnly()
}

func (a unsupported) Diff(context.Context, string, string) (api.Diff, error) {
	return api.Diff{}, a.hostOnly()
}

func (a unsupported) CheckRepository(context.Context, api.RepositoryCheck) (api.RepositoryState, error) {
	return api.RepositoryState{}, a.hostOnly()
}

func (a unsupported) VolumeBackups(context.Context, string, string) (api.BackupList, error) {
	return api.BackupList{}, a.hostOnly()
}

func (a unsupported) Versions(context.Context, string, string) (api.VersionList, error) {
	return api.VersionList{}, a.hostOnly()
}

func (a unsupported) VolumeBackup(context.Context, string, string) (api.VolumeBackup, error) {
	return api.VolumeBackup{}, a.hostOnly()
}

func (a unsupported) RemoveBackup(context.Context, string, string) error { return a.hostOnly() }

func (a unsupported) PruneRepository(context.Context, string) error { return a.hostOnly() }

func (a unsupported) CreatePool(context.Context, api.NewPool) (dataset.Pool, error) {
	return dataset.Pool{}, a.hostOnly()
}

func (a unsupported) AdoptPool(context.Context, string, bool) (dataset.Pool, []api.Rebuilt, error) {
	return dataset.Pool{}, nil, a.hostOnly()
}

func (a unsupported) AcceptPool(context.Context, string, api.AcceptPool) (dataset.Pool, error) {
	return dataset.Pool{}, a.hostOnly()
}

func (a unsupported) SetPool(context.Context, string, api.PoolPolicy) (dataset.Pool, error) {
	return dataset.Pool{}, a.hostOnly()
}

func (a unsupported) RemovePool(context.Context, string, api.PoolRemoval) (api.RemovedPool, error) {
	return api.RemovedPool{}, a.hostOnly()
}

func (a unsupported) Export(context.Context, string, string, io.Writer) (api.OmittedFiles, error) {
	return api.OmittedFiles{}, a.hostOnly()
}

func (a unsupported) Import(context.Context, api.Request, io.Reader) (dataset.Dataset, error) {
	return dataset.Dataset{}, a.hostOnly()
}

func (unsupported) Backup(context.Context, io.Writer) error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"backup of the store: the records of a cluster are in Consul (use consul snapshot save FILE)")
}

func (unsupported) clusterOnly() error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"this request needs a control replica of a cluster, and this server is none (ask one as root of a control "+
			"host with "+api.OnControl+")")
}

func (a unsupported) MakeToken(context.Context, api.NewToken) (api.JoinToken, error) {
	return api.JoinToken{}, a.clusterOnly()
}

func (a unsupported) Join(context.Context, api.Join) (api.Joined, error) {
	return api.Joined{}, a.clusterOnly()
}

func (a unsupported) Trust(context.Context) (api.Trust, error) { return api.Trust{}, a.clusterOnly() }

func (a unsupported) Recover(context.Context, api.Recover) (api.Recovery, error) {
	return api.Recovery{}, a.clusterOnly()
}

func (a unsupported) RevokeOperator(context.Context, string) error { return a.clusterOnly() }

func (a unsupported) Certify(context.Context, uuid.UUID, api.Certification) (pki.Signed, error) {
	return pki.Signed{}, a.clusterOnly()
}

func (a unsupported) RemoveNode(context.Context, string, api.NodeRemoval) (api.RemovedNode, error) {
	return api.RemovedNode{}, a.clusterOnly()
}
