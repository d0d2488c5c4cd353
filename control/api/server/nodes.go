package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

func (h handlers) nodes() {
	bind(h, endpoint.ListPools, func(ctx context.Context, in *api.Page) (api.List[api.Pool], error) {
		list, err := h.Service.Pools(ctx)
		return cutPage(*in, list, err, func(_ int, p api.Pool) string {
			return p.Node.String() + "/" + p.Name + "/" + p.ID.String()
		})
	})
	bind(h, endpoint.ListNodes, func(ctx context.Context, in *endpoint.NodePage) (api.List[api.Node], error) {
		list, err := h.Service.NodeList(ctx, in.Filter)
		return cutPage(in.Page, list, err, func(_ int, n api.Node) string { return n.ID.String() })
	})
	bind(h, endpoint.CordonNode, func(ctx context.Context, in *endpoint.Report[api.Cordoned]) (dataset.Node, error) {
		return h.Service.Cordon(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.LabelNode,
		func(ctx context.Context, in *endpoint.Report[dataset.LabelChange]) (dataset.Node, error) {
			return h.Service.LabelNode(ctx, in.Node, in.Body)
		})
	bind(h, endpoint.FenceNode, func(ctx context.Context, in *endpoint.Report[api.Fenced]) (dataset.Node, error) {
		return h.Service.Fence(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.GetFailover, func(ctx context.Context, _ *endpoint.None) (api.FailoverState, error) {
		return h.Service.Failover(ctx)
	})
	bind(h, endpoint.GetHealth, func(ctx context.Context, _ *endpoint.None) (api.ClusterHealth, error) {
		return h.Service.ClusterHealth(ctx)
	})
}

// agents serves the endpoints that agents call, each for its own node.
func (h handlers) agents() {
	h.sessions()
	h.outcomes()
	h.moves()
	bindNone(h, endpoint.Heartbeat, func(ctx context.Context, in *endpoint.Report[api.Heartbeat]) error {
		return h.Service.Heartbeat(ctx, in.Node, in.Body)
	}, maxBody(maxHeartbeatBytes), before(limitConcurrency("heartbeats", maxHeartbeats, 0)))
	bind(h, endpoint.Facts, func(ctx context.Context, in *endpoint.Report[api.FactsReport]) (dataset.Facts, error) {
		return h.Service.Facts(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.Generations,
		func(ctx context.Context, in *endpoint.Report[api.Generations]) (api.Generations, error) {
			return h.Service.Generations(ctx, in.Node, in.Body)
		})
	bind(h, endpoint.Rebuild, func(ctx context.Context, in *endpoint.RebuildReport) (api.List[api.Rebuilt], error) {
		noteDryRun(ctx, in.DryRun)
		return allItems(h.Service.Rebuild(ctx, in.Node, in.Body, in.DryRun))
	}, maxBody(maxRebuildBytes), before(limitConcurrency("rebuilds", maxRebuilds, maxRebuildsTotal)))
	hold := []setting{maxBody(maxRebuildBytes)}
	if h.CheckCollecting != nil {
		hold = append(hold, before(refuseUnless(h.CheckCollecting)))
	}
	hold = append(hold, before(limitConcurrency("holdings", maxHoldings, maxHoldingsTotal)))
	bindNone(h, endpoint.ReportHoldings, func(ctx context.Context, in *endpoint.Report[api.Holdings]) error {
		return h.Service.ReportHoldings(ctx, in.Node, in.Body)
	}, hold...)
}

func (h handlers) sessions() {
	bindNone(h, endpoint.RegisterNode, func(ctx context.Context, in *endpoint.Report[api.Registration]) error {
		if in.Body.Node.ID != in.Node {
			return dataset.Errorf(dataset.ErrInvalid, "registration of node %s at the endpoint of node %s",
				in.Body.Node.ID, in.Node)
		}
		return h.Service.Register(ctx, in.Body)
	})
	bind(h, endpoint.Renew, func(ctx context.Context, in *endpoint.Report[api.Renewal]) (api.SessionState, error) {
		return h.Service.Renew(ctx, in.Node, in.Body.Incarnation)
	})
	bind(h, endpoint.Sync, untilStop(func(ctx context.Context, in *endpoint.SyncParams) (s api.Sync, err error) {
		wait, err := wire.ParseWait(in.Wait)
		if err != nil {
			return s, err
		}
		return h.Service.Sync(ctx, in.Node, in.Rev, wait)
	}))
}

// outcomes serves the endpoints by which agents plan requests and report their operations.
func (h handlers) outcomes() {
	bind(h, endpoint.Plan, func(ctx context.Context, in *endpoint.Report[api.Request]) (api.Plan, error) {
		return h.Service.Plan(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.Commit, func(ctx context.Context, in *endpoint.Report[api.Report]) (api.Committed, error) {
		changeOf(ctx).noteReport(in.Body.Operation)
		return h.Service.Commit(ctx, in.Node, in.Body)
	})
	bindNone(h, endpoint.Record, func(ctx context.Context, in *endpoint.Report[api.Report]) error {
		changeOf(ctx).noteReport(in.Body.Operation)
		return h.Service.Record(ctx, in.Node, in.Body)
	})
}

// moves serves the endpoints for moves of a dataset to another home.
func (h handlers) moves() {
	bindWork(h, endpoint.Recall,
		func(ctx context.Context, in *endpoint.Report[api.Report]) (dataset.Operation, string, error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			op, err := h.Service.Recall(ctx, in.Node, in.Body)
			return op, pendingLocation(&op), err
		})
	bindNone(h, endpoint.Yield, func(ctx context.Context, in *endpoint.Report[api.Yield]) error {
		return h.Service.Yield(ctx, in.Node, in.Body)
	})
	bindNone(h, endpoint.ReportCopy, func(ctx context.Context, in *endpoint.Report[api.CopyReport]) error {
		return h.Service.ReportCopy(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.SharedMount,
		func(ctx context.Context, in *endpoint.Report[api.SharedMountReport]) (api.IndexedDataset, error) {
			return h.Service.ReportSharedMount(ctx, in.Node, in.Body)
		})
}

// members serves the endpoints of a control replica of a cluster.
func (h handlers) members() {
	h.join()
	bind(h, endpoint.MakeToken, func(ctx context.Context, in *endpoint.With[api.NewToken]) (api.JoinToken, error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		token, err := h.Members.MakeToken(ctx, in.Body)
		if token.ID != "" {
			changeOf(ctx).Detail = "token " + token.ID
		}
		return token, err
	})
	bind(h, endpoint.Certify, func(ctx context.Context, in *endpoint.Report[api.Certification]) (pki.Signed, error) {
		return h.Members.Certify(ctx, in.Node, in.Body)
	}, maxBody(maxJoinBytes))
	bind(h, endpoint.GetTrust, func(ctx context.Context, _ *endpoint.None) (api.Trust, error) {
		return h.Members.Trust(ctx)
	})
	bind(h, endpoint.RemoveNode, func(ctx context.Context, in *endpoint.RemovedNode) (api.RemovedNode, error) {
		if in.Force {
			changeOf(ctx).Detail = "force"
		}
		return h.Members.RemoveNode(ctx, in.Node, api.NodeRemoval{Force: in.Force})
	})
	bind(h, endpoint.PreviewRemoveNode, func(ctx context.Context, in *endpoint.RemovedNode) (api.RemovedNode, error) {
		return h.Members.RemoveNode(ctx, in.Node, api.NodeRemoval{Force: in.Force, DryRun: true})
	})
	bindNone(h, endpoint.RevokeOperator, func(ctx context.Context, in *endpoint.OperatorParam) error {
		return h.Members.RevokeOperator(ctx, in.Operator)
	})
	bind(h, endpoint.RecoverStore, func(ctx context.Context, in *endpoint.With[api.Recover]) (api.Recovery, error) {
		c := changeOf(ctx)
		c.addDetail("confirmed ", in.Body.Digest)
		for _, node := range in.Body.FencedNodes {
			c.addDetail("fenced ", node)
		}
		noteDryRun(ctx, in.Body.DryRun)
		return h.Members.Recover(ctx, in.Body)
	})
}

// join serves the only endpoint that needs no certificate. The size of its body, its duration and the number of
// concurrent requests are limited.
func (h handlers) join() {
	room := make(chan struct{}, maxJoins)
	bind(h, endpoint.Join, func(ctx context.Context, in *endpoint.With[api.Join]) (joined api.Joined, err error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			return joined, dataset.Errorf(dataset.ErrUnavailable, "too many hosts are joining at the same time (try "+
				"again in a moment)")
		}
		joined, err = h.Members.Join(ctx, in.Body)
		if err == nil {
			changeOf(ctx).Node = joined.Node.String()
		}
		return joined, err
	}, maxBody(maxJoinBytes), func(op *huma.Operation) { op.BodyReadTimeout = anonymousTime })
}

// host serves the endpoints of an agent, about its host.
func (h handlers) host() {
	h.pools()
	h.backups()
	h.transfers()
	bind(h, endpoint.MeasureSnapshot,
		func(ctx context.Context, in *endpoint.SnapshotParam) (api.SnapshotSpace, error) {
			return h.Local.SnapshotSpace(ctx, in.Snapshot)
		})
	bind(h, endpoint.DiffSnapshot, func(ctx context.Context, in *endpoint.DiffParams) (api.Diff, error) {
		return h.Local.Diff(ctx, in.Snapshot, in.Newer)
	})
	bind(h, endpoint.Doctor, func(ctx context.Context, in *api.Page) (api.List[api.Finding], error) {
		list, err := h.Local.Doctor(ctx)
		return cutPage(*in, list, err, ordinal)
	})
	bind(h, endpoint.ListVolumeIO, func(ctx context.Context, in *api.Page) (api.List[api.VolumeIO], error) {
		list, err := h.Local.VolumeIO(ctx)
		return cutPage(*in, list, err, func(_ int, v api.VolumeIO) string { return v.Dataset.String() })
	})
	bind(h, endpoint.ListHolders, func(ctx context.Context, in *endpoint.VolumeParam) (dataset.Holders, error) {
		return h.Local.VolumeHolders(ctx, in.Volume)
	})
	bindNone(h, endpoint.Collect, func(ctx context.Context, in *endpoint.CollectedParam) error {
		_, err := h.Local.Collect(ctx, in.Dataset, false)
		return err
	})
	bind(h, endpoint.PreviewCollect, func(ctx context.Context, in *endpoint.CollectedParam) (api.Collected, error) {
		return h.Local.Collect(ctx, in.Dataset, true)
	})
	bind(h, endpoint.RebuildStore,
		func(ctx context.Context, in *endpoint.RebuildParams) (api.List[api.Rebuilt], error) {
			noteDryRun(ctx, in.DryRun)
			r := api.RebuildStore{SkipOffline: in.SkipOffline, DryRun: in.DryRun}
			return allItems(h.Local.RebuildStore(ctx, r))
		})
}

func (h handlers) pools() {
	bind(h, endpoint.CreatePool, func(ctx context.Context, in *endpoint.With[api.NewPool]) (dataset.Pool, error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		return h.Local.CreatePool(ctx, in.Body)
	})
	bind(h, endpoint.AdoptPool, func(ctx context.Context, in *endpoint.With[api.AdoptPool]) (api.Adopted, error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Path)
		noteDryRun(ctx, in.Body.DryRun)
		pool, rebuilt, err := h.Local.AdoptPool(ctx, in.Body.Path, in.Body.DryRun)
		if rebuilt == nil {
			rebuilt = []api.Rebuilt{}
		}
		return api.Adopted{Pool: pool, Rebuilt: rebuilt}, err
	})
	bind(h, endpoint.AcceptPool,
		func(ctx context.Context, in *endpoint.PoolChange[api.AcceptPool]) (dataset.Pool, error) {
			noteDryRun(ctx, in.Body.DryRun)
			return h.Local.AcceptPool(ctx, in.Pool, in.Body)
		})
	bind(h, endpoint.SetPool, func(ctx context.Context, in *endpoint.PoolChange[api.PoolPolicy]) (dataset.Pool, error) {
		changeOf(ctx).Detail = "overcommit " + dataset.FormatRatio(in.Body.Overcommit)
		return h.Local.SetPool(ctx, in.Pool, in.Body)
	})
	bind(h, endpoint.RemovePool, func(ctx context.Context, in *endpoint.RemovedPool) (api.RemovedPool, error) {
		if in.Forget {
			changeOf(ctx).Detail = "forget"
		}
		return h.Local.RemovePool(ctx, in.Pool, api.PoolRemoval{Forget: in.Forget})
	})
	bind(h, endpoint.PreviewRemovePool, func(ctx context.Context, in *endpoint.RemovedPool) (api.RemovedPool, error) {
		return h.Local.RemovePool(ctx, in.Pool, api.PoolRemoval{Forget: in.Forget, DryRun: true})
	})
}

func (h handlers) storeBackup() {
	add(h, endpoint.BackupStore.Endpoint, func(context.Context, *endpoint.None) (*Bytes, error) {
		return stream("application/octet-stream", func(ctx context.Context, w *streamWriter) error {
			return h.Backup.Backup(ctx, w)
		}), nil
	}, responds("application/octet-stream", binary))
}

func (h handlers) repositories() {
	bind(h, endpoint.ListRepositories, func(ctx context.Context, in *api.Page) (api.List[dataset.Repository], error) {
		list, err := h.Service.Repositories(ctx)
		return cutPage(*in, list, err, func(_ int, r dataset.Repository) string { return r.Name })
	})
	bind(h, endpoint.GetRepository,
		func(ctx context.Context, in *endpoint.RepositoryParam) (dataset.Repository, error) {
			return h.Service.Repository(ctx, in.Repository)
		})
	bind(h, endpoint.AddRepository,
		func(ctx context.Context, in *endpoint.With[api.NewRepository]) (dataset.Repository, error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			return h.Service.AddRepository(ctx, in.Body)
		})
	bindNone(h, endpoint.RemoveRepository, func(ctx context.Context, in *endpoint.RemovedRepository) error {
		return h.Service.RemoveRepository(ctx, in.Repository, in.Force)
	})
}

// backups serves the endpoints about the backups in a repository. Each of them runs restic, which can take as long as
// the repository lets it.
func (h handlers) backups() {
	bind(h, endpoint.CheckRepository, untilStop(
		func(ctx context.Context, in *endpoint.With[api.RepositoryCheck]) (api.RepositoryState, error) {
			name := in.Body.Name
			if in.Body.New != nil {
				name = in.Body.New.Name
			}
			changeOf(ctx).Target = dataset.Clip(name)
			return h.Local.CheckRepository(ctx, in.Body)
		}))
	bind(h, endpoint.ListBackups, untilStop(
		func(ctx context.Context, in *endpoint.BackupsOfVolume) (api.BackupList, error) {
			list, err := h.Local.VolumeBackups(ctx, in.Repository, in.Volume)
			if list.Items == nil {
				list.Items = []api.VolumeBackup{}
			}
			return list, err
		}))
	bind(h, endpoint.ListVersions, untilStop(
		func(ctx context.Context, in *endpoint.VersionsOfName) (api.VersionList, error) {
			list, err := h.Local.Versions(ctx, in.Repository, in.Name)
			if list.Items == nil {
				list.Items = dataset.History{}
			}
			return list, err
		}))
	bind(h, endpoint.GetBackup, untilStop(
		func(ctx context.Context, in *endpoint.BackupParam) (api.VolumeBackup, error) {
			return h.Local.VolumeBackup(ctx, in.Repository, in.Backup)
		}))
	bindNone(h, endpoint.RemoveBackup, func(ctx context.Context, in *endpoint.BackupParam) error {
		changeOf(ctx).Detail = "repository " + dataset.Clip(in.Repository)
		ctx, end := waiting(ctx)
		return end(h.Local.RemoveBackup(ctx, in.Repository, in.Backup))
	})
	bindNone(h, endpoint.PruneRepository, func(ctx context.Context, in *endpoint.RepositoryParam) error {
		ctx, end := waiting(ctx)
		return end(h.Local.PruneRepository(ctx, in.Repository))
	})
}
