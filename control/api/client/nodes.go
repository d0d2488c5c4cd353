package client

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Nodes implements api.Nodes: the requests of an agent for its node.
type Nodes struct{ conn *connection }

// Register presents a node and its pools.
func (n Nodes) Register(ctx context.Context, r api.Registration) error {
	return tell(ctx, n.conn, endpoint.RegisterNode, about(r.Node.ID, r))
}

// Renew reports that the node's agent is alive.
func (n Nodes) Renew(ctx context.Context, id, incarnation uuid.UUID) (api.SessionState, error) {
	return ask(ctx, n.conn, endpoint.Renew, about(id, api.Renewal{Incarnation: incarnation}))
}

// Generations reports the generations of the node's pools.
func (n Nodes) Generations(ctx context.Context, id uuid.UUID, g api.Generations) (api.Generations, error) {
	return ask(ctx, n.conn, endpoint.Generations, about(id, g))
}

// Plan asks control to decide on a request.
func (n Nodes) Plan(ctx context.Context, id uuid.UUID, req api.Request) (api.Plan, error) {
	return ask(ctx, n.conn, endpoint.Plan, about(id, req))
}

// Commit records the result of an operation.
func (n Nodes) Commit(ctx context.Context, id uuid.UUID, r api.Report) (api.Committed, error) {
	k, again := newCall(endpoint.Commit.Endpoint, about(id, r)), false
	k.repeat = func() any {
		again, r.Retry = true, true
		return r
	}
	out, err := fetch[api.Committed](ctx, n.conn, k)
	if err != nil && again && !errors.Is(err, dataset.ErrCancelled) {
		// The first attempt may have succeeded, and the second one may have been refused for that reason.
		err = dataset.Errorf(dataset.ErrUnavailable, "%w", err)
	}
	return out, err
}

// Record records an operation as running.
func (n Nodes) Record(ctx context.Context, id uuid.UUID, r api.Report) error {
	return tell(ctx, n.conn, endpoint.Record, about(id, r))
}

// Sync waits for changes as described in api.Nodes, for at most ten minutes.
func (n Nodes) Sync(ctx context.Context, id uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	k := newCall(endpoint.Sync.Endpoint, endpoint.SyncParams{
		NodeParam: endpoint.NodeParam{Node: id}, Rev: rev, Wait: wire.FormatWait(wait),
	})
	k.patience = min(max(wait, 0), wire.MaxWait)
	if rev == 0 {
		k.patience += 5 * time.Minute // the server reads everything about the node before it answers
	}
	return fetch[api.Sync](ctx, n.conn, k)
}

// Heartbeat reports the present state of the node's pools, datasets, copies and operations.
func (n Nodes) Heartbeat(ctx context.Context, id uuid.UUID, h api.Heartbeat) error {
	return tell(ctx, n.conn, endpoint.Heartbeat, about(id, h))
}

// Recall asks control to recall the lease from the home of a move.
func (n Nodes) Recall(ctx context.Context, id uuid.UUID, r api.Report) (dataset.Operation, error) {
	return ask(ctx, n.conn, endpoint.Recall, about(id, r))
}

// Yield answers a recall, for the home.
func (n Nodes) Yield(ctx context.Context, id uuid.UUID, y api.Yield) error {
	return tell(ctx, n.conn, endpoint.Yield, about(id, y))
}

// ReportCopy reports the state of the node's copy of a dataset.
func (n Nodes) ReportCopy(ctx context.Context, id uuid.UUID, k api.CopyReport) error {
	return tell(ctx, n.conn, endpoint.ReportCopy, about(id, k))
}

// ReportSharedMount reports that the node begins or ends its use of a shared dataset.
func (n Nodes) ReportSharedMount(ctx context.Context, id uuid.UUID,
	g api.SharedMountReport) (api.IndexedDataset, error) {
	return ask(ctx, n.conn, endpoint.SharedMount, about(id, g))
}

// Facts reports the facts of the host.
func (n Nodes) Facts(ctx context.Context, id uuid.UUID, r api.FactsReport) (dataset.Facts, error) {
	return ask(ctx, n.conn, endpoint.Facts, about(id, r))
}

// ReportHoldings reports what the node holds, for a recovery.
func (n Nodes) ReportHoldings(ctx context.Context, id uuid.UUID, h api.Holdings) error {
	return tell(ctx, n.conn, endpoint.ReportHoldings, about(id, h))
}

// Rebuild restores the datasets that were found in the node's pools.
func (n Nodes) Rebuild(ctx context.Context, id uuid.UUID, found []api.FoundDataset, dryRun bool) (
	[]api.Rebuilt, error) {
	if found == nil {
		found = []api.FoundDataset{}
	}
	k := newCall(endpoint.Rebuild.Endpoint, endpoint.RebuildReport{
		NodeParam: endpoint.NodeParam{Node: id}, DryRunParam: endpoint.DryRunParam{DryRun: dryRun}, Body: found,
	})
	k.patience = wire.MaxWait // the server does all the work before it answers
	l, err := fetch[api.List[api.Rebuilt]](ctx, n.conn, k)
	return l.Items, err
}

// about returns a request about a node: of its agent, or of an operator.
func about[T any](id uuid.UUID, body T) endpoint.Report[T] {
	return endpoint.Report[T]{NodeParam: endpoint.NodeParam{Node: id}, Body: body}
}

// Members implements api.Members: the requests about who belongs to the cluster.
type Members struct{ conn *connection }

// MakeToken creates a join token.
func (m Members) MakeToken(ctx context.Context, t api.NewToken) (api.JoinToken, error) {
	return ask(ctx, m.conn, endpoint.MakeToken, endpoint.With[api.NewToken]{Body: t})
}

// Join makes this host a member of the cluster.
func (m Members) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	return ask(ctx, m.conn, endpoint.Join, endpoint.With[api.Join]{Body: j})
}

// Certify returns a new certificate for the node.
func (m Members) Certify(ctx context.Context, id uuid.UUID, r api.Certification) (pki.Signed, error) {
	return ask(ctx, m.conn, endpoint.Certify, about(id, r))
}

// Trust returns the roots and the revoked certificates of the cluster.
func (m Members) Trust(ctx context.Context) (api.Trust, error) {
	return ask(ctx, m.conn, endpoint.GetTrust, endpoint.None{})
}

// RemoveNode removes a node from the cluster. It fails with dataset.ErrUnavailable if the answer was lost, and the
// repetition of the request does not find the node.
func (m Members) RemoveNode(ctx context.Context, ref string, how api.NodeRemoval) (api.RemovedNode, error) {
	in, again := endpoint.RemovedNode{Node: ref, Force: how.Force}, false
	if how.DryRun {
		return ask(ctx, m.conn, endpoint.PreviewRemoveNode, in)
	}
	out, err := fetch[api.RemovedNode](ctx, m.conn, newCall(endpoint.RemoveNode.Endpoint, in).noteRepeat(&again))
	return out, errorOfRepeat(err, again)
}

// RevokeOperator revokes the certificates of an operator.
func (m Members) RevokeOperator(ctx context.Context, name string) error {
	return tell(ctx, m.conn, endpoint.RevokeOperator, endpoint.OperatorParam{Operator: name})
}

// Recover updates a store that was restored from an older backup.
func (m Members) Recover(ctx context.Context, r api.Recover) (api.Recovery, error) {
	k := newCall(endpoint.RecoverStore.Endpoint, endpoint.With[api.Recover]{Body: r})
	k.patience = wire.MaxWait
	return fetch[api.Recovery](ctx, m.conn, k)
}

// Host implements api.Local, the requests that the agent of the server's host answers, and api.Backup, the backup of
// the store on that host.
type Host struct{ conn *connection }

// Doctor returns what works on the server's host and what does not.
func (h Host) Doctor(ctx context.Context) ([]api.Finding, error) {
	return items(ctx, h.conn, endpoint.Doctor, anyPage)
}

// VolumeIO returns how much the mounted volumes of the server's host were read and written.
func (h Host) VolumeIO(ctx context.Context) ([]api.VolumeIO, error) {
	return items(ctx, h.conn, endpoint.ListVolumeIO, anyPage)
}

// VolumeHolders returns who uses a volume of the server's host.
func (h Host) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	return ask(ctx, h.conn, endpoint.ListHolders, endpoint.VolumeParam{Volume: volume})
}

// Collect destroys one dataset that the store does not know. Only a dry run returns a description of the dataset.
// Otherwise the result contains only its UUID.
func (h Host) Collect(ctx context.Context, id uuid.UUID, dryRun bool) (api.Collected, error) {
	in := endpoint.CollectedParam{Dataset: id}
	if dryRun {
		return ask(ctx, h.conn, endpoint.PreviewCollect, in)
	}
	return api.Collected{Dataset: id}, tell(ctx, h.conn, endpoint.Collect, in)
}

// CreatePool creates a pool on the server's host.
func (h Host) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	return ask(ctx, h.conn, endpoint.CreatePool, endpoint.With[api.NewPool]{Body: p})
}

// AdoptPool takes over an existing pool on the server's host.
func (h Host) AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	in := endpoint.With[api.AdoptPool]{Body: api.AdoptPool{Path: path, DryRun: dryRun}}
	a, err := ask(ctx, h.conn, endpoint.AdoptPool, in)
	return a.Pool, a.Rebuilt, err
}

// AcceptPool lets a quarantined pool of the server's host serve in its present state.
func (h Host) AcceptPool(ctx context.Context, name string, a api.AcceptPool) (dataset.Pool, error) {
	in := endpoint.PoolChange[api.AcceptPool]{PoolParam: endpoint.PoolParam{Pool: name}, Body: a}
	return ask(ctx, h.conn, endpoint.AcceptPool, in)
}

// SetPool changes the policy of a pool of the server's host.
func (h Host) SetPool(ctx context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	in := endpoint.PoolChange[api.PoolPolicy]{PoolParam: endpoint.PoolParam{Pool: name}, Body: p}
	return ask(ctx, h.conn, endpoint.SetPool, in)
}

// RemovePool removes an empty pool of the server's host. With Forget it only deletes the record.
func (h Host) RemovePool(ctx context.Context, name string, how api.PoolRemoval) (api.RemovedPool, error) {
	in := endpoint.RemovedPool{PoolParam: endpoint.PoolParam{Pool: name}, Forget: how.Forget}
	if how.DryRun {
		return ask(ctx, h.conn, endpoint.PreviewRemovePool, in)
	}
	return ask(ctx, h.conn, endpoint.RemovePool, in)
}

// RebuildStore restores the records of the datasets in the pools of the server's host.
func (h Host) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	l, err := ask(ctx, h.conn, endpoint.RebuildStore, endpoint.RebuildParams{
		SkipOffline: r.SkipOffline, DryRunParam: endpoint.DryRunParam{DryRun: r.DryRun},
	})
	return l.Items, err
}

// SnapshotSpace returns how much space the deletion of a snapshot frees.
func (h Host) SnapshotSpace(ctx context.Context, snapshot string) (api.SnapshotSpace, error) {
	return ask(ctx, h.conn, endpoint.MeasureSnapshot, endpoint.SnapshotParam{Snapshot: snapshot})
}

// Diff compares two snapshots of a dataset, or a snapshot with the present data if newer is empty.
func (h Host) Diff(ctx context.Context, older, newer string) (api.Diff, error) {
	in := endpoint.DiffParams{SnapshotParam: endpoint.SnapshotParam{Snapshot: older}, Newer: newer}
	return ask(ctx, h.conn, endpoint.DiffSnapshot, in)
}

// CheckRepository opens a repository for backups from the server's host, and checks a recorded one.
func (h Host) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return ask(ctx, h.conn, endpoint.CheckRepository, endpoint.With[api.RepositoryCheck]{Body: c})
}

// VolumeBackups lists the backups in a repository, as the server's host sees them.
func (h Host) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	return ask(ctx, h.conn, endpoint.ListBackups, endpoint.BackupsOfVolume{
		RepositoryParam: endpoint.RepositoryParam{Repository: repository}, Volume: volume,
	})
}

// Versions lists the versions of volumes in a repository, as the server's host sees them.
func (h Host) Versions(ctx context.Context, repository, name string) (api.VersionList, error) {
	return ask(ctx, h.conn, endpoint.ListVersions, endpoint.VersionsOfName{
		RepositoryParam: endpoint.RepositoryParam{Repository: repository}, Name: name,
	})
}

// VolumeBackup returns a backup in a repository, with the record of its volume.
func (h Host) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	return ask(ctx, h.conn, endpoint.GetBackup, backupIn(repository, id))
}

// RemoveBackup removes a backup from a repository.
func (h Host) RemoveBackup(ctx context.Context, repository, id string) error {
	return tell(ctx, h.conn, endpoint.RemoveBackup, backupIn(repository, id))
}

// PruneRepository removes the data that no backup in a repository needs.
func (h Host) PruneRepository(ctx context.Context, repository string) error {
	return tell(ctx, h.conn, endpoint.PruneRepository, endpoint.RepositoryParam{Repository: repository})
}

func backupIn(repository, id string) endpoint.BackupParam {
	return endpoint.BackupParam{RepositoryParam: endpoint.RepositoryParam{Repository: repository}, Backup: id}
}
