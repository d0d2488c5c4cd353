package server

import (
	"bytes"
	"context"
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

var (
	node1 = uuid.MustParse("4b1d8a5e-3c55-4c07-8c6a-0d2f8a1c9e01")
	yes   = true
)

// fullFake returns a fake whose answers have every field set.
func fullFake() *fake {
	f := newFake()
	d := sampleDataset()
	f.next = "later"
	f.snapshot = dataset.Snapshot{
		ID: node1, Dataset: d.ID, Volume: "db", Parent: d.Pool, Name: "before", Message: "ä \"message\"\n<b>", Kind: dataset.SnapshotManual,
		Size: d.Size, Profile: d.Profile, Epoch: 1 << 60, Created: sampleTime, Request: d.Request,
	}
	f.profile = d.Profile
	f.repositories = []dataset.Repository{sampleRepository()}
	f.outcome = api.Outcome{Volume: &f.volume, Operation: &f.op}
	f.pool = dataset.Pool{
		ID: d.Pool, Name: "default", Node: node1, Backend: "loop", Path: "/p", Reach: dataset.ReachNode, Default: true, Note: "n",
		Capabilities: dataset.Capabilities{EnforcesSize: true, Delta: true, Filesystems: []string{"ext4", "xfs"}},
	}
	f.pools = []api.Pool{{Pool: f.pool, NodeName: "host-a", Status: &dataset.PoolStatus{ID: d.Pool, Online: true, Size: 1 << 40, Free: 1 << 39, Leftovers: 1, UnknownObjects: 2}}}
	facts := dataset.Facts{
		Node: node1, Taken: sampleTime, Architecture: "x86_64", Kernel: "6.1", OS: "debian", OSVersion: "12", Engine: "28", Virtual: true, CPUs: 4,
		MemoryTotal: 1 << 40, MemoryFree: 1 << 39, Load1: 0.25, Load10: 1.5, Load15: 2, Backends: []string{"dir"}, Swarm: "x1",
		Pools: []dataset.PoolFacts{{ID: d.Pool, Name: "default", Backend: "loop", Online: true, Size: 1 << 40, Free: 1 << 39}},
	}
	f.nodes = []api.Node{{
		Node:  dataset.Node{ID: node1, Name: "host-a", Incarnation: d.ID, Version: "v", Cordoned: true, Labels: map[string]string{"a": "b"}, Pools: []uuid.UUID{d.Pool}},
		Facts: &facts,
	}}
	f.failover = api.FailoverState{Halted: "2 nodes vanished", HaltedSince: sampleTime}
	f.rebuilt = []api.Rebuilt{{Dataset: d.ID, Volume: "db", Action: "renamed", Note: "n"}}
	f.found = []api.Finding{{Level: "error", Subject: "pool default", Text: "t", Fix: "m"}}
	f.space = api.SnapshotSpace{Snapshot: node1, Unique: 1 << 41}
	f.holders = dataset.Holders{
		Node: "host-a", Total: 1, List: []dataset.Holder{{Kind: dataset.HolderProcess, PID: 7, Command: "sh", User: "root", Path: "a"}},
		Unexamined: []string{"process 8"},
	}
	f.io = []api.VolumeIO{{
		Dataset: d.ID, Volume: "db", Node: "host-a", At: sampleTime,
		Read:  api.IO{Operations: 1<<63 + 1, Bytes: 1<<63 + 2, Time: dataset.Duration(time.Second)},
		Write: api.IO{Operations: 3, Bytes: 4, Time: dataset.Duration(time.Millisecond)},
	}}
	f.diff = api.Diff{Older: "a", Newer: "b", Bytes: 1 << 40, Zeroed: 2, Ranges: 3}
	f.version = api.Version{Version: "1.2", API: "v1", Node: "host-a", Store: "bolt", Started: sampleTime}
	f.sync = api.Sync{Revision: 1<<63 + 1, Full: true, Datasets: []api.IndexedDataset{{Dataset: d, Index: 9}}, RemovedDatasets: []uuid.UUID{node1}, Operations: []dataset.Operation{f.op}}
	f.sync.SharedMounts = []api.IndexedDataset{{Dataset: d, Index: 3}}
	f.guest = api.IndexedDataset{Dataset: d, Index: 7}
	f.commit.Duplicate = true
	return f
}

// TestEveryMethodArrives calls every method of the interfaces through client and handlers. The service gets the
// same arguments, and the caller gets the service's answer.
func TestEveryMethodArrives(t *testing.T) {
	f := fullFake()
	req := api.Request{
		ID: node1, Kind: dataset.OpSnapshot, Volume: "db@gold", Options: map[string]string{"size": "20GiB", "label.ä": "a=b,c"}, Snapshot: "s",
		Name: "n", Message: "m\n", Size: "1GiB", Profile: "gold", Protect: &yes, Path: "/p", Live: true, Force: true, Scheduled: true,
	}
	report := api.Report{Incarnation: node1, Operation: f.op}
	page := api.Page{After: "db", Limit: 7}
	byID, bySnapshot := api.Page{After: node1.String(), Limit: 7}, api.Page{After: "a b&c/" + node1.String(), Limit: 7}
	beat := api.Heartbeat{Incarnation: node1, Pools: []dataset.PoolStatus{*f.pools[0].Status}, Datasets: []dataset.DatasetStatus{*f.volume.Status}, Operations: []dataset.Operation{f.op}}
	numbered := api.Generations{Incarnation: node1, Pools: []api.Generation{{Pool: f.pool.ID, Generation: 1<<63 + 1}}}
	yield := api.Yield{Incarnation: node1, Operation: f.op.ID, Dataset: f.volume.ID, Epoch: 3, Manifest: &dataset.Manifest{Snapshot: f.snapshot.ID, Bytes: 8, SHA256: "ab", Taken: f.snapshot.Created}}
	held := api.Holdings{Incarnation: node1, Recovery: uuid.Max, StoreClock: 1 << 60, ExaminedPools: []uuid.UUID{f.pool.ID}, Datasets: []api.FoundDataset{}, Copies: []api.AssignedCopy{}, Relinquished: []api.RelinquishedEpoch{{Dataset: node1, Epoch: 2, ToNode: uuid.Max}}}
	again := api.Recover{Digest: "0123", FencedNodes: []string{"a"}, DryRun: true}
	copied := api.CopyReport{Incarnation: node1, Copy: dataset.Copy{Dataset: f.volume.ID, Node: node1, Pool: f.pool.ID, Kind: dataset.CopyCondemned, Epoch: 3, Taken: f.snapshot.Created}, Removed: true}
	guest := api.SharedMountReport{Incarnation: node1, Dataset: f.volume.ID, ID: uuid.Max, Mounted: true, Ended: true}
	found := []api.FoundDataset{{Pool: f.pool.ID, Dataset: f.volume.Dataset, Snapshots: []dataset.Snapshot{f.snapshot}}}
	labels := dataset.LabelChange{Set: map[string]string{"rack": "r2"}, Remove: []string{"spare"}}
	told := api.FactsReport{Incarnation: node1, Facts: *f.nodes[0].Facts}
	registration := api.Registration{Node: f.nodes[0].Node, Pools: []dataset.Pool{f.pool}}
	token, join, renewal := api.NewToken{Name: "a", TTL: "2h"}, api.Join{Token: "t", CSR: "r", Name: "a", Node: node1}, api.Certification{CSR: "r"}
	place := api.NewRepository{
		Name: "offsite", URL: "s3:https://s3.example.com/b", CredentialsFile: "/etc/drover/s3",
		Password: dataset.PasswordSource{Exec: "/etc/drover/pass"},
	}
	tested := map[string]bool{}
	for _, c := range []struct {
		method string
		args   []any
		want   any
	}{
		{"Submit", []any{req}, f.outcome},
		{"Volume", []any{"a/b ä%2F"}, f.volume},
		{"Volumes", []any{page}, api.List[api.Volume]{Items: []api.Volume{f.volume}, Next: f.next}},
		{"VolumeSummaries", []any{page}, api.List[api.VolumeSummary]{Items: []api.VolumeSummary{f.volume.Summary()}, Next: f.next}},
		{"VolumeSummaries", []any{api.Page{Health: true}}, api.List[api.VolumeSummary]{Items: []api.VolumeSummary{f.volume.Summary()}, Next: f.next}},
		{"Trash", []any{api.Page{}}, api.List[api.Volume]{Items: []api.Volume{f.volume}, Next: f.next}},
		{"Snapshots", []any{"db", bySnapshot}, api.List[dataset.Snapshot]{Items: []dataset.Snapshot{f.snapshot}, Next: f.next}},
		{"Snapshots", []any{"", api.Page{}}, api.List[dataset.Snapshot]{Items: []dataset.Snapshot{f.snapshot}, Next: f.next}},
		{"Snapshot", []any{"db", "before"}, f.snapshot},
		{"Snapshot", []any{"", "f23c"}, f.snapshot},
		{"Profiles", nil, []api.ListedProfile{{Profile: f.profile, Default: true}}},
		{"Profile", []any{"gold"}, f.profile},
		{"Pools", nil, f.pools},
		{"NodeList", []any{""}, f.nodes},
		{"NodeList", []any{`load_1 < 3 & "ä"`}, f.nodes},
		{"Repositories", nil, f.repositories},
		{"Repository", []any{"off/site"}, f.repositories[0]},
		{"AddRepository", []any{place}, f.repositories[0]},
		{"RemoveRepository", []any{"offsite", false}, nil},
		{"RemoveRepository", []any{"offsite", true}, nil},
		{"Cordon", []any{node1, api.Cordoned{Cordoned: true, Draining: true}}, f.nodes[0].Node},
		{"LabelNode", []any{node1, labels}, f.nodes[0].Node},
		{"Fence", []any{node1, api.Fenced{Confirmed: true}}, f.nodes[0].Node},
		{"ClusterHealth", nil, f.health},
		{"Failover", nil, f.failover},
		{"Facts", []any{node1, told}, told.Facts},
		{"Operations", []any{byID}, api.List[dataset.Operation]{Items: []dataset.Operation{f.op}, Next: f.next}},
		{"Operation", []any{"f23c", 30 * time.Second}, f.op},
		{"Operation", []any{"f23c", time.Duration(0)}, f.op},
		{"CancelOperation", []any{"f23c"}, f.op},
		{"Version", nil, f.version},
		{"Register", []any{registration}, nil},
		{"Plan", []any{node1, req}, f.plan},
		{"Commit", []any{node1, report}, f.commit},
		{"Record", []any{node1, report}, nil},
		{"Sync", []any{node1, uint64(1<<63 + 5), 30 * time.Second}, f.sync},
		{"Sync", []any{node1, uint64(0), time.Duration(0)}, f.sync},
		{"Renew", []any{node1, uuid.Max}, api.SessionState{TTL: dataset.Duration(10 * time.Second)}},
		{"Generations", []any{node1, numbered}, api.Generations{Pools: numbered.Pools}},
		{"Heartbeat", []any{node1, beat}, nil},
		{"Recall", []any{node1, report}, f.op},
		{"Yield", []any{node1, yield}, nil},
		{"ReportCopy", []any{node1, copied}, nil},
		{"ReportSharedMount", []any{node1, guest}, f.guest},
		{"Rebuild", []any{node1, found, false}, f.rebuilt},
		{"Rebuild", []any{node1, found, true}, f.rebuilt},
		{"ReportHoldings", []any{node1, held}, nil},
		{"Recover", []any{again}, f.recovery},
		{"MakeToken", []any{token}, api.JoinToken{Token: "secret", ID: "0123abcd"}},
		{"Join", []any{join}, api.Joined{Name: "a"}},
		{"Certify", []any{node1, renewal}, pki.Signed{Chain: "c"}},
		{"Trust", nil, api.Trust{Roots: "r"}},
		{"RemoveNode", []any{"a b", api.NodeRemoval{Force: true}}, api.RemovedNode{Node: dataset.Node{Name: "a b"}, Forgotten: []string{"a head of db"}}},
		{"RemoveNode", []any{"a b", api.NodeRemoval{Force: true, DryRun: true}}, api.RemovedNode{Node: dataset.Node{Name: "a b"}, Forgotten: []string{"a head of db"}}},
		{"RemoveNode", []any{"a", api.NodeRemoval{}}, api.RemovedNode{Node: dataset.Node{Name: "a"}}},
		{"RevokeOperator", []any{"bob"}, nil},
		{"Doctor", nil, f.found},
		{"Collect", []any{node1, true}, api.Collected{Dataset: node1, Pool: "fast"}},
		{"Collect", []any{node1, false}, api.Collected{Dataset: node1}},
		{"CreatePool", []any{api.NewPool{
			Name: "fast", Backend: "loop", Path: "/p", Image: "20GiB", Devices: []string{"/dev/a"}, Overcommit: 1.5,
		}}, f.pool},
		{"AdoptPool", []any{"/p", true}, []any{f.pool, f.rebuilt}},
		{"AcceptPool", []any{"fast", api.AcceptPool{DryRun: true}}, f.pool},
		{"AcceptPool", []any{"fast", api.AcceptPool{Confirmed: true}}, f.pool},
		{"SetPool", []any{"fast", api.PoolPolicy{Overcommit: 1.5}}, f.pool},
		{"RemovePool", []any{"fast", api.PoolRemoval{Forget: true}}, api.RemovedPool{Pool: f.pool, Notes: []string{"a note"}}},
		{"RemovePool", []any{"fast", api.PoolRemoval{Forget: true, DryRun: true}}, api.RemovedPool{Pool: f.pool, Notes: []string{"a note"}}},
		{"RebuildStore", []any{api.RebuildStore{SkipOffline: true}}, f.rebuilt},
		{"RebuildStore", []any{api.RebuildStore{DryRun: true}}, f.rebuilt},
		{"Export", []any{"db", "before"}, f.leftOut},
		{"Import", []any{api.Request{ID: node1, Kind: dataset.OpImport, Volume: "db@gold", Options: req.Options}}, f.volume.Dataset},
		{"VolumeHolders", []any{"db"}, f.holders},
		{"CheckRepository", []any{api.RepositoryCheck{New: &place, Init: true}}, sampleState()},
		{"CheckRepository", []any{api.RepositoryCheck{Name: "offsite", ReadDataPercent: 100}}, sampleState()},
		{"VolumeBackups", []any{"off/site", "db"}, sampleBackups()},
		{"Versions", []any{"off/site", "prod"}, sampleVersions()},
		{"VolumeBackup", []any{"off/site", "5f1c09aa"}, sampleBackup()},
		{"RemoveBackup", []any{"offsite", "5f1c09aa"}, nil},
		{"PruneRepository", []any{"offsite"}, nil},
		{"VolumeIO", nil, f.io},
		{"SnapshotSpace", []any{"a"}, f.space},
		{"Diff", []any{"a", "b"}, f.diff},
		{"Diff", []any{"a", ""}, f.diff},
		{"Backup", nil, nil},
		{"Events", []any{uint64(12), false}, nil},
	} {
		tested[c.method] = true
		t.Run(c.method, func(t *testing.T) {
			transports(t, Deps{Service: f, Local: f, Backup: f, Members: f}, func(t *testing.T, client *client.Client) {
				got := call(t, client, c.method, c.args)
				if d := cmp.Diff([]any{asked{c.method, c.args}}, f.take(), cmpopts.EquateEmpty()); d != "" {
					t.Errorf("asked (-want +got):\n%s", d)
				}
				if d := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("answered (-want +got):\n%s", d)
				}
			})
		})
	}
	for _, it := range []reflect.Type{reflect.TypeFor[api.Service](), reflect.TypeFor[api.Local](), reflect.TypeFor[api.Backup](), reflect.TypeFor[api.Members]()} {
		for i := range it.NumMethod() {
			if name := it.Method(i).Name; !tested[name] {
				t.Errorf("%s.%s is not tested here", it, name)
			}
		}
	}
}

// call calls a method of a client. After args, the method gets a reader, a writer or a function that does nothing. The
// result is nil if the method returns only an error, and a list if it returns several values.
func call(t *testing.T, c *client.Client, method string, args []any) any {
	t.Helper()
	m := reflect.ValueOf(c).MethodByName(method)
	args = append([]any{soon(t)}, args...)
	for len(args) < m.Type().NumIn() {
		switch m.Type().In(len(args)) {
		case reflect.TypeFor[io.Reader]():
			args = append(args, bytes.NewReader(nil))
		case reflect.TypeFor[io.Writer]():
			args = append(args, io.Discard)
		default:
			args = append(args, func(api.Event) error { return nil })
		}
	}
	in := make([]reflect.Value, len(args))
	for i, a := range args {
		in[i] = reflect.ValueOf(a)
	}
	out := m.Call(in)
	last := len(out) - 1
	if err, failed := out[last].Interface().(error); failed {
		t.Fatal(err)
	}
	got := make([]any, last)
	for i := range got {
		got[i] = out[i].Interface()
	}
	switch last {
	case 0:
		return nil
	case 1:
		return got[0]
	}
	return got
}

// Every request that people can write arrives unchanged.
func TestSubmitKeepsEveryRequest(t *testing.T) {
	f := newFake()
	c := loopback.New(Handler(Deps{Service: f}))
	defer c.Close()
	kinds := rapid.SampledFrom([]dataset.OpKind{dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpSnapshotDelete,
		dataset.OpRestore, dataset.OpResize, dataset.OpRekey, dataset.OpUpdate, dataset.OpRename, dataset.OpDropAlias, dataset.OpDelete, dataset.OpUndelete, dataset.OpPurge, dataset.OpMove, dataset.OpDiscard,
		dataset.OpShow, dataset.OpHide})
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.String()
		req := api.Request{
			ID: uuid.New(), Kind: kinds.Draw(rt, "kind"), Volume: text.Draw(rt, "volume"), Snapshot: text.Draw(rt, "snapshot"),
			Options: rapid.MapOf(text, text).Draw(rt, "options"), Name: text.Draw(rt, "name"), Message: text.Draw(rt, "message"),
			Size: text.Draw(rt, "size"), Profile: text.Draw(rt, "profile"), Path: text.Draw(rt, "path"),
			Live: rapid.Bool().Draw(rt, "live"), Force: rapid.Bool().Draw(rt, "force"), Scheduled: rapid.Bool().Draw(rt, "scheduled"),
			Engine: rapid.Bool().Draw(rt, "engine"), Protect: rapid.Ptr(rapid.Bool(), true).Draw(rt, "protect"),
		}
		if _, err := c.Submit(context.Background(), req); err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff([]any{asked{"Submit", []any{req}}}, f.take(), cmpopts.EquateEmpty()); d != "" {
			rt.Fatal(d)
		}
	})
}

// Every name arrives unchanged, or is refused before it is sent.
func TestNamesKeepTheirSpelling(t *testing.T) {
	f := newFake()
	transports(t, Deps{Service: f, Local: f}, func(t *testing.T, c *client.Client) {
		ctx := soon(t)
		try := func(name string) string {
			_, err := c.Volume(ctx, name)
			got := f.take()
			if dataset.KindOf(err) == dataset.ErrInvalid && len(got) == 0 {
				return ""
			}
			if d := cmp.Diff([]any{asked{"Volume", []any{name}}}, got); d != "" || err != nil {
				return d + " error: " + errText(err)
			}
			return ""
		}
		for _, name := range []string{"", ".", "..", "...", "a/../b", "//", "/", "a//b", "%2f", "%", "?a=b", "#", "a;b", " ", "\n", "\x00", "ä@gold", "db@snapshot-f23c", "*", "{volume}"} {
			if d := try(name); d != "" {
				t.Errorf("%q: %s", name, d)
			}
		}
		rapid.Check(t, func(rt *rapid.T) {
			if d := try(rapid.String().Draw(rt, "name")); d != "" {
				rt.Fatal(d)
			}
		})
	})
}

func errText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}

// A nil slice is sent as an empty list and not as null, since jq and browsers iterate over it.
func TestEmptyListsAreLists(t *testing.T) {
	f := newFake()
	for _, path := range []string{"/v1/pools", "/v1/nodes", "/v1/doctor"} {
		if _, body := raw(t, Handler(Deps{Service: f, Local: f}), "GET", path, ""); body != "{\"items\":[]}\n" {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestImportRefusesWhatItCannotCarry(t *testing.T) {
	f := newFake()
	c := loopback.New(Handler(Deps{Service: f, Local: f}))
	defer c.Close()
	for _, req := range []api.Request{{Volume: "db", Path: "/p"}, {Volume: "db", Kind: dataset.OpCreate}, {Volume: "db", Size: "1GiB"}, {}} {
		if _, err := c.Import(soon(t), req, bytes.NewReader(nil)); dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if got := f.take(); got != nil {
		t.Error(got)
	}
}
