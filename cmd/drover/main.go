// Command drover gives containers named, portable data. The same program serves the Docker volume plugin and the API on
// a host, and is the command line for both.
//
// The output of a command goes to standard output, as a table for people or as JSON for programs. Progress, questions
// and errors go to standard error. An error is one line. The error about a volume in use is followed by a line for each
// holder, and an internal error of a server by the ID of the request. The exit code is 0, or 1 if the request failed or
// a finding of status or doctor needs attention, or 2 if the command line was wrong.
//
// A new command belongs in the package of its noun below internal (newRootCmd has them all). events, version, help,
// completion, man and the hidden freezer are here. The tests of this package run the commands, also on a terminal. The
// names and the help of the commands are also in docs/cli.md and testdata/usage.txt: go test ./cmd/drover -update
// writes both.
// Package main builds the command tree (root.go) and keeps no state.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	moby "github.com/moby/moby/client"

	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/engine"
	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/cmd/drover/internal/status"
	"github.com/droverhq/drover/cmd/drover/internal/verification"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/requestid"
)

// version is set by the linker: -X main.version.
var version = "dev"

func main() {
	a := &cli.App{
		Version: version, In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr,
		Getenv: os.Getenv, Now: func() time.Time { return clock.System{}.Now().Local() }, NewID: uuid.New,
		Sleep: sleep, Signals: signals,
		DockerPath: dockerPath, ContainerNames: containerNames, EngineVersion: engineVersion,
		Fencer: nodes.DialGuard, Boottime: clock.Boottime,
		CheckKey: settings.CheckKey, Authority: nodes.DefaultAuthority,
	}
	a.Dial = func(endpoint string) (cli.Remote, error) {
		debug.SetGCPercent(400) // a command that asks a server ends soon, so time matters more than memory
		return a.OpenClient(endpoint)
	}
	a.VerifyPool = func(ctx context.Context, p api.Pool) (*verify.Report, error) {
		return verification.VerifyPool(ctx, a, p)
	}
	os.Exit(execute(context.Background(), a, os.Args[1:]))
}

// runIn returns a function that runs another command line with the settings of an App, and writes its output and notes
// elsewhere. It neither asks questions nor exits.
func runIn(a *cli.App) status.RunCommand {
	return func(ctx context.Context, out, notes io.Writer, args ...string) error {
		of := &cli.App{
			Version: a.Version, In: strings.NewReader(""), Out: out, ErrOut: notes, Getenv: a.Getenv, Now: a.Now,
			NewID: a.NewID, Sleep: a.Sleep, Signals: context.WithCancel, Dial: a.Dial, DockerPath: a.DockerPath,
			ContainerNames: a.ContainerNames, EngineVersion: a.EngineVersion, VerifyPool: a.VerifyPool,
			Fencer: a.Fencer, Boottime: a.Boottime, CheckKey: a.CheckKey, Authority: a.Authority,
		}
		root := newRootCmd(of)
		of.Endpoint, of.Files = a.Endpoint, a.Files // the flags of all commands have their defaults now
		root.SetArgs(args)
		root.SetIn(of.In)
		root.SetOut(out)
		root.SetErr(notes)
		return root.ExecuteContext(ctx)
	}
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, a *cli.App, args []string) int {
	root := newRootCmd(a)
	root.SetArgs(append([]string{}, args...)) // if nil, cobra uses os.Args
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.ErrOut)
	// All requests of a command have one ID, with which the logs of all hosts can be searched.
	if requestid.Of(ctx) == "" {
		ctx = requestid.With(ctx, requestid.New())
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	a.PrintError(ctx, err)
	return dataset.KindOf(err).Exit
}

// signals returns a context that ends at the first signal to stop. It is for commands that must then clean up or print
// a result. Without this context, the first signal kills the command. A second signal kills every command. Signals that
// the parent process ignored (nohup, sh's &) stay ignored.
func signals(ctx context.Context) (context.Context, context.CancelFunc) {
	var heed []os.Signal
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			heed = append(heed, s)
		}
	}
	if len(heed) == 0 { // without arguments, Notify would deliver all signals
		return context.WithCancel(ctx)
	}
	ctx, stop := signal.NotifyContext(ctx, heed...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// withEngine asks the container engine of this host.
func withEngine[T any](ask func(*moby.Client) (T, error)) (answer T, err error) {
	c, err := engine.Open()
	if err != nil {
		return answer, err
	}
	defer c.Close()
	return ask(c)
}

func containerNames(ctx context.Context) (map[string]string, error) {
	return withEngine(func(c *moby.Client) (map[string]string, error) { return engine.Names(ctx, c) })
}

func engineVersion(ctx context.Context) (string, error) {
	return withEngine(func(c *moby.Client) (string, error) { return engine.Version(ctx, c) })
}

func dockerPath(ctx context.Context, volume string, live bool) (string, error) {
	return withEngine(func(c *moby.Client) (string, error) { return engine.Path(ctx, c, volume, live) })
}
