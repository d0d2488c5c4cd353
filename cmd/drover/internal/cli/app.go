// Package cli has the shared parts of the commands of drover: the App that each command works with, flags and their
// errors, lists with filters and orders, tables and other output, questions before data is destroyed, progress, waiting
// for operations, completion, and the words with which values are shown. Each run of a command line has one App. The
// fields of the App do not change after the flags were parsed, so they need no lock. The exception is an atomic flag
// that says whether the server answered without control. The package has no other state. Errors for wrong commands,
// flags and completion are in usage.go, the formats of output in output.go and format.go, lists in list.go, and
// requests that change something in operate.go. Other names of a command, and the words for which it is suggested, are
// with the command (Aliases and SuggestFor of cobra).
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
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

	// Outdated is true if the server has answered from the records of its host, because control is unreachable. Such an
	// answer can be old, and lacks the volumes of other hosts. A command that asks the server repeatedly resets it
	// before each round.
	Outdated atomic.Bool

	pair atomic.Pointer[pki.Pair] // the certificate that the client presents; nil without one
}

// noteKnownAt prints that control is unreachable, and that the answer is from the records that the server's host had at
// the given time. It prints this once, until Outdated is reset.
func (a *App) noteKnownAt(at time.Time) {
	if !a.Outdated.Swap(true) {
		_, _ = fmt.Fprintf(a.ErrOut, "drover: control is unreachable: this is from the records of this host, %s, "+
			"without other hosts (drover doctor says why)\n", Ago(a.Now(), at))
	}
}

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
}

// OpenClient returns a client of the server at an address. For https, the client presents a certificate.
func (a *App) OpenClient(endpoint string) (Remote, error) {
	c, err := a.open(endpoint)
	if err != nil {
		return nil, err
	}
	c.SetVersion(a.Version)
	c.OnKnownAt(a.noteKnownAt)
	return c, nil
}

func (a *App) open(endpoint string) (*client.Client, error) {
	if !strings.Contains(endpoint, "https://") {
		return client.New(endpoint)
	}
	var missing []string
	said := func(flag, value, env string) string {
		value = cmp.Or(value, a.Getenv(env))
		if value == "" {
			missing = append(missing, "--"+flag+" or "+env)
		}
		return value
	}
	files := pki.Files{
		Cert: said("cert", a.Files.Cert, "DROVER_CERT"), Key: said("key", a.Files.Key, "DROVER_KEY"),
		CA: said("ca", a.Files.CA, "DROVER_CA"),
	}
	if len(missing) > 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"%s requires a certificate of the cluster: set %s (drover ca issue creates one on a control host)",
			dataset.Clip(endpoint), strings.Join(missing, ", "))
	}
	pair, err := pki.LoadPair(files)
	if err != nil {
		return nil, err
	}
	a.pair.Store(pair)
	return client.NewTLS(endpoint, pki.NewCredentials(pair, clock.System{}, nil).Client(pki.Control))
}

// CertificateFindings returns a finding if the certificate of the operator who runs the command expires soon or has
// expired. Servers do not know the certificates of operators before they are used.
func (a *App) CertificateFindings() (list condition.List) {
	pair := a.pair.Load()
	if pair == nil || pair.Identity.Kind != pki.Operator { // the agent reports the certificate of its host
		return nil
	}
	leaf, now, id := pair.Chain[0], a.Now(), pair.Identity
	fix := fmt.Sprintf("drover ca issue %s --role %s --out DIR on a control host, then use its files for "+
		"DROVER_CERT, DROVER_KEY and DROVER_CA", id.Name, id.Role)
	switch {
	case now.After(leaf.NotAfter):
		list.Add(condition.OperatorCertExpired, "certificate", fix, id, When(now, leaf.NotAfter))
	case now.After(pki.ReportAt(leaf)):
		list.Add(condition.OperatorCertExpires, "certificate", fix, id, When(now, leaf.NotAfter))
	}
	return list
}

// IsExpiry reports whether an error follows from the finding that the certificate of the operator has expired.
func (a *App) IsExpiry(err error) bool {
	pair := a.pair.Load()
	return errors.Is(err, dataset.ErrForbidden) && pair != nil && len(a.CertificateFindings()) > 0 &&
		a.Now().After(pair.Chain[0].NotAfter)
}

// onHost is a client that has the agent of this host open repositories if the server is a control replica, which
// cannot. In a cluster, only an operator or root of a control host may record a repository, and only an agent can open
// it: so a command that adds a repository needs both servers.
type onHost struct {
	Remote
	agent func() (Remote, error) // connects to the agent of this host
}

// withAgent returns a client that asks the agent of this host where server cannot answer. The agent's address is
// DROVER_API if --api names another server, and otherwise DefaultEndpoint.
func (a *App) withAgent(server Remote) Remote {
	address := DefaultEndpoint
	if other := a.Getenv("DROVER_API"); a.Endpoint != "" && other != "" {
		address = other
	}
	if address == a.Address() {
		return server
	}
	return onHost{server, func() (Remote, error) { return a.Dial(address) }}
}

// askAgent sends a request to the server. If the server refuses it because it is control, askAgent returns the answer
// of the agent of this host. If the agent cannot be reached, or belongs to another cluster, it returns the answer of
// the server: the repositories of two clusters can have the same name.
func askAgent[T any](ctx context.Context, o onHost, ask func(Remote) (T, error)) (T, error) {
	answer, err := ask(o.Remote)
	if err == nil || !strings.Contains(err.Error(), api.OnlyOnHost) {
		return answer, err
	}
	agent, dialErr := o.agent()
	if dialErr != nil || !isSameCluster(ctx, o.Remote, agent) {
		return answer, err
	}
	return ask(agent)
}

// isSameCluster reports whether two servers know a node in common. It returns false if one of them does not answer.
func isSameCluster(ctx context.Context, a, b Remote) bool {
	known, err := a.NodeList(ctx, "")
	if err != nil {
		return false
	}
	also, err := b.NodeList(ctx, "")
	return err == nil && slices.ContainsFunc(also, func(n api.Node) bool {
		return slices.ContainsFunc(known, func(o api.Node) bool { return o.ID == n.ID })
	})
}

func (o onHost) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return askAgent(ctx, o, func(r Remote) (api.RepositoryState, error) { return r.CheckRepository(ctx, c) })
}

func (o onHost) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	return askAgent(ctx, o, func(r Remote) (api.BackupList, error) { return r.VolumeBackups(ctx, repository, volume) })
}

func (o onHost) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	return askAgent(ctx, o, func(r Remote) (api.VolumeBackup, error) { return r.VolumeBackup(ctx, repository, id) })
}

func (o onHost) RemoveBackup(ctx context.Context, repository, id string) error {
	_, err := askAgent(ctx, o, func(r Remote) (any, error) { return nil, r.RemoveBackup(ctx, repository, id) })
	return err
}

func (o onHost) PruneRepository(ctx context.Context, repository string) error {
	_, err := askAgent(ctx, o, func(r Remote) (any, error) { return nil, r.PruneRepository(ctx, repository) })
	return err
}
