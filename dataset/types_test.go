package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func someFacts() Facts {
	return Facts{
		Node: uuid.UUID{1}, Taken: time.Unix(1, 0), Architecture: "x86_64", Kernel: "6.1", OS: "debian", OSVersion: "12", Engine: "28.0", CPUs: 4,
		MemoryTotal: 100 << 30, MemoryFree: 50 << 30, Load1: 20, Load10: 20, Load15: 20, Backends: []string{"dir", "loop"},
		Pools: []PoolFacts{{ID: uuid.UUID{2}, Name: "fast", Backend: "loop", Online: true, Size: 1000, Free: 500}},
	}
}

func TestFactsDifferByTenPercent(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(*Facts) // changes what is on record
		change func(*Facts)
		want   bool
	}{
		{"nothing", nil, func(*Facts) {}, false},
		{"time alone", nil, func(f *Facts) { f.Taken = time.Unix(999, 0) }, false},
		{"load a bit up", nil, func(f *Facts) { f.Load1 = 21.9 }, false},
		{"load 10 % up", nil, func(f *Facts) { f.Load1 = 22 }, true},
		{"load 10 % down", nil, func(f *Facts) { f.Load10 = 18 }, true},
		{"load a bit down", nil, func(f *Facts) { f.Load15 = 18.1 }, false},
		{"load of 15", nil, func(f *Facts) { f.Load15 = 30 }, true},
		{"each a bit", nil, func(f *Facts) { f.Load1, f.Load10, f.MemoryFree = 21, 21, 47<<30 }, false},
		{"idle, noise", func(f *Facts) { f.Load1 = 0.01 }, func(f *Facts) { f.Load1 = 0.3 }, false},
		{"idle no more", func(f *Facts) { f.Load1 = 0 }, func(f *Facts) { f.Load1 = 0.4 }, true},
		{"memory 10 % less", nil, func(f *Facts) { f.MemoryFree = 45 << 30 }, true},
		{"memory a bit less", nil, func(f *Facts) { f.MemoryFree = 46 << 30 }, false},
		{"memory short, noise", func(f *Facts) { f.MemoryFree = 1 << 30 }, func(f *Facts) { f.MemoryFree = 1<<30 + 1<<29 }, false},
		{"memory short, more", func(f *Facts) { f.MemoryFree = 1 << 30 }, func(f *Facts) { f.MemoryFree = 2 << 30 }, true},
		{"more memory in all", nil, func(f *Facts) { f.MemoryTotal = 110 << 30 }, true},
		{"kernel", nil, func(f *Facts) { f.Kernel = "6.12" }, true},
		{"engine", nil, func(f *Facts) { f.Engine = "" }, true},
		{"architecture", nil, func(f *Facts) { f.Architecture = "aarch64" }, true},
		{"os", nil, func(f *Facts) { f.OS = "alpine" }, true},
		{"os version", nil, func(f *Facts) { f.OSVersion = "13" }, true},
		{"virtual", nil, func(f *Facts) { f.Virtual = true }, true},
		{"node", nil, func(f *Facts) { f.Node = uuid.UUID{7} }, true},
		{"swarm", nil, func(f *Facts) { f.Swarm = "x" }, true},
		{"one CPU more", nil, func(f *Facts) { f.CPUs = 5 }, true},
		{"backends", nil, func(f *Facts) { f.Backends = []string{"dir"} }, true},
		{"pool gone", nil, func(f *Facts) { f.Pools = nil }, true},
		{"pool full", nil, func(f *Facts) { f.Pools[0].Free = 0 }, true},
		{"pool a bit fuller", nil, func(f *Facts) { f.Pools[0].Free = 460 }, false},
		{"pool 10 % fuller", nil, func(f *Facts) { f.Pools[0].Free = 450 }, true},
		{"nearly full, noise", func(f *Facts) { f.Pools[0].Free = 10 }, func(f *Facts) { f.Pools[0].Free = 3 }, false},
		{"nearly full, room", func(f *Facts) { f.Pools[0].Free = 10 }, func(f *Facts) { f.Pools[0].Free = 20 }, true},
		{"pool grown", nil, func(f *Facts) { f.Pools[0].Size = 1100 }, true},
		{"pool offline", nil, func(f *Facts) { f.Pools[0].Online = false }, true},
		{"another pool", nil, func(f *Facts) { f.Pools[0].ID = uuid.UUID{9} }, true},
		{"pool renamed", nil, func(f *Facts) { f.Pools[0].Name = "slow" }, true},
		{"pool of another kind", nil, func(f *Facts) { f.Pools[0].Backend = "dir" }, true},
	} {
		was, is := someFacts(), someFacts()
		if c.before != nil {
			c.before(&was)
			c.before(&is)
		}
		c.change(&is)
		if got := was.Differ(is); got != c.want {
			t.Errorf("%s: differ %v", c.name, got)
		}
	}
}

func TestNoFactsDifferFromAny(t *testing.T) {
	if !(Facts{}).Differ(someFacts()) {
		t.Error("what was never told does not differ from what is")
	}
}

var containerID = strings.Repeat("0123456789abcdef", 4)

func TestHolderSaysWhoAndHowToFree(t *testing.T) {
	for name, c := range map[string]struct {
		holder           Holder
		name, says, free string
	}{
		"container": {
			Holder{Kind: HolderContainer, PID: 7, Command: "sleep", User: "root", Path: "/data", Container: containerID, Engine: "docker"}, "web",
			"docker container web (0123456789ab) at /data: process 7 (sleep, root)", "docker stop web",
		},
		"container without a name": {
			Holder{Kind: HolderContainer, PID: 7, Command: "sleep", User: "root", Path: "/data", Container: containerID, Engine: "podman"}, "",
			"podman container 0123456789ab at /data: process 7 (sleep, root)", "podman stop 0123456789ab",
		},
		"container of another engine": {
			Holder{Kind: HolderContainer, PID: 7, Command: "sleep", User: "root", Container: containerID}, "",
			"container 0123456789ab: process 7 (sleep, root)", "stop the container",
		},
		"open file": {
			Holder{Kind: HolderProcess, PID: 8, Command: "tail", User: "1234", Path: "log/a"}, "",
			"process 8 (tail, 1234) has log/a open", "end process 8",
		},
		"top folder": {
			Holder{Kind: HolderProcess, PID: 8, Command: "sleep", User: "root", Path: "."}, "",
			"process 8 (sleep, root) works in the top folder of the volume, or has it open", "end process 8",
		},
		"open file without a path": {
			Holder{Kind: HolderProcess, PID: 8, Command: "tail", User: "1234"}, "",
			"process 8 (tail, 1234) has a file open, whose path cannot be shown", "end process 8",
		},
		"mount namespace": {
			Holder{Kind: HolderMount, PID: 9, Command: "sh", User: "root", MountNamespace: 4026531841, Path: "/mnt/it's here"}, "",
			"a mount at /mnt/it's here in mount namespace 4026531841 of process 9 (sh, root)",
			`umount -N 9 '/mnt/it'\''s here'`,
		},
		"hidden mount namespace": {
			Holder{Kind: HolderMount, PID: 9, Command: "sh", User: "root", Path: "/mnt"}, "",
			"a mount at /mnt in the unknown mount namespace of process 9 (sh, root)", "umount -N 9 /mnt",
		},
		"mount without a path": {
			Holder{Kind: HolderMount, PID: 9, Command: "sh", User: "root", MountNamespace: 5}, "",
			"a mount in mount namespace 5 of process 9 (sh, root)", "end process 9",
		},
		"host": {Holder{Kind: HolderMount, Path: "/srv"}, "", "a mount of the host at /srv", "umount /srv"},
		"device": {
			Holder{Kind: HolderDevice, Device: "/dev/loop3", Path: "disk.img"}, "",
			"/dev/loop3 is attached to disk.img", "losetup -d /dev/loop3",
		},
		"device-mapper": {
			Holder{Kind: HolderDevice, Device: "/dev/mapper/vg-a b", Path: "disk.img"}, "",
			"/dev/mapper/vg-a b is attached to disk.img", "dmsetup remove 'vg-a b'",
		},
		"RAID": {
			Holder{Kind: HolderDevice, Device: "/dev/md7"}, "",
			"/dev/md7 is attached to a file of it", "mdadm --stop /dev/md7",
		},
		"other device": {
			Holder{Kind: HolderDevice, Device: "/dev/bcache0"}, "",
			"/dev/bcache0 is attached to a file of it", "stop /dev/bcache0",
		},
	} {
		if got := c.holder.Describe(c.name); got != c.says {
			t.Errorf("%s: got %q, want %q", name, got, c.says)
		}
		if got := c.holder.HowToFree(c.name); got != c.free {
			t.Errorf("%s: got %q, want %q", name, got, c.free)
		}
	}
}

func TestHoldersAreBounded(t *testing.T) {
	var l Holders
	if !l.IsEmpty() {
		t.Error("an examination without a holder is not empty")
	}
	for i := range 2 * MaxHolders {
		l.Add(Holder{Kind: HolderProcess, PID: i + 1, Command: strings.Repeat("x", 300), Path: strings.Repeat("y", 300)})
		l.AddUnexamined(strings.Repeat("z", 300) + "\nz")
	}
	if len(l.List) != MaxHolders || l.Total != 2*MaxHolders || len(l.Unexamined) != MaxHolders || !l.IsBounded() {
		t.Errorf("%d of %d holders, %d lines, bounded %t", len(l.List), l.Total, len(l.Unexamined), l.IsBounded())
	}
	if l.List[0].Path != "" { // no command may name a part of a path
		t.Errorf("path %q", l.List[0].Path)
	}
	for name, long := range map[string]Holders{
		"list":  {List: make([]Holder, MaxHolders+1)},
		"lines": {Unexamined: make([]string, MaxHolders+1)},
		"line":  {Unexamined: []string{strings.Repeat("z", maxClip+1)}},
		"path":  {List: []Holder{{Path: strings.Repeat("z", maxClip+1)}}},
	} {
		if long.IsBounded() {
			t.Errorf("%s: too long, and accepted", name)
		}
	}
}

// TestHoldersAreSafeOnTerminal: a process chooses its name, and a container chooses the names of its files. Neither may
// reach the terminal with control characters.
func TestHoldersAreSafeOnTerminal(t *testing.T) {
	var l Holders
	l.Add(Holder{Kind: HolderProcess, PID: 7, Command: "a\x1b[2Jb", User: "root", Path: "log\n\x1b[31m"})
	l.AddUnexamined("process \x07")
	want := "process 7 (a?[2Jb, root) has a file open, whose path cannot be shown (to free it: end process 7); " +
		"not examined, and may use it: process ?"
	if got := l.Summary(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestContainerIsListedOnce(t *testing.T) {
	var l Holders
	l.Add(Holder{Kind: HolderContainer, PID: 1, Container: containerID})
	l.Add(Holder{Kind: HolderContainer, PID: 2, Container: containerID, Path: "/data"})
	l.Add(Holder{Kind: HolderProcess, PID: 3})
	if l.Total != 2 || l.List[0].PID != 1 || l.List[0].Path != "/data" {
		t.Errorf("%+v", l)
	}
}

// TestSummaryNamesFirstHolders: a summary names the first holders, and counts the others.
func TestSummaryNamesFirstHolders(t *testing.T) {
	var l Holders
	for pid := range 5 {
		l.Add(Holder{Kind: HolderProcess, PID: pid, Command: "sh", User: "root", Path: "a"})
	}
	l.AddUnexamined("process 9")
	l.AddUnexamined("process 10")
	want := "process 0 (sh, root) has a open (to free it: end process 0); " +
		"process 1 (sh, root) has a open (to free it: end process 1); " +
		"process 2 (sh, root) has a open (to free it: end process 2); " +
		"2 further holders; not examined, and may use it: process 9"
	if got := l.Summary(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := new(Holders).Summary(); got != "" {
		t.Errorf("no holders: %q", got)
	}
}

func TestUnexaminedIsNotEmpty(t *testing.T) {
	var l Holders
	if l.AddUnexamined("process 3 (x) cannot be examined"); l.IsEmpty() {
		t.Error("it counts as unused")
	}
}

func TestHoldersTravelWithError(t *testing.T) {
	want := Holders{Node: "host-a", List: []Holder{{Kind: HolderProcess, PID: 3}}, Total: 1}
	err := fmt.Errorf("rm: %w", WithHolders(Errorf(ErrInUse, "volume db is in use"), want))
	record, jsonErr := json.Marshal(ProblemOf(err))
	var read Problem
	if jsonErr = errors.Join(jsonErr, json.Unmarshal(record, &read)); jsonErr != nil {
		t.Fatal(jsonErr)
	}
	for _, err := range []error{err, read.Err()} {
		if got := HoldersOf(err); KindOf(err) != ErrInUse || got == nil || !reflect.DeepEqual(*got, want) ||
			err.Error() != "rm: volume db is in use" {
			t.Errorf("%v of kind %v with %+v", err, KindOf(err), got)
		}
	}
	if HoldersOf(errors.New("x")) != nil || HoldersOf(nil) != nil {
		t.Error("an error without holders has some")
	}
}

var noon = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

// A new snapshot is later than the others of its epoch, even if the clock was set back. Snapshots of other epochs do
// not count, because their homes have other clocks.
func TestTakenAfter(t *testing.T) {
	later := noon.Add(time.Hour)
	for epoch, want := range map[uint64]Moment{2: {3, noon}, 3: {3, later.Add(1)}, 4: {3, noon}} {
		others := []Snapshot{{ID: uuid.New(), Epoch: epoch, Created: later}}
		if got := (Snapshot{Epoch: 3}).TakenAfter(others, noon).At(); got.Compare(want) != 0 {
			t.Errorf("after one of epoch %d: %v, want %v", epoch, got, want)
		}
	}
}

// A snapshot is part of a loss if it is later than the moment from which the dataset continues, and if its epoch ended
// with the loss or earlier.
func TestLossOf(t *testing.T) {
	l := Loss{Epoch: 2, Taken: noon, EndedEpoch: 3}
	for _, c := range []struct {
		epoch uint64
		at    time.Time
		want  bool
	}{
		{1, noon.Add(time.Hour), false},
		{2, noon, false},
		{2, noon.Add(1), true},
		{3, noon.Add(-time.Hour), true},
		{4, noon.Add(time.Hour), false},
	} {
		if got := l.Includes(Snapshot{ID: uuid.New(), Epoch: c.epoch, Created: c.at}); got != c.want {
			t.Errorf("epoch %d, %s: lost %t", c.epoch, c.at, got)
		}
	}
}

// The store records the first complete snapshot of a copy and each new epoch, and otherwise one state in each period.
func TestMustRecord(t *testing.T) {
	was := Copy{Snapshot: uuid.New(), Epoch: 2, Taken: noon}
	for name, c := range map[string]struct {
		was, is Copy
		want    bool
	}{
		"the first":     {Copy{Epoch: 2, Taken: noon}, was, true},
		"a new epoch":   {was, Copy{Epoch: 3, Taken: noon}, true},
		"soon after":    {was, Copy{Epoch: 2, Taken: noon.Add(copyEvery - 1)}, false},
		"now and then":  {was, Copy{Epoch: 2, Taken: noon.Add(copyEvery)}, true},
		"set back":      {was, Copy{Epoch: 2, Taken: noon.Add(-copyEvery)}, true},
		"set back some": {was, Copy{Epoch: 2, Taken: noon.Add(1 - copyEvery)}, false},
	} {
		if got := c.is.MustRecord(c.was); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// The error for a pool that is not empty lists what the pool contains, and for each item how to remove it.
func TestPoolNotEmpty(t *testing.T) {
	id := uuid.MustParse("e1bd1e04-0000-4000-8000-000000000001")
	volume := func(s State) PoolContent { return Dataset{ID: id, Volume: "shop", State: s}.PoolContent() }
	kept := func(k CopyKind) PoolContent { return Copy{Dataset: id, Kind: k}.PoolContent("shop", "host-a") }
	stray := PoolContent{"/srv/stray, which is not drover's", "remove it yourself"}
	long := PoolContent{strings.Repeat("x", 180), "y"}
	for want, contents := range map[string][]PoolContent{
		"volume shop: drover volume rm shop --dry-run":                                                                                       {volume(StateReady)},
		"volume shop (in the trash, e1bd1e04): drover trash purge e1bd1e04 --dry-run":                                                        {volume(StateTrashed)},
		"the remaining data of volume shop (purged, e1bd1e04): removed automatically, try again soon":                                        {volume(StatePurging)},
		"a replica of volume shop: delete the volume, or run drover node drain host-a":                                                       {kept(CopyReplica)},
		"a superseded copy of volume shop: drover copy mount " + id.String() + " host-a shows it":                                            {kept(CopySuperseded)},
		"a copy of volume shop from before a move: removed automatically some time after the move":                                           {kept(CopyLeft)},
		"the remaining data of a copy of volume shop: removed automatically, try again soon":                                                 {kept(CopyCondemned)},
		"/srv/stray, which is not drover's: remove it yourself; /srv/stray, which is not drover's: remove it yourself":                       {stray, stray},
		stray.What + ": " + stray.Remedy + "; " + strings.Repeat(stray.What+": "+stray.Remedy+"; ", 2) + "and 2 more":                        {stray, stray, stray, stray, stray},
		long.What + ": y; " + long.What + ": y; and 1 more":                                                                                  {long, long, long},
		"volume shop (in the trash, e1bd1e04): drover trash purge e1bd1e04 --dry-run; /srv/stray, which is not drover's: remove it yourself": {volume(StateTrashed), stray},
	} {
		err := PoolNotEmpty("dd", contents)
		if !errors.Is(err, ErrConflict) || err.Error() != "pool dd holds "+want || len(err.Error()) > 400 {
			t.Errorf("%v\nwant pool dd holds %s", err, want)
		}
	}
	assert.NoError(t, PoolNotEmpty("dd", nil))
}

func TestQoSInWords(t *testing.T) {
	for want, q := range map[string]QoS{
		"":                                     {Strict: true},
		"read 5000 IOPS":                       {ReadIOPS: 5000},
		"write 2000 IOPS and 100MiB/s":         {WriteIOPS: 2000, WriteBPS: 100 * MiB},
		"read 200MiB/s, write 10 IOPS, strict": {ReadBPS: 200 * MiB, WriteIOPS: 10, Strict: true},
	} {
		if got := q.String(); got != want || q.Limited() != (want != "") {
			t.Errorf("%+v: %q and limited %t, want %q", q, got, q.Limited(), want)
		}
	}
}

// The keys of a summary are those of the record, also the earlier ones.
func TestSummaryHasKeysOfDataset(t *testing.T) {
	for _, pair := range [][2]reflect.Type{
		{reflect.TypeFor[Summary](), reflect.TypeFor[Dataset]()},
		{reflect.TypeFor[ProfileSummary](), reflect.TypeFor[Profile]()},
	} {
		for _, f := range reflect.VisibleFields(pair[0]) {
			whole, ok := pair[1].FieldByName(f.Name)
			if !ok {
				t.Errorf("%s has no field %s", pair[1], f.Name)
				continue
			}
			for _, key := range []string{"json", "old"} {
				if got, want := f.Tag.Get(key), whole.Tag.Get(key); got != want {
					t.Errorf("%s.%s: got tag %s:%q, want %q", pair[0], f.Name, key, got, want)
				}
			}
			if f.Type != whole.Type && f.Name != "Profile" {
				t.Errorf("%s.%s: got type %s, want %s", pair[0], f.Name, f.Type, whole.Type)
			}
		}
	}
}

// A summary that is decoded from a record has the values of the record, and no field is forgotten.
func TestSummaryOfRecord(t *testing.T) {
	d := Dataset{
		ID: uuid.New(), Volume: "db", Aliases: []string{"old"}, State: StateTrashed,
		Profile: Profile{Name: "gold", Size: 1, Access: AccessMany, Backend: "loop", Filesystem: Filesystem{Type: "ext4"}, Revision: "0123456789ab", Replicas: Replicas{Count: 1}},
		Size:    2, Labels: map[string]string{"a": "b"}, Protected: true, Home: uuid.New(), Pool: uuid.New(), Epoch: 3,
		SharedMounts: []SharedMount{{Node: uuid.New()}}, Created: time.Unix(4, 0).UTC(),
		Trash: &Trash{At: time.Unix(5, 0).UTC()}, Copies: []uuid.UUID{uuid.New()}, Request: uuid.New(),
	}
	text, err := json.Marshal(d)
	require.NoError(t, err)
	var s Summary
	require.NoError(t, DecodeRecord(text, &s))
	want := d
	want.Profile = Profile{Name: "gold", Size: 1, Filesystem: d.Profile.Filesystem, Access: AccessMany, Replicas: Replicas{Count: 1}}
	want.Request = uuid.Nil
	if got := s.Dataset(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%s is empty: the test must set it", v.Type().Field(i).Name)
		}
	}
}
