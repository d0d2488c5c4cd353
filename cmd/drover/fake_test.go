package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// fake implements the interfaces of a server. It answers from its fields, records the requested changes, and fails
// where a test demands it.
type fake struct {
	previewed      map[string]string // names of nodes whose removal was previewed last, by UUID
	volumes, trash []api.Volume
	snapshots      []dataset.Snapshot
	profiles       []dataset.Profile
	pools          []api.Pool
	repositories   []dataset.Repository
	backups        []api.VolumeBackup
	versions       api.VersionList
	nodes          []api.Node
	operations     []dataset.Operation
	events         []api.Event
	findings       []api.Finding
	health         api.ClusterHealth
	rebuilt        []api.Rebuilt
	recovery       api.Recovery
	pool           dataset.Pool
	diff           api.Diff
	version        api.Version
	data           string // of an export or a backup
	leftOut        api.OmittedFiles
	pageSize       int // 0: all on one page

	// outcome is the answer to Submit, unless byVolume has one for the dataset of a purge. progress has the answers to
	// Operation, in order.
	outcome  api.Outcome
	byVolume map[string]api.Outcome
	progress []answer
	fail     map[string]error // by method; Submit of a volume as "Submit NAME"
	hook     func(method string)

	asked     []string
	summaries bool // the last list of volumes was asked for summaries

	holders    dataset.Holders
	ioReadings int // number of calls of VolumeIO
}

type answer struct {
	op  dataset.Operation
	err error
}

func (f *fake) called(method string, args ...any) error {
	if f.hook != nil {
		f.hook(method)
	}
	if len(args) > 0 {
		line := method
		for _, a := range args {
			b, err := json.Marshal(a)
			if err != nil {
				return err
			}
			line += " " + string(b)
		}
		f.asked = append(f.asked, line)
	}
	return f.fail[method]
}

func page[T any](f *fake, items []T, p api.Page, key func(T) string) api.List[T] {
	at := 0
	if p.After != "" {
		at = 1 + slices.IndexFunc(items, func(it T) bool { return key(it) == p.After })
	}
	items = items[at:]
	if f.pageSize == 0 || len(items) <= f.pageSize {
		return api.List[T]{Items: items}
	}
	return api.List[T]{Items: items[:f.pageSize], Next: key(items[f.pageSize-1])}
}

func (f *fake) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	if err := f.called("Submit", req); err != nil {
		return api.Outcome{}, err
	}
	if err := ctx.Err(); err != nil {
		return api.Outcome{}, err
	}
	if err := f.fail["Submit "+req.Volume]; err != nil {
		return api.Outcome{}, err
	}
	if out, ok := f.byVolume[req.Volume]; ok {
		return out, nil
	}
	return f.outcome, nil
}

func (f *fake) Volume(_ context.Context, ref string) (api.Volume, error) {
	if err := f.called("Volume"); err != nil {
		return api.Volume{}, err
	}
	for _, v := range f.volumes {
		if v.HasName(ref) || strings.HasPrefix(v.ID.String(), ref) {
			return v, nil
		}
	}
	return api.Volume{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %q", ref)
}

func (f *fake) Volumes(_ context.Context, p api.Page) (api.List[api.Volume], error) {
	err := f.called("Volumes")
	f.summaries = false
	return page(f, f.volumes, p, func(v api.Volume) string { return v.Volume }), err
}

func (f *fake) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	l, err := f.Volumes(ctx, p)
	f.summaries = true
	return api.Summarize(l), err
}

func (f *fake) Trash(_ context.Context, p api.Page) (api.List[api.Volume], error) {
	err := f.called("Trash")
	return page(f, f.trash, p, func(v api.Volume) string { return v.ID.String() }), err
}

func (f *fake) Snapshots(_ context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	err := f.called("Snapshots")
	var of []dataset.Snapshot
	for _, s := range f.snapshots {
		if ref == "" || s.Volume == ref || s.Dataset.String() == ref {
			of = append(of, s)
		}
	}
	return page(f, of, p, func(s dataset.Snapshot) string { return s.Dataset.String() + "/" + s.ID.String() }), err
}

func (f *fake) Snapshot(_ context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	for _, s := range f.snapshots {
		if strings.HasPrefix(s.ID.String(), snapshot) || ref == s.Volume && s.Name == snapshot {
			return s, f.called("Snapshot")
		}
	}
	return dataset.Snapshot{}, dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %q", snapshot)
}

func (f *fake) Profiles(context.Context) ([]api.ListedProfile, error) {
	return api.ListedProfiles(f.profiles, "gold"), f.called("Profiles")
}

func (f *fake) Profile(_ context.Context, name string) (dataset.Profile, error) {
	for _, p := range f.profiles {
		if p.Name == name {
			return p, f.called("Profile")
		}
	}
	return dataset.Profile{}, dataset.Errorf(dataset.ErrInvalid, "unknown profile %q (available: bronze, gold)", name)
}

func (f *fake) Pools(context.Context) ([]api.Pool, error) { return f.pools, f.called("Pools") }

func (f *fake) NodeList(_ context.Context, filter string) ([]api.Node, error) {
	if filter == "" {
		return f.nodes, f.called("NodeList")
	}
	return f.nodes, f.called("NodeList", filter)
}

func (f *fake) Cordon(_ context.Context, node uuid.UUID, set api.Cordoned) (dataset.Node, error) {
	n := f.nodes[0].Node
	n.Cordoned, n.Draining = set.Cordoned, set.Draining
	return n, f.called("Cordon", node, set)
}

func (f *fake) LabelNode(_ context.Context, node uuid.UUID, change dataset.LabelChange) (dataset.Node, error) {
	n := f.nodes[0].Node
	n.SetLabels(n.LabelsOfFile(), change.Set)
	return n, f.called("LabelNode", node, change)
}

func (f *fake) Fence(_ context.Context, node uuid.UUID, word api.Fenced) (dataset.Node, error) {
	return f.nodes[0].Node, f.called("Fence", node, word)
}

func (f *fake) Repositories(context.Context) ([]dataset.Repository, error) {
	return f.repositories, f.called("Repositories")
}

func (f *fake) Repository(_ context.Context, name string) (dataset.Repository, error) {
	if err := f.called("Repository"); err != nil {
		return dataset.Repository{}, err
	}
	for _, r := range f.repositories {
		if r.Name == name {
			return r, nil
		}
	}
	return dataset.Repository{}, dataset.Errorf(dataset.ErrNotFound, "no such repository: %q", name)
}

func (f *fake) AddRepository(_ context.Context, r api.NewRepository) (dataset.Repository, error) {
	added := r.Repository()
	added.Created, added.By = now, "local root"
	return added, f.called("AddRepository", r)
}

func (f *fake) RemoveRepository(_ context.Context, name string, force bool) error {
	if force {
		return f.called("RemoveRepository", name, force)
	}
	return f.called("RemoveRepository", name)
}

func (f *fake) Failover(context.Context) (api.FailoverState, error) {
	return api.FailoverState{}, f.called("Failover")
}

func (f *fake) ClusterHealth(context.Context) (api.ClusterHealth, error) {
	return f.health, f.called("ClusterHealth")
}

func (f *fake) Operations(_ context.Context, p api.Page) (api.List[dataset.Operation], error) {
	err := f.called("Operations")
	return page(f, f.operations, p, func(op dataset.Operation) string { return op.ID.String() }), err
}

func (f *fake) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	if err := f.called("Operation"); err != nil {
		return dataset.Operation{}, err
	}
	if wait > 0 && len(f.progress) > 0 {
		next := f.progress[0]
		f.progress = f.progress[1:]
		return next.op, next.err
	}
	if err := ctx.Err(); err != nil {
		return dataset.Operation{}, err
	}
	for _, op := range f.operations {
		if strings.HasPrefix(op.ID.String(), id) {
			return op, nil
		}
	}
	return dataset.Operation{}, dataset.Errorf(dataset.ErrNotFound, "no such operation: %q", id)
}

func (f *fake) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	if err := f.called("CancelOperation", id); err != nil {
		return dataset.Operation{}, err
	}
	op, err := f.Operation(ctx, id, 0)
	op.State = dataset.OpCancelled
	return op, err
}

func (f *fake) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	for _, e := range f.events {
		if e.ID <= after {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return f.called("Events", map[string]any{"follow": follow})
}

func (f *fake) Version(context.Context) (api.Version, error) { return f.version, f.called("Version") }

func (f *fake) Doctor(context.Context) ([]api.Finding, error) { return f.findings, f.called("Doctor") }

func (f *fake) Collect(_ context.Context, id uuid.UUID, dryRun bool) (api.Collected, error) {
	if dryRun {
		return api.Collected{Dataset: id, Pool: "default", Volume: "lost", Snapshots: 3}, f.called("PreviewCollect", id)
	}
	return api.Collected{Dataset: id}, f.called("Collect", id)
}

func (f *fake) CreatePool(_ context.Context, p api.NewPool) (dataset.Pool, error) {
	return f.pool, f.called("CreatePool", p)
}

func (f *fake) RemovePool(_ context.Context, name string, how api.PoolRemoval) (api.RemovedPool, error) {
	out := api.RemovedPool{Pool: f.pool, Notes: []string{"profile gold requires pool fast: its volumes need another pool of that name"}}
	if how.DryRun {
		return out, f.called("PreviewRemovePool", name, how.Forget)
	}
	return out, f.called("RemovePool", name, how.Forget)
}

func (f *fake) AdoptPool(_ context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	return f.pool, f.rebuilt, f.called("AdoptPool", path, dryRun)
}

func (f *fake) SetPool(_ context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	return f.pool, f.called("SetPool", name, p)
}

func (f *fake) AcceptPool(_ context.Context, name string, a api.AcceptPool) (dataset.Pool, error) {
	return f.pool, f.called("AcceptPool", name, a)
}

func (f *fake) RebuildStore(_ context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	return f.rebuilt, f.called("RebuildStore", r.DryRun)
}

func (f *fake) Export(_ context.Context, ref, snapshot string, w io.Writer) (api.OmittedFiles, error) {
	if _, err := io.WriteString(w, f.data); err != nil {
		return api.OmittedFiles{}, err
	}
	return f.leftOut, f.called("Export", ref, snapshot)
}

func (f *fake) Import(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return dataset.Dataset{}, err
	}
	if err := f.called("Import", req, fmt.Sprintf("%d bytes", len(b))); err != nil {
		return dataset.Dataset{}, err
	}
	return f.volumes[0].Dataset, ctx.Err()
}

func (f *fake) SnapshotSpace(_ context.Context, snapshot string) (api.SnapshotSpace, error) {
	if err := f.called("SnapshotSpace"); err != nil {
		return api.SnapshotSpace{}, err
	}
	if snapshot == snapID(2).String() {
		return api.SnapshotSpace{}, dataset.Errorf(dataset.ErrUnsupported, "volume db: its pool does not know which bytes only one snapshot uses")
	}
	return api.SnapshotSpace{Unique: dataset.Size(snapshot[1]-'0') * dataset.MiB}, nil
}

// CheckRepository reports a repository at the URL of a new one only if the fake has one there.
func (f *fake) CheckRepository(_ context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	state := api.RepositoryState{ID: strings.Repeat("5f1c09aa", 8), Format: 2}
	state.Created = c.Init && !slices.ContainsFunc(f.repositories, func(r dataset.Repository) bool {
		return r.URL == c.New.URL
	})
	return state, f.called("CheckRepository", c)
}

func (f *fake) VolumeBackups(_ context.Context, repository, volume string) (l api.BackupList, err error) {
	for _, b := range f.backups {
		if b.Repository == repository && (volume == "" || b.Volume == volume) {
			l.Items = append(l.Items, b)
		}
	}
	return l, cmp.Or(f.fail["VolumeBackups of "+repository], f.called("VolumeBackups"))
}

func (f *fake) Versions(_ context.Context, repository, name string) (api.VersionList, error) {
	l := f.versions
	l.Items = slices.DeleteFunc(slices.Clone(l.Items), func(v dataset.PushedVersion) bool {
		return v.Repository != repository || name != "" && v.Name != name
	})
	return l, f.called("Versions")
}

// VolumeBackup returns a backup with a record. One of the labels cannot be that of a volume. As an agent does, it
// accepts the first 8 digits of an ID if they name one backup.
func (f *fake) VolumeBackup(_ context.Context, repository, id string) (api.VolumeBackup, error) {
	var found []api.VolumeBackup
	for _, b := range f.backups {
		if b.Repository == repository && (b.ID == id || len(id) == 8 && strings.HasPrefix(b.ID, id)) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		err := f.called("VolumeBackup")
		return api.VolumeBackup{}, cmp.Or(err, dataset.Errorf(dataset.ErrNotFound, "backups in %s: it has no such backup", repository))
	}
	b := found[0]
	b.Record = &api.BackupRecord{Drover: "1.2.3"}
	if b.Volume == "db" {
		b.Record = &api.BackupRecord{
			Revision: "0123456789ab", Size: 20 * dataset.GiB, Labels: map[string]string{"team": "sea", "bad key": "x"},
			Encrypted: true, Filesystem: "xfs", FilesystemGiven: true, Node: "host-a", Drover: "1.2.3",
		}
	}
	return b, f.called("VolumeBackup")
}

func (f *fake) RemoveBackup(_ context.Context, repository, id string) error {
	return f.called("RemoveBackup", repository, id)
}

func (f *fake) PruneRepository(_ context.Context, repository string) error {
	return f.called("PruneRepository", repository)
}

func (f *fake) VolumeHolders(_ context.Context, volume string) (dataset.Holders, error) {
	return f.holders, f.called("VolumeHolders", volume)
}

// VolumeIO reports 1 MiB more written in each answer, and a time that is one second later.
func (f *fake) VolumeIO(context.Context) ([]api.VolumeIO, error) {
	f.ioReadings++
	n := f.ioReadings
	return []api.VolumeIO{{
		Dataset: idDB, Volume: "db", Node: "host-a", At: now.Add(time.Duration(n) * time.Second),
		Read:  api.IO{Operations: 7, Bytes: 4096, Time: dataset.Duration(time.Millisecond)},
		Write: api.IO{Operations: 64 * uint64(n), Bytes: uint64(n) << 20, Time: dataset.Duration(n) * dataset.Duration(128*time.Millisecond)},
	}}, f.called("VolumeIO")
}

func (f *fake) Diff(_ context.Context, older, newer string) (api.Diff, error) {
	return f.diff, f.called("Diff", older, newer)
}

func (f *fake) Backup(ctx context.Context, w io.Writer) error {
	if _, err := io.WriteString(w, f.data); err != nil {
		return err
	}
	if err := f.called("Backup"); err != nil {
		return err
	}
	return ctx.Err()
}

func (f *fake) MakeToken(_ context.Context, t api.NewToken) (api.JoinToken, error) {
	return api.JoinToken{Token: "drover-join-sesame", ID: "0123abcd", Name: t.Name, Expires: now.Add(time.Hour)}, f.called("MakeToken", t)
}

func (f *fake) Join(_ context.Context, j api.Join) (api.Joined, error) {
	return api.Joined{}, f.called("Join", j)
}

func (f *fake) Certify(_ context.Context, node uuid.UUID, c api.Certification) (pki.Signed, error) {
	return pki.Signed{}, f.called("Certify", node, c)
}

func (f *fake) Trust(context.Context) (api.Trust, error) {
	if len(f.volumes) == 0 {
		return api.Trust{}, f.called("Trust")
	}
	return api.Trust{Revoked: []api.Revoked{
		{Node: nodeID("gamma"), At: now.Add(-time.Hour)}, {Operator: "bob", At: now.Add(-72 * time.Hour)},
	}}, f.called("Trust")
}

// nodeID returns the UUID that the fake gives a node.
func nodeID(name string) uuid.UUID { return uuid.NewSHA1(idDB, []byte(name)) }

func (f *fake) RemoveNode(_ context.Context, ref string, how api.NodeRemoval) (api.RemovedNode, error) {
	name := ref
	if _, err := uuid.Parse(ref); err == nil {
		name = f.previewed[ref]
	}
	out := api.RemovedNode{Node: dataset.Node{ID: nodeID(name), Name: name}}
	force := how.Force
	if how.DryRun {
		f.previewed = map[string]string{out.ID.String(): name}
	}
	if how.DryRun {
		out.Live = name == "alive"
	}
	if name == "replicator" {
		out.Unprotected = []string{"db", "web"}
	}
	if force {
		out.Forgotten = []string{"the superseded head of db on node " + name}
	}
	if how.DryRun {
		return out, f.called("PreviewRemoveNode", ref, force)
	}
	return out, f.called("RemoveNode", ref, force)
}

func (f *fake) Recover(_ context.Context, r api.Recover) (api.Recovery, error) {
	err := f.called("Recover", r)
	if f.recovery.Halted != "" && r.Digest == f.recovery.Digest {
		f.recovery.Done = true
	}
	return f.recovery, err
}

func (f *fake) RevokeOperator(_ context.Context, name string) error {
	return f.called("RevokeOperator", name)
}
