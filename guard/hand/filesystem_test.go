package hand

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// typed sets the filesystem type and the source of an entry.
func typed(e *mount.Entry, fstype, source string) *mount.Entry {
	e.FSType, e.Source = fstype, source
	return e
}

// If nothing is mounted on the paths of a dataset, its filesystem is the one that Bind found there, unless
// another mount shows that the device number belongs to another filesystem now.
func TestFilesystem(t *testing.T) {
	was := mount.Filesystem{Minor: 91, Root: "/", Identity: mount.Identity{Type: "zfs", Source: "tank/db"}}
	old := mount.Filesystem{Minor: 91, Root: "/"} // from a guard that recorded no identity
	at := func(point, fstype, source string) mount.Mounts {
		return mount.Mounts{typed(entry(1, 0, 91, "/", point, "rw"), fstype, source)}
	}
	for name, c := range map[string]struct {
		own  mount.Mounts
		was  mount.Filesystem
		want bool
	}{
		"mounted":                      {at("/m", "zfs", "tank/db"), mount.Filesystem{}, true},
		"gone":                         {nil, was, true},
		"mounted elsewhere":            {at("/other", "zfs", "tank/db"), was, true},
		"the number is of another ZFS": {at("/other", "zfs", "tank/other"), was, false},
		"the number is of an overlay":  {at("/other", "overlay", "overlay"), was, false},
		"the identity is not recorded": {at("/other", "zfs", "tank/other"), old, true},
		"never mounted":                {nil, mount.Filesystem{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Paths: []string{"/m"}, Own: true, Filesystem: c.was}
			if got := (&processTable{own: c.own}).filesystem(target); got.ok != c.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Bind records the identity of the filesystem, and a record without one can be read.
func TestBindRecordsTheIdentity(t *testing.T) {
	path := scratch.Mount(t, "xfs", scratch.XFS)
	tool := New(Options{Run: t.TempDir(), Root: t.TempDir()})
	fsys, err := tool.Bind(Target{Paths: []string{path}, Own: true})
	require.NoError(t, err)
	_, err = tool.Bind(Target{Paths: []string{t.TempDir()}})
	assert.ErrorIsf(t, err, dataset.ErrNotFound, "nothing is mounted")
	_, err = tool.Bind(Target{Paths: []string{path, "/proc"}})
	assert.ErrorIsf(t, err, dataset.ErrInvalid, "two filesystems")
	_, err = New(Options{Run: t.TempDir(), Root: path}).Bind(Target{Paths: []string{path}, Own: true})
	assert.ErrorIsf(t, err, dataset.ErrInvalid, "a freeze would stop the guard")
	if fsys.Identity.Type != "xfs" || fsys.Identity.Sequence == "" {
		t.Errorf("%+v", fsys)
	}
	b, err := json.Marshal(Target{Filesystem: fsys})
	require.NoError(t, err)
	var target Target
	if err := json.Unmarshal(b, &target); err != nil || target.Filesystem != fsys {
		t.Errorf("%s: %+v, %v", b, target, err)
	}
	const old = `{"paths":["/m"],"own":true,"filesystem":{"major":7,"minor":1,"root":"/"}}`
	want := Target{Paths: []string{"/m"}, Own: true, Filesystem: mount.Filesystem{Major: 7, Minor: 1, Root: "/"}}
	target = Target{}
	require.NoError(t, json.Unmarshal([]byte(old), &target))
	if d := gocmp.Diff(want, target); d != "" {
		t.Error(d)
	}
}

// A process whose examination hangs gets time to stop before it is killed, and is not killed if it only
// waits for a processor.
func TestHungProcessMayStop(t *testing.T) {
	var s suspects
	p := &process{Process: Process{PID: 4711, Start: 1}, hung: true}
	now := 10 * time.Second
	if s.isStuck(p, now) {
		t.Error("it was not stopped before")
	}
	s.add(Target{}, p.Process, now)
	if s.isStuck(p, now+haltTime-1) || !s.isStuck(p, now+haltTime) {
		t.Errorf("it is stuck: %t after less than %v, %t then", s.isStuck(p, now+haltTime-1), haltTime, s.isStuck(p, now+haltTime))
	}
	if p.hung = false; s.isStuck(p, now+haltTime) {
		t.Error("a process that could not be examined in time is killed")
	}
	running := sleeper(t)
	if cannotStop(running) {
		t.Error("a process that can be stopped counts as one that cannot")
	}
}

// A fence is contained if all holders are stopped, and all other processes could be examined later.
func TestContained(t *testing.T) {
	tool := New(Options{Clock: clock.System{}})
	holder, other := Process{PID: 1 << 30, Start: 1}, &process{Process: Process{PID: 1<<30 + 1, Start: 1}}
	r := rule{suspectHarmless: func(*processTable, *process) bool { return false }}
	for name, c := range map[string]struct {
		harmless, stuck bool
		suspects        []*process
		want            bool
	}{
		"a holder that runs":                {false, false, []*process{other}, false},
		"a process that was not examined":   {true, false, []*process{other}, true},
		"a process that cannot be examined": {true, true, []*process{other}, false},
		"nobody":                            {true, false, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r.holderHarmless = func(*processTable, Process) bool { return c.harmless }
			tool.suspects.queue = map[processKey]*suspect{other.key(): {Process: other.Process, failed: c.stuck, queued: -haltTime}}
			if got := tool.contained(nil, r, []Process{holder}, c.suspects); got != c.want {
				t.Errorf("contained: %t", got)
			}
		})
	}
}

// A process that a debugger has stopped can continue at any time.
func TestTracedProcessResists(t *testing.T) {
	p := sleeper(t)
	debugged(t, p)
	if !cannotStop(p) || isHalted(p) {
		t.Errorf("it cannot stop: %t, it is stopped: %t", cannotStop(p), isHalted(p))
	}
}

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// I2: after a power cut a saved record is complete, and a removed record does not exist.
func TestI2RecordsSurviveAPowerCut(t *testing.T) {
	image := scratch.Image(t, "ext4", scratch.Ext4)
	tool := New(Options{Root: scratch.MountImage(t, "ext4", image)})
	cut := func() map[uuid.UUID][]byte {
		t.Helper()
		all, err := LoadRecords(scratch.CutPower(t, "ext4", image))
		require.NoError(t, err)
		return all
	}
	id := uuid.New()
	require.NoError(t, tool.Save(id, []byte(`{"epoch":3}`)))
	if all := cut(); string(all[id]) != `{"epoch":3}` {
		t.Errorf("saved: %q", all)
	}
	require.NoError(t, tool.Save(id, nil))
	if all := cut(); len(all) != 0 {
		t.Errorf("removed: %q", all)
	}
}

// BenchmarkLook measures one look at all processes of this host, and prints the time for each.
func BenchmarkLook(b *testing.B) {
	tool := New(Options{Run: b.TempDir(), Clock: clock.System{}})
	var processes int
	for b.Loop() {
		w, err := tool.list(nil)
		require.NoError(b, err)
		tool.examineAll(w, time.Second)
		processes = len(w.procs)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(processes), "µs/process")
	b.ReportMetric(float64(processes), "processes")
}

func entry(id, major, minor int, root, point, options string) *mount.Entry {
	return &mount.Entry{ID: id, Major: major, Minor: minor, Root: root, Mountpoint: point, Options: options}
}

func TestParseStat(t *testing.T) {
	b := []byte("42 (a) b (c) T 1 2 3 4 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0\n")
	got, err := parseStat(b)
	if err != nil || got != (stat{comm: "a) b (c", state: 'T', threads: 1, start: 777}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, _ := parseStat([]byte("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n")); !got.kernel {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "42", "42 (a", "42 (a)", "42 (a) S 1 2"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// Each mark is recorded once, and marks keep their order. A mark with a newline is refused. Forget removes
// all marks.
func TestMarks(t *testing.T) {
	tool := New(Options{Run: t.TempDir()})
	id := uuid.New()
	want := []mark{{markFreeze, "-"}, {markV1, "/sys/fs/cgroup/a b"}, {markProcess, "1 2"}}
	for range 2 {
		for _, m := range want {
			require.NoError(t, tool.marks.add(id, m))
		}
	}
	got, err := tool.marks.of(id)
	if d := gocmp.Diff(want, got, gocmp.AllowUnexported(mark{})); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if err := tool.marks.add(id, mark{markV1, "/a\nfreeze -"}); err == nil {
		t.Error("two lines were noted as one")
	}
	require.NoError(t, Forget(tool.Run, id))
	if got, err := tool.marks.of(id); len(got) > 0 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// A written frame is read, however it is cut into pieces. A truncated frame is an error.
func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bytes.Buffer
		sent := rapid.SliceOf(rapid.String()).Draw(t, "sent")
		require.NoError(t, WriteFrame(&b, sent, 1<<20))
		whole := bytes.Clone(b.Bytes())
		cut := rapid.IntRange(0, len(whole)-1).Draw(t, "cut")
		var got []string
		want := io.ErrUnexpectedEOF
		if cut == 0 {
			want = io.EOF
		}
		require.ErrorIsf(t, ReadFrame(bytes.NewReader(whole[:cut]), &got, 1<<20), want, "cut at %d", cut)
		if err := ReadFrame(&b, &got, 1<<20); err != nil || len(got) != len(sent) {
			t.Fatalf("%q, %v; want %q", got, err, sent)
		}
	})
}

func TestFrameBounds(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, "more than ten bytes", 10); !errors.Is(err, dataset.ErrInvalid) || b.Len() > 0 {
		t.Errorf("%v, and %d bytes were sent", err, b.Len())
	}
	for _, in := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x0b\"and more...\"", "\x00\x00\x00\x02{]", "\x00\x00\x00\x00"} {
		var v any
		assert.ErrorIsf(t, ReadFrame(bytes.NewReader([]byte(in)), &v, 10), dataset.ErrInvalid, "%q", in)
	}
}
