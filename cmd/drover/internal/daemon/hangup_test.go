package daemon

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// SIGHUP does not end a process that has no profiles to reload, such as drover agent: it would end this test.
func TestHangupDoesNotEndAgent(t *testing.T) {
	config := filepath.Join(t.TempDir(), "drover.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &cli.App{Getenv: func(string) string { return "" }, Out: io.Discard, ErrOut: io.Discard}
	f := Flags{config: config, node: "host-a", logFormat: "text", Level: "info"}
	served := false
	err := runProcess(t.Context(), a, f, func(ctx context.Context, _ Options) error {
		runtime.LockOSThread() // the signal is delivered to this thread, before the call returns
		defer runtime.UnlockOSThread()
		served = true
		return unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGHUP)
	})
	if err != nil || !served {
		t.Errorf("served %t: %v", served, err)
	}
}
