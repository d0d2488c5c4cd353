package volumes

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume whose home is unreachable names the home and what to do, whatever the home reported last. If another node has
// a copy, the advice says how the volume continues from it.
func TestAdviceForAnUnreachableHome(t *testing.T) {
	v := api.Volume{
		Node: "alpha", Unreachable: true, Dataset: dataset.Dataset{Volume: "db", State: dataset.StateReady},
		Status: &dataset.DatasetStatus{Problem: "its disk fails"},
	}
	for copies, want := range map[int]int{0: 2, 1: 3} {
		v.CopyDetails = nil
		for range copies {
			k := dataset.Copy{Kind: dataset.CopyReplica, Snapshot: uuid.New()}
			v.CopyDetails = append(v.CopyDetails, api.CopyDetail{NodeName: "beta", Copy: k})
		}
		problem, next := advice(time.Now(), v, volumePool{})
		if problem != "its home, node alpha, is unreachable" || len(next) != want || next[0] != "drover node inspect alpha" {
			t.Errorf("with %d copies: %s, %q, want %d lines", copies, problem, next, want)
		}
	}
}

// A volume that is full because its pool is gets no advice to resize it.
func TestAdviceNamesTheFullPool(t *testing.T) {
	v := api.Volume{
		PoolName: "fast", Dataset: dataset.Dataset{Volume: "db", State: dataset.StateReady, Size: 20 * dataset.GiB},
		Status: &dataset.DatasetStatus{
			Usage:    &dataset.Usage{Used: 18 * dataset.GiB, Available: 2 * dataset.GiB},
			Fullness: dataset.NearlyFull,
		},
	}
	problem, next := advice(time.Now(), v, volumePool{name: v.PoolName, status: &dataset.PoolStatus{Online: true, Size: 40 * dataset.GiB, Free: dataset.MiB}})
	if !strings.Contains(problem, "pool fast has only 1MiB free") || !slices.Contains(next, "drover snapshot ls --size") ||
		slices.Contains(next, v.GrowCommand()) {
		t.Errorf("full pool: %s, %v", problem, next)
	}
	problem, next = advice(time.Now(), v, volumePool{name: v.PoolName})
	if problem != "NEARLY FULL: 90% of 20GiB used" || !slices.Equal(next, []string{v.GrowCommand()}) {
		t.Errorf("pool with an unknown status: %s, %v", problem, next)
	}
}

func TestStateOfReplica(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := api.Volume{Dataset: dataset.Dataset{Volume: "db"}}
	v.Profile.Replicas = dataset.Replicas{Count: 1, Every: dataset.Duration(10 * time.Minute)}
	for name, c := range map[string]struct {
		copy     dataset.Copy
		state    string
		verified time.Time
	}{
		"no snapshot yet": {dataset.Copy{}, replicaBuilding, time.Time{}},
		"fresh": {
			dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-time.Hour), VerifiedAt: now.Add(-29 * time.Minute)},
			replicaHealthy, now.Add(-29 * time.Minute),
		},
		"too old": {
			dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-31 * time.Minute)}, replicaStale,
			now.Add(-31 * time.Minute),
		},
	} {
		r := newVolumeCopy(v, api.CopyDetail{Copy: c.copy}, now)
		if r.State != c.state || !r.Verified.Equal(c.verified) {
			t.Errorf("%s: %s, verified %s; want %s, %s", name, r.State, r.Verified, c.state, c.verified)
		}
	}
}

// copyLines describes the copies on other nodes: the age of the data, or why there is none.
func TestCopyLines(t *testing.T) {
	a := &cli.App{Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }}
	now := a.Now()
	kept := func(c dataset.Copy) api.CopyDetail {
		c.Kind = dataset.CopyReplica
		return api.CopyDetail{Copy: c, NodeName: "host-b"}
	}
	got := copyLines(a, api.Volume{CopyDetails: []api.CopyDetail{
		kept(dataset.Copy{}),
		kept(dataset.Copy{Problem: "its pool is offline: absent"}),
		kept(dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-15 * time.Second), VerifiedAt: now.Add(-5 * time.Second)}),
		kept(dataset.Copy{Snapshot: uuid.New(), Taken: now.Add(-time.Hour), Problem: "from its home, node host-a: no route"}),
	}})
	want := []string{
		"host-b: replica, no data yet",
		"host-b: replica, no data yet, because its pool is offline: absent",
		"host-b: replica, of 15 seconds ago, and nothing was written between then and 5 seconds ago",
		"host-b: replica, of about an hour ago, cannot be refreshed, retrying: from its home, node host-a: no route",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestNextSnapshotLine(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, due := range map[string]time.Time{
		"":                                     {},
		"due now":                              now.Add(-time.Minute),
		"2026-03-01 15:00:00 UTC (in 3 hours)": now.Add(3 * time.Hour),
	} {
		if got := nextSnapshotLine(now, api.Volume{NextSnapshot: due}); got != want {
			t.Errorf("due at %s: got %q, want %q", due, got, want)
		}
	}
}

// TestCreatedLine: a volume that was renamed is not shown as requested under its new name.
func TestCreatedLine(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for requested, want := range map[string]string{"new": "", "": "", "old@gold": ", requested as old@gold", "new@gold": ", requested as new@gold"} {
		v := api.Volume{Dataset: dataset.Dataset{Volume: "new", RequestedAs: requested, Created: at}}
		if got := createdLine(at.Add(time.Hour), v); got != "2026-03-01 12:00:00 UTC (about an hour ago)"+want {
			t.Errorf("requested as %q: %q", requested, got)
		}
	}
}

// The lines about verifications are about the scheduled ones: others are in the list of backups.
func TestLinesAboutScheduledVerifications(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := api.Volume{Backups: &api.BackupState{Verify: &api.VerifyState{}}}
	if got := verifyLines(now, v)[0]; got != "last scheduled verification: none" {
		t.Error(got)
	}
	v.Backups.Verify.Last = now.Add(-time.Hour)
	if got := verifyLines(now, v)[0]; !strings.HasPrefix(got, "last scheduled verification: 2026-03-01 11:00:00 UTC") {
		t.Error(got)
	}
}

func TestStatusOfAVolume(t *testing.T) {
	for name, c := range map[string]struct {
		status *dataset.DatasetStatus
		want   string
	}{
		"not reported":    {nil, "unknown"},
		"not used":        {&dataset.DatasetStatus{}, "idle"},
		"pool is offline": {&dataset.DatasetStatus{Problem: "pool fast is offline: its disk fails"}, "offline"},
		"other problem":   {&dataset.DatasetStatus{Mounted: true, Problem: "its filesystem is read-only"}, "problem"},
		"mounted":         {&dataset.DatasetStatus{Mounted: true}, "mounted"},
		"used":            {&dataset.DatasetStatus{Mounted: true, Mounts: make([]dataset.Mount, 2)}, "in use by 2"},
	} {
		if got := status(&api.VolumeSummary{PoolName: "fast", Status: c.status}); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if got := status(&api.VolumeSummary{PoolName: "fast", Status: c.status, Unreachable: true}); got != "unreachable" {
			t.Errorf("%s, and its home is unreachable: %s", name, got)
		}
	}
}

// A use is shown with its engine and its mount ID, if these are known.
func TestMountLines(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := &cli.App{Now: func() time.Time { return now }}
	got := mountLines(a, api.Volume{Status: &dataset.DatasetStatus{Mounted: true, Mounts: []dataset.Mount{
		{Count: 2, Since: now},
		{ID: "0011aabb", Count: 1, Since: now, Engine: "docker", Names: []string{"db", "old@gold"}},
		{ID: "job", Count: 1, Since: now, Unverified: true},
	}}})
	want := []string{
		"(no ID) since just now, 2 times",
		"docker mount ID 0011aabb since just now, as db and old@gold",
		"mount ID job since just now, unverified: it may have ended",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// TestFindInTrash: a name means the only dataset that can still be restored, and datasets that wait for their deletion
// do not make it ambiguous.
func TestFindInTrash(t *testing.T) {
	in := func(digit, name, pool string, state dataset.State) api.Volume {
		id := uuid.MustParse(strings.Repeat(digit, 8) + "-0000-4000-8000-000000000001")
		return api.Volume{
			Dataset: dataset.Dataset{ID: id, Volume: name, State: state}, Node: "alpha", PoolName: pool,
		}
	}
	const trashed, purging = dataset.StateTrashed, dataset.StatePurging
	one, two := in("a", "db", "fast", trashed), in("b", "db", "slow", trashed)
	waits, waits2 := in("c", "db", "fast", purging), in("d", "db", "slow", purging)
	web := in("e", "web", "fast", trashed)
	for name, c := range map[string]struct {
		trash []api.Volume
		ref   string
		want  api.Volume
		err   *dataset.Kind
		says  []string
	}{
		"by name":                          {[]api.Volume{one, web}, "db", one, nil, nil},
		"by a prefix of the UUID":          {[]api.Volume{one, two}, "BBBBBBBB", two, nil, nil},
		"not there":                        {[]api.Volume{web}, "db", api.Volume{}, dataset.ErrNotFound, []string{`no such dataset in the trash: "db"`, "web"}},
		"two of that name":                 {[]api.Volume{one, web, two}, "db", api.Volume{}, dataset.ErrAmbiguous, []string{"in pool fast of node alpha", "in pool slow of node alpha", "aaaaaaaa", "drover trash purge bbbbbbbb --dry-run"}},
		"one waits for its deletion":       {[]api.Volume{waits, one}, "db", one, nil, nil},
		"several wait for their deletion":  {[]api.Volume{waits, one, waits2}, "db", one, nil, nil},
		"the only one waits":               {[]api.Volume{waits, web}, "db", waits, nil, nil},
		"all wait":                         {[]api.Volume{waits, waits2}, "db", api.Volume{}, dataset.ErrAmbiguous, []string{"cccccccc", "dddddddd"}},
		"by the UUID of one that waits":    {[]api.Volume{waits, one}, waits.ID.String(), waits, nil, nil},
		"two of that name, and one waits":  {[]api.Volume{one, two, waits}, "db", api.Volume{}, dataset.ErrAmbiguous, []string{"aaaaaaaa", "bbbbbbbb"}},
		"one of another name waits for it": {[]api.Volume{waits, web}, "web", web, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]api.Volume{}, c.trash...)
			got, err := findInTrash(c.trash, c.ref)
			if got.ID != c.want.ID || (err == nil) != (c.err == nil) || err != nil && !errors.Is(err, c.err) {
				t.Fatalf("%s (%v), want %s (%v)", got.ID, err, c.want.ID, c.err)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v, want %q in it", err, text)
				}
			}
			for i := range before { // the caller purges the rest of the list
				if c.trash[i].ID != before[i].ID {
					t.Fatal("it changed the list")
				}
			}
		})
	}
}

// The hint on stopped containers names the spellings of the dropped alias that the engine of the home knows. Without
// such a spelling there is no hint.
func TestStrandedHint(t *testing.T) {
	v := &api.Volume{Node: "web-1", Status: &dataset.DatasetStatus{EngineAliases: []string{"first", "old", "old@gold"}}}
	want := "; if a stopped container on node web-1 has this name, it cannot start any more (docker ps -a " +
		"--filter volume=old --filter volume=old@gold there shows it)"
	if got := strandedHint(v, "old"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, v := range []*api.Volume{nil, {}, {Status: &dataset.DatasetStatus{}}, v} {
		if got := strandedHint(v, "other"); got != "" {
			t.Errorf("%q", got)
		}
	}
}

// sharedMountLines names the hosts that have mounted a volume besides its home, and the command for a host that is
// lost. The status in a list counts their uses.
func TestSharedMountLines(t *testing.T) {
	a := &cli.App{Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }}
	stay := dataset.SharedMount{Since: a.Now().Add(-5 * time.Minute)}
	v := api.Volume{
		Dataset: dataset.Dataset{Profile: dataset.Profile{Access: dataset.AccessMany}},
		Status:  &dataset.DatasetStatus{Mounted: true, Mounts: []dataset.Mount{{ID: "x", Count: 1}}},
		SharedMountDetails: []api.SharedMountDetail{
			{SharedMount: stay, NodeName: "host-b", MountCount: 2, Problem: "it was restored since"},
			{SharedMount: stay, NodeName: "host-c", MountCount: 1, Unreachable: true},
			{SharedMount: stay, NodeName: "host-d", Unreachable: true, Fenced: true},
		},
	}
	listed := func(v api.Volume) string { s := v.Summary(); return status(&s) }
	want := []string{
		"host-b, mounted 2 times, since 5 minutes ago: it was restored since",
		"host-c, mounted once, since 5 minutes ago; unreachable (once it is off for good: drover node fence " +
			"host-c)",
		"host-d, mounted 0 times, since 5 minutes ago; unreachable, and confirmed as fenced",
	}
	if got := sharedMountLines(a, v); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := listed(v); got != "in use by 4 on 3" {
		t.Errorf("a list says %q", got)
	}
	v.SharedMountDetails[2].MountCount = 5 // the last report of the host before it was fenced
	if got := listed(v); got != "in use by 4 on 3" {
		t.Errorf("with the mounts of a fenced host, a list says %q", got)
	}
	v.SharedMountDetails = []api.SharedMountDetail{{SharedMount: stay, NodeName: "host-a", Exclusive: true}}
	if got := sharedMountLines(a, v); !slices.Equal(got, []string{"host-a has exclusive use, since 5 minutes ago"}) {
		t.Errorf("%q", got)
	}
	if got := listed(v); got != "in use by 1" {
		t.Errorf("a list says %q", got)
	}
	if got := cli.AccessLine(v.Profile.Access) + cli.AccessLine(""); got != "many hosts at once" {
		t.Errorf("%q", got)
	}
}

// TestRates computes rates from two readings that are two seconds apart.
func TestRates(t *testing.T) {
	io := func(operations, bytes uint64, took time.Duration) api.IO {
		return api.IO{Operations: operations, Bytes: bytes, Time: dataset.Duration(took)}
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		was, is     api.IO
		wasAt, isAt time.Time
		want        *ioRate
		cells       []string
	}{
		"busy": {
			io(10, 1000, time.Second), io(30, 1000+8<<20, 2*time.Second), start, start.Add(2 * time.Second),
			&ioRate{Operations: 10, Bytes: 4 << 20, Latency: 0.05}, []string{"10", "4MiB", "50.00ms"},
		},
		"idle": {
			io(10, 1000, time.Second), io(10, 1000, time.Second), start, start.Add(2 * time.Second),
			&ioRate{}, []string{"0", "0B", ""},
		},
		"slow": {
			io(10, 0, 0), io(11, 512, 0), start, start.Add(2 * time.Second),
			&ioRate{Operations: 0.5, Bytes: 256}, []string{"0.5", "256B", ""},
		},
		"attached again": {
			io(10, 1000, time.Second), io(3, 2000, 2*time.Second), start, start.Add(2 * time.Second),
			nil, []string{"", "", ""},
		},
		"attached between the readings": {
			api.IO{}, io(3, 2000, time.Second), time.Time{}, start, nil, []string{"", "", ""},
		},
		"no block device":        {cells: []string{"", "", ""}},
		"the clock was set back": {io(1, 1, 1), io(2, 2, 2), start, start.Add(-time.Hour), nil, []string{"", "", ""}},
	} {
		s := statsOf(api.Volume{}, api.VolumeIO{At: tc.wasAt, Write: tc.was}, api.VolumeIO{At: tc.isAt, Write: tc.is})
		if d := cmp.Diff(tc.want, s.Write); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		var cells []string
		for _, c := range rateColumns("WRITE", func(s volumeStats) *ioRate { return s.Write }) {
			cells = append(cells, c.Cell(s))
		}
		if d := cmp.Diff(tc.cells, cells); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
