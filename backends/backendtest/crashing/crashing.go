// Package crashing runs the crash matrix of package backendtest. It has two ways to crash an operation at a step:
// [Stopped] ends the operation in this process. [Killed] runs the operation in another process, and kills that process.
// [FailingCalls] and [PowerCut] run the cases in which system calls fail and in which the power is cut. The tests of
// backends call it. It has no state.
package crashing

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// Stepping returns a backend that calls step between two actions, with the name of the step.
type Stepping func(step func(string)) backends.Kind

// Run runs the crash matrix as subtests of t, under name.
func Run(t *testing.T, name string, factory backendtest.Factory[*testing.T], c backendtest.Crashes) {
	backendtest.Crashing(t, name, factory, c)
}

// PowerCuts runs the crash matrix with power cuts, on filesystems of fstype. The functions in prepare are called with
// each disk before a pool is made on it.
func PowerCuts(
	t *testing.T,
	fstype string,
	kind func(disk string, step func()) backends.Kind,
	c backendtest.Crashes,
	prepare ...func(t *testing.T, disk string),
) {
	backendtest.CutAtEachStep(t, fstype, func(t *testing.T) backendtest.Disk {
		image := scratch.Image(t, fstype, 1<<30)
		disk := scratch.MountImage(t, fstype, image)
		for _, ready := range prepare {
			ready(t, disk)
		}
		return backendtest.Disk{Path: disk, Copy: func() string { return scratch.CutPower(t, fstype, image) }}
	}, func(disk backendtest.Disk, step func()) backends.Kind { return kind(disk.Path, step) }, c)
}

// Stopped returns a Crashes.Crash function that ends the goroutine of the operation at a step in this process. The
// deferred calls of the operation still run. They see no error, so a clean-up that only follows an error does not run.
func Stopped(kind Stepping) func(backendtest.T, backends.Config, backendtest.Call, int) bool {
	return func(t backendtest.T, cfg backends.Config, call backendtest.Call, step int) bool {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			defer close(done)
			done <- run(t.Context(), kind, cfg, call, step, runtime.Goexit)
		}()
		err, ended := <-done
		require.NoError(t, err)
		return !ended
	}
}

// run runs an operation on the pool of cfg. It calls crash at a step, counted from 0.
func run(
	ctx context.Context,
	kind Stepping,
	cfg backends.Config,
	call backendtest.Call,
	step int,
	crash func(),
) error {
	opened, n := false, 0
	pool, err := kind(func(string) {
		if !opened {
			return
		}
		if n == step {
			crash()
		}
		n++
	}).Open(ctx, cfg)
	if err != nil {
		return err
	}
	opened = true
	return call.Run(ctx, pool)
}

// orders describes the operation that the process started by Killed runs.
type orders struct {
	Config    backends.Config
	Encrypted bool
	Call      backendtest.Call
	Step      int
}

const ordersVariable = "DROVER_TEST_CRASH"

// Main runs the tests of a package with scratch.MainInMemory. In a process that Killed started, it runs the operation
// instead. If the pool is encrypted, that process opens it with backendtest.NewKeys, which returns the same data key in
// each process.
func Main(m *testing.M, kind Stepping) int {
	raw := os.Getenv(ordersVariable)
	if raw == "" {
		return scratch.MainInMemory(m)
	}
	var o orders
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		panic(err)
	}
	if o.Encrypted {
		o.Config.Keys = backendtest.NewKeys()
	}
	err := run(context.Background(), kind, o.Config, o.Call, o.Step, func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	})
	if err != nil {
		panic(err)
	}
	return 0
}

// Killed runs an operation in another process, and kills that process with SIGKILL at a step. The TestMain of the
// package under test must call Main.
func Killed(t backendtest.T, cfg backends.Config, call backendtest.Call, step int) bool {
	t.Helper()
	o := orders{Config: cfg, Encrypted: cfg.Keys != nil, Call: call, Step: step}
	o.Config.Keys = nil
	raw, err := json.Marshal(o)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), ordersVariable+"="+string(raw))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process ended with %v: %s", err, out)
	}
	return true
}
