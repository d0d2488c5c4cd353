package server

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// fake is a Service, Local, Backup and Members that records its calls and returns what the test sets.
type fake struct {
	mu    sync.Mutex
	asked []any

	err      error
	volume   api.Volume
	snapshot dataset.Snapshot
	profile  dataset.Profile
	op       dataset.Operation
	plan     api.Plan
	commit   api.Committed
	outcome  api.Outcome
	sync     api.Sync
	version  api.Version
	pools    []api.Pool
	nodes    []api.Node
	pool     dataset.Pool
	rebuilt  []api.Rebuilt
	failover api.FailoverState
	health   api.ClusterHealth

	repositories []dataset.Repository

	recovery api.Recovery
	found    []api.Finding
	diff     api.Diff
	space    api.SnapshotSpace
	io       []api.VolumeIO
	holders  dataset.Holders
	leftOut  api.OmittedFiles
	next     string
	stream   func(context.Context, io.Writer) error
	upload   func(context.Context, io.Reader) error
	happened func(context.Context, uint64, bool, func(api.Event) error) error
	block    func(context.Context) error
	guest    api.IndexedDataset
}

var (
	_ api.Service = (*fake)(nil)
	_ api.Local   = (*fake)(nil)
	_ api.Backup  = (*fake)(nil)
	_ api.Members = (*fake)(nil)
)

func newFake() *fake {
	op := sampleOperation()
	return &fake{
		volume: sampleVolume(), op: op, plan: api.Plan{Operation: &op},
		commit: api.Committed{Dataset: op.DatasetRecord, Index: 8},
		sync:   api.Sync{Revision: 8},
	}
}

// asked is one recorded call.
type asked struct {
	Method string
	Args   []any
}

func (f *fake) ask(ctx context.Context, method string, args ...any) error {
	f.mu.Lock()
	f.asked = append(f.asked, asked{method, args})
	block, err := f.block, f.err
	f.mu.Unlock()
	if block != nil {
		return block(ctx)
	}
	return err
}

func (f *fake) MakeToken(ctx context.Context, t api.NewToken) (api.JoinToken, error) {
	return api.JoinToken{Token: "secret", ID: "0123abcd"}, f.ask(ctx, "MakeToken", t)
}

func (f *fake) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	return api.Joined{Name: j.Name}, f.ask(ctx, "Join", j)
}

func (f *fake) Certify(ctx context.Context, node uuid.UUID, r api.Certification) (pki.Signed, error) {
	return pki.Signed{Chain: "c"}, f.ask(ctx, "Certify", node, r)
}

func (f *fake) Trust(ctx context.Context) (api.Trust, error) {
	return api.Trust{Roots: "r", Revoked: []api.Revoked{}}, f.ask(ctx, "Trust")
}

func (f *fake) RemoveNode(ctx context.Context, ref string, how api.NodeRemoval) (api.RemovedNode, error) {
	out := api.RemovedNode{Node: dataset.Node{Name: ref}}
	if how.Force {
		out.Forgotten = []string{"a head of db"}
	}
	return out, f.ask(ctx, "RemoveNode", ref, how)
}

func (f *fake) RevokeOperator(ctx context.Context, name string) error {
	return f.ask(ctx, "RevokeOperator", name)
}

func (f *fake) take() []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.asked
	f.asked = nil
	return a
}

func (f *fake) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	return f.outcome, f.ask(ctx, "Submit", req)
}

func (f *fake) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return f.volume, f.ask(ctx, "Volume", ref)
}

func (f *fake) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{Items: []api.Volume{f.volume}, Next: f.next}, f.ask(ctx, "Volumes", p)
}

func (f *fake) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	return api.List[api.VolumeSummary]{Items: []api.VolumeSummary{f.volume.Summary()}, Next: f.next},
		f.ask(ctx, "VolumeSummaries", p)
}

func (f *fake) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{Items: []api.Volume{f.volume}, Next: f.next}, f.ask(ctx, "Trash", p)
}

func (f *fake) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	return api.List[dataset.Snapshot]{Items: []dataset.Snapshot{f.snapshot}, Next: f.next}, f.ask(ctx, "Snapshots", ref, p)
}

func (f *fake) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return f.snapshot, f.ask(ctx, "Snapshot", ref, snapshot)
}

func (f *fake) Profiles(ctx context.Context) ([]api.ListedProfile, error) {
	return []api.ListedProfile{{Profile: f.profile, Default: true}}, f.ask(ctx, "Profiles")
}

func (f *fake) Profile(ctx context.Context, name string) (dataset.Profile, error) {
	return f.profile, f.ask(ctx, "Profile", name)
}

func (f *fake) Pools(ctx context.Context) ([]api.Pool, error) { return f.pools, f.ask(ctx, "Pools") }

func (f *fake) Repositories(ctx context.Context) ([]dataset.Repository, error) {
	return f.repositories, f.ask(ctx, "Repositories")
}

func (f *fake) Repository(ctx context.Context, name string) (dataset.Repository, error) {
	return sampleRepository(), f.ask(ctx, "Repository", name)
}

func (f *fake) AddRepository(ctx context.Context, r api.NewRepository) (dataset.Repository, error) {
	return sampleRepository(), f.ask(ctx, "AddRepository", r)
}

func (f *fake) RemoveRepository(ctx context.Context, name string, force bool) error {
	return f.ask(ctx, "RemoveRepository", name, force)
}

func (f *fake) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	return f.nodes, f.ask(ctx, "NodeList", filter)
}

func (f *fake) Cordon(ctx context.Context, node uuid.UUID, set api.Cordoned) (dataset.Node, error) {
	return f.nodes[0].Node, f.ask(ctx, "Cordon", node, set)
}

func (f *fake) LabelNode(ctx context.Context, node uuid.UUID, change dataset.LabelChange) (dataset.Node, error) {
	return f.nodes[0].Node, f.ask(ctx, "LabelNode", node, change)
}

func (f *fake) Fence(ctx context.Context, node uuid.UUID, w api.Fenced) (dataset.Node, error) {
	return f.nodes[0].Node, f.ask(ctx, "Fence", node, w)
}

func (f *fake) Failover(ctx context.Context) (api.FailoverState, error) {
	return f.failover, f.ask(ctx, "Failover")
}

func (f *fake) ClusterHealth(ctx context.Context) (api.ClusterHealth, error) {
	return f.health, f.ask(ctx, "ClusterHealth")
}

func (f *fake) Facts(ctx context.Context, node uuid.UUID, r api.FactsReport) (dataset.Facts, error) {
	return r.Facts, f.ask(ctx, "Facts", node, r)
}

func (f *fake) Operations(ctx context.Context, p api.Page) (api.List[dataset.Operation], error) {
	return api.List[dataset.Operation]{Items: []dataset.Operation{f.op}, Next: f.next}, f.ask(ctx, "Operations", p)
}

func (f *fake) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	return f.op, f.ask(ctx, "Operation", id, wait)
}

func (f *fake) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	return f.op, f.ask(ctx, "CancelOperation", id)
}

func (f *fake) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	if err := f.ask(ctx, "Events", after, follow); err != nil || f.happened == nil {
		return err
	}
	return f.happened(ctx, after, follow, fn)
}

func (f *fake) Version(ctx context.Context) (api.Version, error) {
	return f.version, f.ask(ctx, "Version")
}

func (f *fake) Register(ctx context.Context, r api.Registration) error {
	return f.ask(ctx, "Register", r)
}

func (f *fake) Plan(ctx context.Context, node uuid.UUID, req api.Request) (api.Plan, error) {
	return f.plan, f.ask(ctx, "Plan", node, req)
}

func (f *fake) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	return f.commit, f.ask(ctx, "Commit", node, r)
}

func (f *fake) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	return f.ask(ctx, "Record", node, r)
}

func (f *fake) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	return f.sync, f.ask(ctx, "Sync", node, rev, wait)
}

func (f *fake) Renew(ctx context.Context, node, incarnation uuid.UUID) (api.SessionState, error) {
	return api.SessionState{TTL: dataset.Duration(10 * time.Second)}, f.ask(ctx, "Renew", node, incarnation)
}

func (f *fake) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	return f.ask(ctx, "Heartbeat", node, h)
}

func (f *fake) Recall(ctx context.Context, node uuid.UUID, r api.Report) (dataset.Operation, error) {
	return f.op, f.ask(ctx, "Recall", node, r)
}

func (f *fake) Yield(ctx context.Context, node uuid.UUID, y api.Yield) error {
	return f.ask(ctx, "Yield", node, y)
}

func (f *fake) ReportCopy(ctx context.Context, node uuid.UUID, c api.CopyReport) error {
	return f.ask(ctx, "ReportCopy", node, c)
}

func (f *fake) ReportSharedMount(ctx context.Context, node uuid.UUID, g api.SharedMountReport) (api.IndexedDataset, error) {
	return f.guest, f.ask(ctx, "ReportSharedMount", node, g)
}

func (f *fake) ReportHoldings(ctx context.Context, node uuid.UUID, h api.Holdings) error {
	return f.ask(ctx, "ReportHoldings", node, h)
}

func (f *fake) Recover(ctx context.Context, r api.Recover) (api.Recovery, error) {
	return f.recovery, f.ask(ctx, "Recover", r)
}

func (f *fake) Rebuild(ctx context.Context, node uuid.UUID, found []api.FoundDataset, dryRun bool) ([]api.Rebuilt, error) {
	return f.rebuilt, f.ask(ctx, "Rebuild", node, found, dryRun)
}

func (f *fake) Doctor(ctx context.Context) ([]api.Finding, error) {
	return f.found, f.ask(ctx, "Doctor")
}

func (f *fake) Collect(ctx context.Context, id uuid.UUID, dryRun bool) (api.Collected, error) {
	return api.Collected{Dataset: id, Pool: "fast"}, f.ask(ctx, "Collect", id, dryRun)
}

func (f *fake) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	return f.pool, f.ask(ctx, "CreatePool", p)
}

func (f *fake) SetPool(ctx context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	return f.pool, f.ask(ctx, "SetPool", name, p)
}

func (f *fake) AcceptPool(ctx context.Context, name string, a api.AcceptPool) (dataset.Pool, error) {
	return f.pool, f.ask(ctx, "AcceptPool", name, a)
}

func (f *fake) Generations(ctx context.Context, node uuid.UUID, g api.Generations) (api.Generations, error) {
	return api.Generations{Pools: g.Pools}, f.ask(ctx, "Generations", node, g)
}

func (f *fake) RemovePool(ctx context.Context, name string, how api.PoolRemoval) (api.RemovedPool, error) {
	return api.RemovedPool{Pool: f.pool, Notes: []string{"a note"}}, f.ask(ctx, "RemovePool", name, how)
}

func (f *fake) AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	return f.pool, f.rebuilt, f.ask(ctx, "AdoptPool", path, dryRun)
}

func (f *fake) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	return f.rebuilt, f.ask(ctx, "RebuildStore", r)
}

func (f *fake) Export(ctx context.Context, ref, snapshot string, w io.Writer) (api.OmittedFiles, error) {
	if err := f.ask(ctx, "Export", ref, snapshot); err != nil || f.stream == nil {
		return f.leftOut, err
	}
	return f.leftOut, f.stream(ctx, w)
}

func (f *fake) Import(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	if err := f.ask(ctx, "Import", req); err != nil || f.upload == nil {
		return f.volume.Dataset, err
	}
	return f.volume.Dataset, f.upload(ctx, r)
}

func (f *fake) SnapshotSpace(ctx context.Context, snapshot string) (api.SnapshotSpace, error) {
	return f.space, f.ask(ctx, "SnapshotSpace", snapshot)
}

func (f *fake) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return sampleState(), f.ask(ctx, "CheckRepository", c)
}

func (f *fake) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	return sampleBackups(), f.ask(ctx, "VolumeBackups", repository, volume)
}

func (f *fake) Versions(ctx context.Context, repository, name string) (api.VersionList, error) {
	return sampleVersions(), f.ask(ctx, "Versions", repository, name)
}

func (f *fake) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	return sampleBackup(), f.ask(ctx, "VolumeBackup", repository, id)
}

func (f *fake) RemoveBackup(ctx context.Context, repository, id string) error {
	return f.ask(ctx, "RemoveBackup", repository, id)
}

func (f *fake) PruneRepository(ctx context.Context, repository string) error {
	return f.ask(ctx, "PruneRepository", repository)
}

func (f *fake) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	return f.holders, f.ask(ctx, "VolumeHolders", volume)
}

func (f *fake) VolumeIO(ctx context.Context) ([]api.VolumeIO, error) {
	return f.io, f.ask(ctx, "VolumeIO")
}

func (f *fake) Diff(ctx context.Context, older, newer string) (api.Diff, error) {
	return f.diff, f.ask(ctx, "Diff", older, newer)
}

func (f *fake) Backup(ctx context.Context, w io.Writer) error {
	if err := f.ask(ctx, "Backup"); err != nil || f.stream == nil {
		return err
	}
	return f.stream(ctx, w)
}

var sampleTime = time.Date(2026, 3, 1, 12, 30, 0, 123456789, time.UTC)

func sampleDataset() dataset.Dataset {
	mode := uint32(0o750)
	return dataset.Dataset{
		ID: uuid.MustParse("f23ca986-1b7f-4f7e-9a43-0f3f5a1c2d3e"), Volume: "db", RequestedAs: "db@gold", State: dataset.StateReady,
		Profile: dataset.Profile{
			Name: "gold", Revision: "0123456789ab", Description: "database volumes", Backend: "loop", Size: 20 * dataset.GiB,
			Filesystem: dataset.Filesystem{Type: "xfs", Mount: []string{"noatime"}},
			Snapshots:  dataset.Snapshots{Required: true, Schedule: "*/15 * * * *", Keep: dataset.Keep{Last: 4, Hourly: 24}},
			Quiesce:    dataset.QuiesceFreeze,
			OnDelete:   dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(72 * time.Hour)},
			Owner:      &dataset.Owner{UID: 999, GID: 999, Mode: &mode},
		},
		Size: 20 * dataset.GiB, Labels: map[string]string{"team": "a"}, Epoch: 3,
		Home:    uuid.MustParse("4b1d8a5e-3c55-4c07-8c6a-0d2f8a1c9e01"),
		Pool:    uuid.MustParse("9d3f0f5c-7a0b-4a6e-8f38-51a3b1a5c002"),
		Created: sampleTime, Request: uuid.MustParse("0d2f8a1c-9e01-4c07-8c6a-4b1d8a5e3c55"),
	}
}

func sampleRepository() dataset.Repository {
	return dataset.Repository{
		Name: "offsite", URL: "s3:https://s3.example.com/b", Password: dataset.PasswordSource{File: "/etc/drover/p"},
		CredentialsFile: "/etc/drover/s3", Created: sampleTime, By: "operator ann",
	}
}

func sampleState() api.RepositoryState {
	return api.RepositoryState{ID: "5f1c09aa", Format: 2, Created: true}
}

func sampleBackups() api.BackupList {
	return api.BackupList{
		Items: []api.VolumeBackup{{
			ID: "5f1c09aa", Repository: "off/site", Volume: "db", Taken: sampleTime, Profile: "gold", Dataset: sampleDataset().ID,
			Snapshot: node1, Operation: node1,
		}},
		Problem: &dataset.Problem{Code: "corrupt", Message: "backup 0123 is damaged"},
	}
}

func sampleVersions() api.VersionList {
	return api.VersionList{
		Items: dataset.History{{
			ID: node1, Repository: "off/site", Name: "prod", Backup: "5f1c09aa", Taken: sampleTime, Pushed: sampleTime, Volume: "db",
			Dataset: sampleDataset().ID, Newest: true,
		}},
		Problem: &dataset.Problem{Code: dataset.ErrCorrupt.Code, Message: "an entry is damaged"},
	}
}

func sampleBackup() api.VolumeBackup {
	b := sampleBackups().Items[0]
	b.Record = &api.BackupRecord{
		Revision: "0123456789ab", Size: 1 << 30, Labels: map[string]string{"team": "sea"}, Encrypted: true, Filesystem: "xfs",
		Node: "host-a", Drover: "1.2.3",
	}
	return b
}

func sampleVolume() api.Volume {
	return api.Volume{
		Dataset: sampleDataset(), Node: "host-a", PoolName: "default", Backend: "loop", Snapshots: 3,
		Status: &dataset.DatasetStatus{ID: sampleDataset().ID, Mounted: true, Used: new(dataset.Size(1 << 30)), Mounts: []dataset.Mount{{ID: "0123", Count: 1, Since: sampleTime}}},
	}
}

func sampleOperation() dataset.Operation {
	d := sampleDataset()
	return dataset.Operation{
		ID: d.Request, Kind: dataset.OpCreate, State: dataset.OpDone, Node: d.Home, Volume: "db", DatasetID: d.ID,
		Epoch: 3, DatasetRecord: &d, Incarnation: d.Pool, Created: sampleTime, Ended: sampleTime,
		Progress: dataset.Progress{Step: "create", Done: 5, Total: 10},
	}
}

// emptying has three datasets in its trash, one on each page, and cannot purge the second.
type emptying struct {
	*fake
	ids, purged []uuid.UUID
}

func (f *emptying) Trash(_ context.Context, p api.Page) (api.List[api.Volume], error) {
	if f.ids == nil {
		f.ids = []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	}
	next := map[string]string{"": "1", "1": "2", "2": ""}[p.After]
	at := map[string]int{"": 0, "1": 1, "2": 2}[p.After]
	return api.List[api.Volume]{Items: []api.Volume{{Dataset: dataset.Dataset{ID: f.ids[at]}}}, Next: next}, nil
}

func (f *emptying) Submit(_ context.Context, req api.Request) (api.Outcome, error) {
	f.purged = append(f.purged, uuid.MustParse(req.Volume))
	if req.Kind != dataset.OpPurge || len(f.purged) == 2 {
		return api.Outcome{}, dataset.Errorf(dataset.ErrInUse, "has a clone")
	}
	return api.Outcome{}, nil
}
