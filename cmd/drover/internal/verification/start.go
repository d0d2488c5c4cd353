package verification

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/dataset"
)

// Start runs this program with args, which must call Inside for the folder at path. It calls hear with each event until
// the process has ended. When ctx ends, it kills the process and fails with dataset.ErrCancelled. It fails with the
// error of hear, and with a problem that the process reports. The process never outlives the caller.
func Start(ctx context.Context, args []string, path string, hear func(verify.Event) error) error {
	// Pdeathsig kills the process when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stderr = &stderr
	cmd.Cancel = func() error { return kill(cmd.Process, path) }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Go makes all mounts in the new namespace private (golang.org/issue/19661).
		Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL,
		Setpgid: true, // a Ctrl-C for the command must not reach it
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start the suite: %w", err)
	}
	heard := follow(out, hear)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return dataset.Errorf(dataset.ErrCancelled, "interrupted: nothing was verified")
	case heard != nil:
		return heard
	case err != nil:
		text := stderr.String()
		return fmt.Errorf("the suite ended early: %w: %s", err, text[:min(len(text), 2<<10)])
	}
	return nil
}

// kill kills a process. The process does not end while one of its threads waits for a filesystem that it has frozen, so
// kill thaws the filesystems.
func kill(p *os.Process, path string) error {
	err := p.Kill()
	for p.Signal(syscall.Signal(0)) == nil {
		err = errors.Join(err, trialdir.Thaw(path))
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// follow passes events to hear until there are no more. After an error it reads and discards the rest, so that the
// writer never waits.
func follow(r io.Reader, hear func(verify.Event) error) error {
	defer func() { _, _ = io.Copy(io.Discard, r) }()
	dec := json.NewDecoder(r)
	for {
		var e verify.Event
		if err := dec.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return fmt.Errorf("read the report of the suite: %w", err)
		}
		if e.Problem != "" {
			return errors.New(e.Problem)
		}
		if err := hear(e); err != nil {
			return err
		}
	}
}
