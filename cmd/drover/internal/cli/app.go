package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/pki"
)

// DefaultEndpoint is the address of the API when neither --api nor DROVER_API names one.
const DefaultEndpoint = "unix://" + defaultSocket

const defaultSocket = "/run/drover/drover.sock"

// Remote is the part of the API that the commands use.
type Remote interface {
	api.Users
	api.Local
	api.Backup
	api.Members
}

// App has what every command uses: the streams, the environment, the clients of servers and the flags that all
// commands share. Each run of a command line has one App.
type App struct {
	Version string
	In      io.Reader
	Out     io.Writer
	ErrOut  io.Writer
	Getenv  func(string) string
	Now     func() time.Time
	NewID   func() uuid.UUID
	// Sleep waits. It fails if the context ends before.
	Sleep func(context.Context, time.Duration) error
	// Signals returns a context that ends at the first signal to stop, so that a command can clean up.
	Signals func(context.Context) (context.Context, context.CancelFunc)
	Dial    func(endpoint string) (Remote, error)
	// DockerPath returns the folder of a Docker volume; see engine.Path.
	DockerPath func(ctx context.Context, volume string, live bool) (string, error)
	// ContainerNames returns the names of the running containers of this host's engine by their full IDs; see
	// engine.Names. If nil, no names are shown.
	ContainerNames func(ctx context.Context) (map[string]string, error)
	// EngineVersion returns the name and the version of this host's engine; see engine.Version. If nil, they are not
	// known.
	EngineVersion func(ctx context.Context) (string, error)
	// VerifyPool runs the backend test suite in a temporary folder of a pool of this host.
	VerifyPool func(ctx context.Context, p api.Pool) (*verify.Report, error)
	// Fencer connects to this host's guard by the folder of its socket. Boottime is the guard's clock.
	Fencer   func(run string) (Fencer, error)
	Boottime func() time.Duration
	// CheckKey fails if an agent of this host could not read the key file.
	CheckKey func(path string) error
	// Authority is the default of --dir: the folder of the cluster's certificate authority.
	Authority string

	Endpoint string    // --api
	Files    pki.Files // --cert, --key, --ca

	outdated atomic.Bool              // the server answered without control
	pair     atomic.Pointer[pki.Pair] // the certificate that the client presents; nil without one
}

// noteKnownAt prints that control is unreachable, and that the answer is from the records that the server's host had at
// the given time. It prints this once, until ForgetOutdated is called.
func (a *App) noteKnownAt(at time.Time) {
	if !a.outdated.Swap(true) {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: control is unreachable: this is from the records of this host, %s, "+
			"without other hosts (drover doctor says why)\n", Ago(a.Now(), at))
	}
}

// Outdated reports whether the server has answered from the records of its host, because control is unreachable. Such
// an answer can be old, and lacks the volumes of other hosts.
func (a *App) Outdated() bool { return a.outdated.Load() }

// ForgetOutdated makes Outdated return false again. A command that asks the server repeatedly calls it before each
// round.
func (a *App) ForgetOutdated() { a.outdated.Store(false) }

// Address returns the address of the API: --api, else DROVER_API, else DefaultEndpoint.
func (a *App) Address() string {
	for _, e := range []string{a.Endpoint, a.Getenv("DROVER_API")} {
		if e != "" {
			return e
		}
	}
	return DefaultEndpoint
}

// Connect returns a client of the API at Address.
func (a *App) Connect() (Remote, error) {
	c, err := a.Dial(a.Address())
	if err != nil {
		return nil, err
	}
	return suggester{a.withAgent(c), a.Now}, nil
}

// Connected returns a RunE that connects to the server and calls run.
func (a *App) Connected(
	run func(cmd *cobra.Command, c Remote, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.Connect()
		if err != nil {
			return err
		}
		return run(cmd, c, args)
	}
}

// Query sets the RunE of a command that only has the output flags. It sends a query to the server, and prints the
// response in the format of -o. If quiet is set, the command has -q, which prints only IDs.
func Query(a *App, cmd *cobra.Command, quiet bool,
	run func(cmd *cobra.Command, c Remote, o *Output, args []string) error) *cobra.Command {
	o := OutputFlags(cmd, quiet)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c Remote, args []string) error { return run(cmd, c, o, args) })
	return cmd
}

// HostPath returns the absolute form of a path that the server will use. It fails with ErrInvalid if the path is
// relative and the server may be on another host.
func (a *App) HostPath(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	if path == "" {
		return "", dataset.Errorf(dataset.ErrInvalid, "the path is empty")
	}
	if !a.SameHost() {
		return "", dataset.Errorf(dataset.ErrInvalid,
			"path %q is relative, and the server at %s may be on another host: use an absolute path of that host", path,
			a.Address())
	}
	return filepath.Abs(path)
}

// CleanHostPath cleans the path of a flag. It fails with ErrInvalid for a relative path, even on the server's host,
// because the created object outlives the caller's working directory.
func (a *App) CleanHostPath(flag string, path *string) error {
	if filepath.IsAbs(*path) {
		*path = filepath.Clean(*path)
		return nil
	}
	would, err := a.HostPath(*path)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"--%s %q: expected an absolute path on the server's host: --%s %s", flag, *path, flag, would)
}

// SameHost reports whether the server is certainly on this host, because its address is a Unix socket.
func (a *App) SameHost() bool { return strings.HasPrefix(a.Address(), "unix:") }

// Palette returns the colors of tables. There are none if the output is not a terminal.
func (a *App) Palette() Palette { return NewPalette(IsTerminal(a.Out), a.Getenv) }

// Meter shows progress on standard error, unless quiet. It draws a bar on a terminal that
// can move its cursor and knows its size (a serial console reports 0×0), and prints lines
// otherwise.
func (a *App) Meter(label string, quiet bool) Meter {
	switch {
	case quiet:
		return Discard{}
	case a.drawsBars():
		return NewBar(a.ErrOut, label)
	}
	return NewLines(a.ErrOut, label)
}

// Meters returns a group of meters for several pieces of work. It draws bars or prints lines, as Meter does if quiet is
// not set.
func (a *App) Meters() *ProgressGroup { return NewGroup(a.ErrOut, a.drawsBars()) }

// drawsBars reports whether progress is drawn as bars.
func (a *App) drawsBars() bool {
	return HasSize(a.ErrOut) && a.Getenv("TERM") != "dumb" && a.Getenv("TERM") != ""
}

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// HasSize reports whether a stream is a terminal whose size is known.
func HasSize(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 && height > 0
}

// Fencer is the part of guard.Client that the commands use.
type Fencer interface {
	Status(ctx context.Context) (guard.Status, error)
	Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error)
	Dismiss(ctx context.Context, id uuid.UUID, epoch uint64) error
	Close() error
}
