package freezer_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/freezer"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

const self = "/proc/self/exe"

// TestMain runs the tests or, as a child of a test, a freezer or its parent.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "freezer":
		freezer.Serve()
	case len(os.Args) == 3 && os.Args[1] == "parent":
		root, err := os.Open(os.Args[2])
		if err != nil {
			panic(err)
		}
		f, err := freezer.Start([]string{self, "freezer"}, root)
		if err == nil {
			err = f.Freeze()
		}
		fmt.Println("frozen:", err)
		select {}
	default:
		os.Exit(scratch.Main(m))
	}
}

// start makes a filesystem and a freezer for it.
func start(t *testing.T) (*freezer.Freezer, *os.File) {
	t.Helper()
	root, err := os.Open(scratch.Mount(t, "ext4", scratch.Ext4))
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	f, err := freezer.Start([]string{self, "freezer"}, root)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f, root
}

// write starts a writer. The channel receives its result when it ends.
func write(dir string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600) }()
	return done
}

// mustEnd waits for a writer.
func mustEnd(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		assert.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the writer is still blocked")
	}
}

// isFrozen reports whether a filesystem is frozen. If it was not, it is frozen for a moment.
func isFrozen(t *testing.T, root *os.File) bool {
	t.Helper()
	err := fsctl.Freeze(root)
	if err == nil {
		err = fsctl.Thaw(root)
	}
	if err != nil && !errors.Is(err, fsctl.ErrFrozen) {
		t.Fatal(err)
	}
	return err != nil
}

func TestFreezeIsHeldUntilThaw(t *testing.T) {
	f, root := start(t)
	if err := f.Freeze(); err != nil || !isFrozen(t, root) {
		t.Fatal("not frozen", err)
	}
	done := write(root.Name())
	held, err := f.Thaw()
	if !held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	mustEnd(t, done)
}

// Writers continue soon after a kill -9 of the parent, long before the freeze would have ended by itself.
func TestKilledParentThaws(t *testing.T) {
	_, root := start(t)
	parent := exec.Command(self, "parent", root.Name())
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	began := time.Now()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "frozen: <nil>\n" || !isFrozen(t, root) {
		t.Fatal(line, err)
	}
	done := write(root.Name())
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	mustEnd(t, done)
	if took := time.Since(began); took >= freezer.MaxHold {
		t.Errorf("the writer was blocked for %s", took)
	}
}

// A freeze that ends before the parent asks for it is reported, and the filesystem is thawed however it ended.
func TestFreezeThatEndsEarlyIsReported(t *testing.T) {
	for name, end := range map[string]func(f *freezer.Freezer, root *os.File) error{
		"too long":          func(*freezer.Freezer, *os.File) error { return nil },
		"child was stopped": func(f *freezer.Freezer, _ *os.File) error { return f.Kill(unix.SIGTERM) },
		"thawed by another": func(_ *freezer.Freezer, root *os.File) error { return fsctl.Thaw(root) },
	} {
		t.Run(name, func(t *testing.T) {
			f, root := start(t)
			require.NoError(t, f.Freeze())
			done := write(root.Name())
			require.NoError(t, end(f, root))
			mustEnd(t, done)
			if held, err := f.Thaw(); held || err != nil {
				t.Errorf("held %v, %v", held, err)
			}
		})
	}
}

func TestThawAfterChildWasKilled(t *testing.T) {
	f, root := start(t)
	require.NoError(t, f.Freeze())
	done := write(root.Name())
	require.NoError(t, f.Kill(unix.SIGKILL))
	if held, err := f.Thaw(); held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	mustEnd(t, done)
}

// The freeze of another program is reported, and stays.
func TestFreezeOfAnotherProgramStays(t *testing.T) {
	f, root := start(t)
	require.NoError(t, fsctl.Freeze(root))
	defer func() { _ = fsctl.Thaw(root) }()
	assert.ErrorIs(t, f.Freeze(), fsctl.ErrFrozen)
	f.Close()
	if !isFrozen(t, root) {
		t.Error("it was thawed")
	}
}

// After the wait, a change of a file gets a later time than any change before it.
func TestThawAwaitsTheClockOfFileTimes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for range 50 {
		changed := func() (at int64) {
			var st unix.Stat_t
			require.NoError(t, errors.Join(os.WriteFile(path, []byte("x"), 0o600), unix.Stat(path, &st)))
			return st.Ctim.Nano()
		}
		before := changed()
		freezer.AwaitTick(time.Now().UnixNano())
		if after := changed(); after <= before {
			t.Fatalf("a later change has the time %d, and an earlier one %d", after, before)
		}
	}
}
