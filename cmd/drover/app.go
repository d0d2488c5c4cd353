package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/term"

	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/cmd/drover/internal/progress"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/pki"
)

const defaultEndpoint = "unix:///run/drover/drover.sock"

// remote is all that the commands ask of the server.
type remote interface {
	api.Users
	api.Local
	api.Backup
	api.Members
}

// app is what every command works with: the streams, the world, and the flags
// that all have. One command line, one app.
type app struct {
	version string
	in      io.Reader
	out     io.Writer
	errOut  io.Writer
	getenv  func(string) string
	now     func() time.Time
	newID   func() uuid.UUID
	sleep   func(context.Context, time.Duration) error
	signals func(context.Context) (context.Context, context.CancelFunc)
	dial    func(endpoint string) (remote, error)
	// docker returns the folder of a Docker volume; see engine.Path.
	docker func(ctx context.Context, volume string, live bool) (string, error)
	// prove runs the suite of backends in a corner of a pool of this host.
	prove func(ctx context.Context, p api.Pool) (*verify.Report, error)
	// fencer is this host's guard, whose socket lies in a folder; boottime its clock.
	fencer   func(run string) (fencer, error)
	boottime func() time.Duration
	// hasKey fails as an agent of this host would where a key file is not to be had.
	hasKey func(path string) error
	// authority is the folder of the cluster's certificate authority where --dir does not say another.
	authority string

	endpoint string    // --api
	files    pki.Files // --cert, --key, --ca
	args     []string  // the whole command line
}

func (a *app) address() string {
	for _, e := range []string{a.endpoint, a.getenv("DROVER_API")} {
		if e != "" {
			return e
		}
	}
	return defaultEndpoint
}

func (a *app) connect() (remote, error) { return a.dial(a.address()) }

// hostPath makes a path that the server is to use absolute. It fails with
// ErrInvalid for a relative one when the server may be on another host.
func (a *app) hostPath(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	if path == "" {
		return "", dataset.Errorf(dataset.ErrInvalid, "the path is empty")
	}
	if !a.sameHost() {
		return "", dataset.Errorf(dataset.ErrInvalid,
			"path %q is relative, and the server at %s may be on another host: say an absolute path there", path,
			a.address())
	}
	return filepath.Abs(path)
}

// onHost has the path of a flag clean. It fails with ErrInvalid for a relative one, on whatever
// host: what is made there outlives the folder that somebody was in.
func (a *app) onHost(flag string, path *string) error {
	if filepath.IsAbs(*path) {
		*path = filepath.Clean(*path)
		return nil
	}
	would, err := a.hostPath(*path)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"--%s %q is relative, and is to be an absolute path on the server's host: --%s %s", flag, *path, flag, would)
}

func (a *app) sameHost() bool { return strings.HasPrefix(a.address(), "unix:") }

func (a *app) palette() show.Palette { return show.NewPalette(terminal(a.out), a.getenv) }

// meter shows progress on standard error, unless quiet: a bar on a terminal that
// can move its cursor and knows its size (a serial console says 0×0), lines
// elsewhere.
func (a *app) meter(label string, quiet bool) progress.Meter {
	switch {
	case quiet:
		return progress.None{}
	case sized(a.errOut) && a.getenv("TERM") != "dumb" && a.getenv("TERM") != "":
		return progress.NewBar(a.errOut, label)
	}
	return progress.NewLines(a.errOut, label)
}

// terminal reports whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// sized reports whether a stream is a terminal whose size is known.
func sized(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 && height > 0
}

// confirm asks a person to type word. It fails with ErrCancelled for anything
// else.
func (a *app) confirm(word, format string, args ...any) error {
	if _, err := fmt.Fprintf(a.errOut, "%s.\nType %s to go on: ", show.Clean(fmt.Sprintf(format, args...)),
		show.Clean(word)); err != nil {
		return err
	}
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if strings.TrimSpace(line) != word {
		return dataset.Errorf(dataset.ErrCancelled, "not confirmed: nothing was done")
	}
	return err
}

// fencer is what is asked of this host's guard: guard.Client.
type fencer interface {
	Status(ctx context.Context) (guard.Status, error)
	Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (guard.Entry, error)
	Dismiss(ctx context.Context, id uuid.UUID, epoch uint64) error
	Close() error
}
