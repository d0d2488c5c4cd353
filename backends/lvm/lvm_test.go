package lvm

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// These tests need no device mapper. All others run in the lab.

func TestPathsThatNameNoGroup(t *testing.T) {
	good := backends.Config{Path: "/dev/vg0", Mount: "/mnt"}
	if vg, err := configuredGroup(good); vg != "vg0" || err != nil {
		t.Errorf("%q, %v", vg, err)
	}
	for path, want := range map[string]*dataset.Kind{
		"vg0": dataset.ErrInvalid, "/dev/../etc": dataset.ErrInvalid, "/dev/vg0/": dataset.ErrInvalid,
		"/dev/vg0/lv": dataset.ErrUnsupported, "/srv/pool": dataset.ErrUnsupported, "/dev/-f": dataset.ErrUnsupported,
		"/dev/":        dataset.ErrInvalid,
		"/dev/.hidden": dataset.ErrUnsupported, "/dev/a b": dataset.ErrUnsupported,
		"/dev/" + strings.Repeat("x", 61):  dataset.ErrUnsupported,
		"/dev/x" + strings.Repeat("-", 40): dataset.ErrUnsupported,
	} {
		if _, err := configuredGroup(backends.Config{Path: path, Mount: "/mnt"}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %s", path, err, want.Code)
		}
	}
	for _, cfg := range []backends.Config{{Path: "/dev/vg0"}, {Path: "/dev/vg0", Mount: "/mnt", Image: dataset.GiB}} {
		if _, err := configuredGroup(cfg); err == nil {
			t.Errorf("%+v is fine", cfg)
		}
	}
}

// The device mapper accepts the longest possible name of a device.
func TestNamesFit(t *testing.T) {
	for _, vg := range []string{strings.Repeat("x", 60), strings.Repeat("x-", 23)} {
		_, err := configuredGroup(backends.Config{Path: "/dev/" + vg, Mount: "/mnt"})
		require.NoError(t, err)
		p := &Pool{vg: vg}
		if n := len(p.device(namePrefix + strings.Repeat("0", 32))); n > 127-len("-real") {
			t.Errorf("%d characters", n)
		}
	}
}

func TestWhatAThinPoolSays(t *testing.T) {
	p := &Pool{name: "fast", vg: "vg0", extent: 4 * dataset.MiB}
	for status, want := range map[string]string{
		"3 100/1000 10/100 - rw discard_passdown error_if_no_space - 1024":                "",
		"3 100/1000 80/100 - rw discard_passdown error_if_no_space - 1024":                "",
		"3 100/1000 81/100 - rw discard_passdown error_if_no_space - 1024":                "lvextend --size",
		"3 801/1000 10/100 - rw discard_passdown error_if_no_space - 1024":                "lvextend --poolmetadatasize",
		"3 100/1000 10/100 - out_of_data_space discard_passdown error_if_no_space - 1024": "lvextend --size",
		"3 100/1000 10/100 - ro discard_passdown error_if_no_space needs_check 1024":      "lvconvert --repair vg0/drover_pool",
		"Fail":  "lvconvert --repair vg0/drover_pool",
		"Error": "lvconvert --repair vg0/drover_pool",
	} {
		u, err := parseUsage(dm.Target{Type: "thin-pool", Status: status}, 64*dataset.KiB)
		if err != nil {
			t.Errorf("%s: %v", status, err)
			continue
		}
		err = p.checkThinPool(u)
		if (err == nil) != (want == "") || want != "" &&
			(!errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", status, err, want)
		}
	}
	u, _ := parseUsage(dm.Target{Type: "thin-pool", Status: "3 100/1000 10/100 - rw a b - 1024"}, 64*dataset.KiB)
	if u.data != 640*dataset.KiB || u.dataOf != 6400*dataset.KiB || u.metadata != 400*dataset.KiB ||
		u.metadataOf != 4000*dataset.KiB {
		t.Errorf("%+v", u)
	}
	for _, odd := range []dm.Target{{}, {Type: "linear", Status: "3 1/2 3/4"}, {Type: "thin-pool", Status: "3 x"}} {
		if _, err := parseUsage(odd, 64*dataset.KiB); err == nil {
			t.Errorf("%+v was read", odd)
		}
	}
}

// The metadata of a pool is sufficient for four times its blocks, and there is room for the spare metadata.
func TestPlan(t *testing.T) {
	p := &Pool{vg: "vg0", extent: 4 * dataset.MiB}
	for _, free := range []dataset.Size{
		dataset.GiB, 10 * dataset.GiB, 400 * dataset.GiB, 3 * dataset.TiB, 60 * dataset.TiB,
	} {
		for _, stripes := range []int{1, 3} {
			l, err := p.planLayout(free, stripes)
			require.NoError(t, err)
			if l.data%(p.extent*dataset.Size(stripes)) != 0 || l.metadata%p.extent != 0 {
				t.Errorf("%s: %+v are no whole extents", free, l)
			}
			if all := l.data + 2*l.metadata; all > free*98/100 || all < free*94/100 {
				t.Errorf("%s: %s of it are taken", free, all.Human())
			}
			if l.metadata < l.data/l.block*256 || l.metadata > 4*dataset.GiB || l.block < 64*dataset.KiB ||
				l.block > dataset.GiB {
				t.Errorf("%s: %+v", free, l)
			}
		}
	}
	if _, err := p.planLayout(200*dataset.MiB, 1); !errors.Is(err, dataset.ErrNoSpace) {
		t.Errorf("of next to nothing: %v", err)
	}
}

// answersWith returns a runner that gives the same answer to every command.
func answersWith(code int, stdout, stderr string) fakes.Run {
	return func(_ context.Context, c run.Command) (run.Result, error) {
		if c.Stdout != nil {
			_, _ = c.Stdout.Write([]byte(stdout))
		}
		if code == 0 {
			return run.Result{}, nil
		}
		return run.Result{}, &run.Error{
			Cmd:      c.Name,
			Args:     c.Args,
			ExitCode: code,
			Stderr:   stderr,
			Err:      errors.New("exit status"),
		}
	}
}

// If LVM fails for another reason, the object does not count as absent.
func TestUnknownIsNotAbsent(t *testing.T) {
	for stderr, want := range map[string]bool{
		`  Volume group "vg0" not found` + "\n  Cannot process volume group vg0\n": true,
		"  Failed to find logical volume \"vg0/x\"\n":                              true,
		"  /usr/sbin/thin_check: not found\n":                                      false,
		"  Couldn't find device with uuid abc.\n":                                  false,
		"": false,
	} {
		_, _, err := newTool(answersWith(5, "", stderr)).readGroup(t.Context(), "vg0")
		if errors.Is(err, errAbsent) != want || err == nil {
			t.Errorf("%q: %v", stderr, err)
		}
	}
	_, _, err := newTool(answersWith(3, "", `Volume group "vg0" not found`)).readGroup(t.Context(), "vg0")
	if errors.Is(err, errAbsent) {
		t.Error("another exit code is taken for it")
	}
	for _, said := range []string{"", "{", `{"report":[{"vg":[]}]}`, `{"report":[{"vg":[{},{}]}]}`} {
		if _, _, err := newTool(answersWith(0, said, "")).readGroup(t.Context(), "vg0"); err == nil ||
			errors.Is(err, errAbsent) {
			t.Errorf("%q: %v", said, err)
		}
	}
}

func TestReports(t *testing.T) {
	tool := newTool(answersWith(0, `{"report": [{"lv": [
		{"lv_name":"drover_pool", "lv_size":"1073741824", "lv_tags":"drover", "pool_lv":"", "segtype":"thin-pool", "chunk_size":"65536", "lv_when_full":"error"},
		{"lv_name":"x", "lv_size":"4194304", "lv_tags":"", "pool_lv":"drover_pool", "segtype":"thin", "chunk_size":"0", "lv_when_full":""}]}]}`, ""))
	all, err := tool.volumes(t.Context(), "vg0")
	require.NoError(t, err)
	pool := all["drover_pool"]
	if pool.Size != dataset.GiB || pool.Chunk != 64*dataset.KiB || pool.Kind != "thin-pool" ||
		pool.WhenFull != "error" || !slices.Equal(pool.Tags, []string{"drover"}) {
		t.Errorf("%+v", pool)
	}
	if isOurs(pool) || isOurs(all["x"]) || !isOurs(volume{Tags: []string{"drover"}, Pool: "drover_pool"}) {
		t.Error("a volume without the tag, or outside of the pool, is taken for drover's")
	}
}

// A running command continues if its caller gives up. A command that waits does not start.
func TestLVMIsNotKilled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, n := make(chan struct{}), 0
	finish := make(chan struct{})
	tool := newTool(fakes.Run(func(ctx context.Context, _ run.Command) (run.Result, error) {
		n++
		close(begun)
		<-finish
		return run.Result{}, ctx.Err()
	}))
	ended := make(chan error)
	go func() { ended <- tool.lvm(ctx, "lvcreate") }()
	<-begun
	cancel()
	assert.ErrorIsf(t, tool.lvm(ctx, "lvcreate"), context.Canceled, "the second")
	close(finish)
	assert.NoErrorf(t, <-ended, "the first")
	if n != 1 {
		t.Errorf("%d commands ran", n)
	}
}

// Commands of LVM wait for each other in this process, and not for LVM's lock, where they would spend their time limit.
func TestOneCommandAtATime(t *testing.T) {
	var busy atomic.Int32
	tool := newTool(fakes.Run(func(context.Context, run.Command) (run.Result, error) {
		if busy.Add(1) > 1 {
			t.Error("two at once")
		}
		runtime.Gosched()
		busy.Add(-1)
		return run.Result{}, nil
	}))
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			assert.NoError(t, tool.lvm(t.Context(), "lvcreate"))
		})
	}
	all.Wait()
}

// A group that is not a pool, or is another pool, is only read, and not changed.
func TestForeignGroups(t *testing.T) {
	mine := uuid.New()
	for _, c := range []struct {
		tags string
		cfg  backends.Config
		want *dataset.Kind
	}{
		{"", backends.Config{}, dataset.ErrOffline},
		{"", backends.Config{Make: true, Devices: []string{"/dev/sdx"}}, dataset.ErrExists},
		{"theirs", backends.Config{ID: mine}, dataset.ErrOffline},
		{"drover.pool=" + uuid.NewString(), backends.Config{ID: mine}, dataset.ErrOffline},
		{"drover.pool=" + uuid.NewString(), backends.Config{ID: mine, Make: true}, dataset.ErrExists},
		{"drover.pool=odd", backends.Config{}, dataset.ErrExists},
	} {
		var asked fakes.Recorder
		asked.Next = answersWith(0,
			`{"report":[{"vg":[{"vg_name":"vg0","vg_tags":"`+c.tags+`","vg_free":"107374182400","vg_extent_size":"4194304","vg_missing_pv_count":"0"}]}]}`,
			"")
		c.cfg.Path, c.cfg.Mount, c.cfg.Name = "/dev/vg0", t.TempDir(), "fast"
		if _, err := New(&asked).Open(t.Context(), c.cfg); !errors.Is(err, c.want) {
			t.Errorf("tags %q, %+v: %v, want %s", c.tags, c.cfg, err, c.want.Code)
		}
		for _, call := range asked.Calls() {
			if call.Args[0] != "vgs" && call.Args[0] != "lvs" {
				t.Errorf("tags %q: it ran %q", c.tags, call.Args)
			}
		}
	}
}

// If programs are missing, the backend names the packages that contain them.
func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := New(&fakes.Recorder{}).Available(t.Context())
	if !errors.Is(err, dataset.ErrUnsupported) ||
		!strings.Contains(err.Error(), "apt-get install lvm2 thin-provisioning-tools") {
		t.Error(err)
	}
}

// A command that takes too long continues and keeps its turn. Callers that wait get an error about it. When it has
// ended, other commands run.
func TestALateCommandIsNotKilled(t *testing.T) {
	finish, killed := make(chan struct{}), make(chan error, 1)
	tool := newTool(fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
		if c.Args[0] != "lvcreate" {
			return run.Result{}, nil
		}
		limit, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		select {
		case <-finish:
		case <-limit.Done():
		}
		killed <- limit.Err()
		return run.Result{}, &run.Error{Cmd: c.Name, ExitCode: failedExit, Err: errors.New("exit status")}
	}))
	tool.limit = 20 * time.Millisecond
	for range 2 {
		if err := tool.lvm(t.Context(), "lvcreate", "x"); !errors.Is(err, dataset.ErrOffline) ||
			!strings.Contains(err.Error(), `"lvm lvcreate x" did not end within 20ms`) {
			t.Error(err)
		}
	}
	if _, err := tool.volumes(t.Context(), "vg0"); !errors.Is(err, dataset.ErrOffline) {
		t.Errorf("another command: %v", err)
	}
	close(finish)
	assert.NoErrorf(t, <-killed, "it was killed")
	err := tool.lvm(t.Context(), "lvs")
	for errors.Is(err, dataset.ErrOffline) { // until the command has ended
		runtime.Gosched()
		err = tool.lvm(t.Context(), "lvs")
	}
	if err != nil || !tool.failed.Load() {
		t.Errorf("afterwards: %v; it is known that it failed: %t", err, tool.failed.Load())
	}
}

// New work is refused while the filesystem of the records has few free bytes or inodes.
func TestRoomForRecords(t *testing.T) {
	p := &Pool{name: "fast", vg: "vg0"}
	u, err := parseUsage(dm.Target{Type: "thin-pool", Status: "3 100/1000 10/100 - rw a b - 1024"}, 64*dataset.KiB)
	require.NoError(t, err)
	for _, c := range []struct {
		free  dataset.Size
		files uint64
		says  string
	}{
		{50 * dataset.MiB, 60000, ""},
		{13 * dataset.MiB, 3300, ""},
		{12 * dataset.MiB, 60000, "12MiB free of 256MiB"},
		{200 * dataset.MiB, 3200, "3200 inodes free of 65536"},
	} {
		err := p.checkFree(u, c.free, 256*dataset.MiB, c.files, 65536)
		if (err == nil) != (c.says == "") || err != nil &&
			(!errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), c.says) ||
				!strings.Contains(err.Error(), "lvextend --resizefs --size +256m vg0/drover_records")) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A caller that holds the turn keeps it for several commands, and others wait until it releases the turn. If one of its
// commands exceeds the time limit, the turn belongs to that command from then on.
func TestATurnIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		var ran []string
		tool := newTool(fakes.Run(func(_ context.Context, c run.Command) (run.Result, error) {
			if ran = append(ran, c.Args[0]); c.Args[0] == "late" {
				<-finish
			}
			return run.Result{}, nil
		}))
		turn := func() (context.Context, func()) {
			in, done, err := tool.holdTurn(t.Context())
			require.NoError(t, err)
			return in, done
		}
		var others sync.WaitGroup
		other := func(ctx context.Context) {
			others.Go(func() {
				assert.NoError(t, tool.lvm(ctx, "other"))
			})
			synctest.Wait()
		}
		in, done := turn()
		other(t.Context())
		_, err := tool.query(in, "asked")
		if err = errors.Join(err, tool.lvm(in, "done")); err != nil {
			t.Error(err)
		}
		done()
		others.Wait()
		before := in
		in, done = turn()
		other(before) // a caller that has released the turn waits like others
		assert.NoError(t, tool.lvm(in, "again"))
		done()
		others.Wait()
		in, done = turn()
		assert.ErrorIsf(t, tool.lvm(in, "late"), dataset.ErrOffline, "a command that is late")
		done()
		assert.ErrorIsf(t, tool.lvm(t.Context(), "other"), dataset.ErrOffline, "beside one that is late")
		close(finish)
		synctest.Wait()
		in, done = turn()
		defer done()
		other(t.Context())
		assert.NoError(t, tool.lvm(in, "last"))
		done()
		others.Wait()
		if want := []string{
			"asked", "done", "other", "again", "other", "late", "last", "other",
		}; !slices.Equal(ran, want) {
			t.Errorf("there ran %q, want %q", ran, want)
		}
	})
}
