package backendtest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// checks has the assertions. Each fails the test if a result is wrong.
type checks struct {
	T
	ctx context.Context
}

func (f *checks) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// same fails unless two values are equal, and equal as JSON too.
func (f *checks) same(what string, have, want any) {
	f.Helper()
	if reflect.DeepEqual(have, want) {
		return
	}
	one, err := json.Marshal(have)
	two, wErr := json.Marshal(want)
	f.ok(errors.Join(err, wErr))
	f.Errorf("%s: have %s (%T), want %s", what, one, have, two)
}

// twice calls a function twice. It fails unless both calls succeed.
func (f *checks) twice(call func() error) {
	f.Helper()
	f.ok(call())
	if err := call(); err != nil {
		f.Fatalf("again: %v", err)
	}
}

// fails fails the test unless err has one of the kinds and is a single line.
func (f *checks) fails(err error, kinds ...*dataset.Kind) {
	f.Helper()
	if err == nil {
		f.Fatalf("succeeded, want a %s error", kinds[0].Code)
	}
	for _, k := range kinds {
		if errors.Is(err, k) {
			if strings.ContainsAny(err.Error(), "\n\r") {
				f.Errorf("several lines: %q", err)
			}
			return
		}
	}
	f.Fatalf("got %v (kind %s), want a %s error", err, dataset.KindOf(err).Code, kinds[0].Code)
}

func (f *checks) fileHolds(path, want string) {
	f.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		f.Errorf("%s contains %q, %v", path, b, err)
	}
}

func (f *checks) names(dir string) []string {
	f.Helper()
	entries, err := os.ReadDir(dir)
	f.ok(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// frozen calls do while the filesystem of a mount is frozen and a process tries to write to it.
func (f *checks) frozen(m *mounted, do func()) {
	f.Helper()
	f.ok(fsctl.Freeze(m.root))
	thaw := sync.OnceValue(func() error { return fsctl.Thaw(m.root) })
	late := time.AfterFunc(longestFreeze, func() { _ = thaw() })
	defer late.Stop()
	defer func() { f.ok(thaw()) }() // thaw before the unmount, even after a failure
	thread, written := make(chan int, 1), make(chan error, 1)
	path := m.in("meanwhile")
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		written <- os.WriteFile(path, []byte("written"), 0o600)
	}()
	held := isBlocked(<-thread, written)
	if held {
		do()
		held = len(written) == 0
	}
	if !held {
		f.Errorf("a frozen filesystem is written to")
	}
	f.ok(thaw())
	f.ok(<-written)
}

// space returns what df shows inside a dataset, in bytes.
func (f *checks) space(m *mounted) (total, free int64) {
	f.Helper()
	var st unix.Statfs_t
	f.ok(unix.Fstatfs(int(m.root.Fd()), &st))
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}
