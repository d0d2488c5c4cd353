package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/audit"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/steps"
)

// process has the parts of a process of Drover: its settings, and its clean-ups.
type process struct {
	Options
	clock    clock.System
	recorder *Recorder
	closers  []func() error
	mapped   []mappedFile // databases of the process
}

// newProcess creates the folders and takes the named lock in the root. Existing folders keep their mode.
func newProcess(o Options, lock string, folders ...string) (*process, error) {
	for _, dir := range folders {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("create %s: %w", dir, err)
		}
	}
	if lock == hostLock {
		if err := checkKernel(); err != nil {
			return nil, err
		}
	}
	unlock, err := lockRoot(o.Root, lock)
	if err != nil {
		return nil, err
	}
	return &process{Options: o, recorder: NewRecorder(), closers: []func() error{unlock}}, nil
}

// checkKernel fails unless a mount can follow no links: MOUNT_ATTR_NOSYMFOLLOW of mount_setattr(2), which is EINVAL
// before Linux 5.14. The call changes nothing, because it names no mount.
func checkKernel() error {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return dataset.Errorf(dataset.ErrUnsupported, "drover needs Linux 5.14 or later on a host with volumes")
	}
	return nil
}

// addCloser adds a clean-up. The clean-ups run in reverse order when the process ends.
func (p *process) addCloser(f func() error) { p.closers = append(p.closers, f) }

func (p *process) closeAll() (err error) {
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, p.closers[i]())
	}
	return err
}

// background runs f in a goroutine until the process ends. When the process ends, f is stopped before everything that
// was opened earlier is closed.
func (p *process) background(ctx context.Context, f func(context.Context)) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	p.addCloser(func() error { stop(); <-done; return nil })
}

// audit opens the log of the changes through this process.
func (p *process) audit(name string) (*audit.Log, error) {
	l, err := audit.Open(filepath.Join(p.Root, name), p.clock, func(err error) {
		p.Log.WithError(err).Error("could not write a change to the audit log")
	})
	if err != nil {
		return nil, err
	}
	p.addCloser(l.Close)
	return l, nil
}

// endpoint is one socket with its server.
type endpoint struct {
	what string
	net.Listener
	server connServer
}

// connServer answers the connections of a listener until it is shut down. An *http.Server implements it.
type connServer interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// stopTime is how long running requests may take to end when the process stops.
const stopTime = 20 * time.Second

// serve answers on all sockets until ctx ends or one of them fails, and then closes them.
func (p *process) serve(ctx context.Context, list []endpoint, fields logrus.Fields) (err error) {
	failed := make(chan error, len(list))
	for _, e := range list {
		fields[e.what] = e.Addr().String()
		go func() {
			if err := e.server.Serve(e.Listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", e.what, err)
				return
			}
			failed <- nil
		}()
	}
	p.Log.WithFields(fields).Info("drover is ready")
	if p.Ready != nil {
		p.Ready()
	}
	n := len(list)
	select {
	case <-ctx.Done():
		p.Log.Info("stopping; mounts stay")
	case err = <-failed:
		n--
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	for i := len(list) - 1; i >= 0; i-- {
		err = errors.Join(err, list[i].server.Shutdown(stopping))
	}
	for range n {
		err = errors.Join(err, <-failed)
	}
	return err
}

// Flags are the flags of the processes of Drover.
type Flags struct {
	config, profiles, root, run, pluginDir, driver, metrics, node, Level, logFormat string
	publish                                                                         []string
}

func (f *Flags) common(fl *pflag.FlagSet) {
	fl.StringVar(&f.config, "config", settings.DefaultConfig, "configuration `FILE`; the default file is optional")
	fl.StringVar(&f.root, "root", "/var/lib/drover", "`DIR` of the state, the pools and the mounts")
	fl.StringVar(&f.run, "run", "/run/drover", "`DIR` of the API's socket")
	fl.StringVar(&f.metrics, "metrics-listen", "", "loopback `ADDRESS` for /metrics without TLS, such as "+
		"127.0.0.1:9469")
	fl.StringVar(&f.node, "node-name", "", "`NAME` of this node (default: the host's name)")
	fl.StringVar(&f.Level, "log-level", "info", "minimum `LEVEL` of log messages: debug, info, warning, error")
	fl.StringVar(&f.logFormat, "log-format", Auto, FlagHelp)
}

// ofControl adds the flags of a process that runs control.
func (f *Flags) ofControl(fl *pflag.FlagSet) {
	fl.StringVar(&f.profiles, "profiles", settings.DefaultProfiles,
		"profiles `FILE`; without a file at the default place, the built-in profiles are used")
}

// ofHost adds the flags of a process that runs an agent.
func (f *Flags) ofHost(fl *pflag.FlagSet) {
	fl.StringVar(&f.pluginDir, "plugin-dir", "/run/docker/plugins", "`DIR` where Docker looks for plugins")
	fl.StringVar(&f.driver, "driver", "drover", "`NAME` of the volume driver")
}

// OfStore adds the flags of a command that opens the store itself.
func (f *Flags) OfStore(fl *pflag.FlagSet) {
	f.Level = "error"
	fl.StringVar(&f.config, "config", settings.DefaultConfig,
		"configuration `FILE` that names the store; the default file is optional")
	fl.StringVar(&f.root, "root", "/var/lib/drover",
		"`DIR` of the state, with the store unless drover.yaml names another")
}

// publishing adds the flag that chooses where this process publishes facts. where lists the possible targets.
func (f *Flags) publishing(fl *pflag.FlagSet, where string) {
	fl.StringSliceVar(&f.publish, "publish-facts", nil,
		"publish facts of hosts to `TARGET`: "+where+"; overrides publish_facts in drover.yaml")
}

// The possible targets in the help text.
const (
	toSwarm  = "swarm (labels of the Swarm's nodes)"
	toConsul = "consul (tags and metadata of the agents' services)"
)

// runProcess reads the settings of a process and runs it until a signal ends it.
func runProcess(ctx context.Context, a *cli.App, f Flags, process func(context.Context, Options) error) error {
	// The work mostly waits for disks. By default, Go runs one goroutine for each CPU. While one waits in a flush,
	// others that are ready must wait too: with two CPUs and 64 concurrent creates, that would cost a tenth to a fifth
	// of the creates a second. Garbage is collected half as often as by default, which saves another twentieth, and the
	// heap is still small.
	if a.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(4, 2*runtime.NumCPU()))
	}
	if a.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	log, err := NewLogger(f.Level, f.logFormat, a.Getenv)
	if err != nil {
		return err
	}
	o, err := f.Options(a, log)
	if err != nil {
		return err
	}
	// The work of a process belongs to the requests that it receives, and not to the command that started it.
	ctx, stop := signal.NotifyContext(requestid.Without(ctx), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if f.profiles != "" {
		current, err := loadProfilesFile(f.profiles, clock.System{}, log)
		if err != nil {
			return err
		}
		o.Profiles = func() control.Profiles { return current.set.Load() }
		o.Reread, o.ProfileFindings = current.reread, current.findings
		defer onHangup(ctx, current.reload)()
		defer current.watch(ctx)()
	} else {
		defer IgnoreHangup(ctx, log)()
	}
	return process(ctx, o)
}

// Options returns the settings from the flags and drover.yaml.
func (f *Flags) Options(a *cli.App, log *logrus.Logger) (o Options, err error) {
	cfg, err := settings.LoadConfig(f.config)
	if err != nil {
		return o, err
	}
	if f.node == "" {
		if f.node, err = os.Hostname(); err != nil {
			return o, fmt.Errorf("determine the name of this host: %w (use --node-name)", err)
		}
	}
	o = Options{
		Root: f.root, Run: f.run, PluginDir: f.pluginDir, Driver: f.driver, Metrics: f.metrics,
		NodeName: f.node, Version: a.Version, Labels: cfg.Labels,
		CA: cfg.CA, Listen: cfg.Listen, Replicas: cfg.Control, Publish: cfg.Publish, TransferRate: cfg.TransferRate,
		FencePrograms: cfg.FencePrograms, ListAll: cfg.ListAll, CgroupParents: cfg.CgroupParents,
		HideVolumeMetrics: cfg.HideVolumeMetrics,
		Backends:          settings.Backends(),
		Log:               log,
		Freezer:           []string{"/proc/self/exe", "freezer"},
		Ready:             func() { NotifyReady(log) },
	}
	if f.publish != nil {
		if o.Publish, err = f.publish, config.CheckPublish(f.publish); err != nil {
			return o, fmt.Errorf("--publish-facts: %w", err)
		}
	}
	if s := steps.Session(); s > 0 {
		o.ControlTiming = membership.Timing{Session: s, Housekeeping: 2 * s}
		o.AgentTiming = agent.Timing{Heartbeat: s, Retry: s / 10, InUseWait: 3 * s, MoveWait: 5 * s}
	}
	for _, p := range cfg.Pools {
		o.Pools = append(o.Pools, pool.Config{
			Name:    p.Name,
			Backend: p.Backend,
			Path:    p.Path,
			Image:   p.Image,
			Devices: p.Devices,
			Trim:    p.Trim,

			Overcommit: p.Overcommit,
		})
	}
	if c := cfg.Consul; c != nil {
		o.Consul = &consul.Options{
			Addresses: c.Addresses, Prefix: c.Prefix, TokenFile: c.TokenFile, Token: a.Getenv("CONSUL_HTTP_TOKEN"),
			CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName,
		}
	}
	return o, nil
}

// onHangup calls fn at each SIGHUP until ctx ends. The returned function stops that, and waits for a running fn.
func onHangup(ctx context.Context, fn func()) (wait func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGHUP)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		defer signal.Stop(ch)
		for {
			select {
			case <-ch:
				fn()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// IgnoreHangup makes a process that reads no profiles ignore SIGHUP until ctx ends. Without it, the signal would end
// the process, although it only reloads a file in other processes of Drover. The returned function stops that.
func IgnoreHangup(ctx context.Context, log logrus.FieldLogger) (stop func()) {
	return onHangup(ctx, func() {
		log.Info("ignored SIGHUP: this process reloads no file (restart it to read drover.yaml)")
	})
}

// NotifyReady notifies systemd, if it started this process, that everything is served.
func NotifyReady(log *logrus.Logger) {
	if _, err := systemd.SdNotify(false, systemd.SdNotifyReady); err != nil {
		log.WithError(err).Warn("cannot notify systemd that drover is ready")
	}
}

// The lock files in a root. The process with the host's agent locks hostLock, and a control replica locks controlLock.
const (
	hostLock    = "lock"
	controlLock = "control.lock"
)

// lockRoot ensures that at most one process with the host's agent and at most one control replica use a root. A second
// one gets an error that names the first one. The kernel releases the lock when the process ends, however it ends.
func lockRoot(root, name string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(root, name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		owner, rerr := io.ReadAll(io.LimitReader(f, 64))
		if err := errors.Join(rerr, f.Close()); err != nil {
			owner = []byte("unknown")
		}
		return nil, dataset.Errorf(dataset.ErrInUse, "%[2]s is in use by another drover (pid %[1]s): stop it, or "+
			"choose another --root",
			strings.TrimSpace(string(owner)), root)
	}
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", root, err), f.Close())
	}
	return f.Close, nil
}

const (
	// memoryBase is the memory that a daemon may use without volumes before the garbage collector works harder. It
	// has room for the pages of a long list and for many requests at once.
	memoryBase = 40 << 20
	// memoryOfVolume is the memory that each volume adds to the limit. A bit more than half of it is reachable once
	// lists and metrics were read (2.4 KiB at 30,000 volumes), and the rest is room for garbage. With 3 KiB, the
	// garbage collector ran all the time while 30,000 volumes were listed.
	memoryOfVolume = 4 << 10
	// memoryPause is the time between two adjustments.
	memoryPause = 2 * time.Second
	// quietBytes is the most that a quiet daemon allocates in one pause. Heartbeats and idle pools need less.
	quietBytes = 1 << 20
	// releaseAfter is how much must have been allocated since the last release. Less garbage does not pay for a run
	// of the garbage collector.
	releaseAfter = 8 << 20
	// releaseEvery is the minimum time between two releases. Each runs the garbage collector, so a daemon whose
	// heartbeats allocate up to quietBytes in each pause must not release memory whenever that adds up.
	releaseEvery = time.Minute
)

// mappedFile is a database whose file is mapped into memory.
type mappedFile interface{ ReleasePages() error }

// boundMemory adjusts the memory of the daemon until ctx ends. It sets the limit of the Go runtime by the number of
// volumes, and gives memory back to the kernel when the daemon becomes quiet after work: garbage, and the pages of the
// databases. Without a limit, the garbage of a long list or of a burst of requests would double the memory of the
// daemon until the next collection. The limit is soft: the runtime exceeds it rather than stop the program
// (runtime/debug.SetMemoryLimit). It covers the memory of Go, not the pages of files that are mapped. An operator's
// GOMEMLIMIT has priority over this limit. If volumes is nil, boundMemory sets no limit.
func boundMemory(ctx context.Context, c clock.Clock, volumes func() int, release func()) {
	var q quietness
	for {
		if volumes != nil && os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryBase + int64(volumes())*memoryOfVolume)
		}
		if q.becomesQuiet(allocatedBytes(), c.Steady()) {
			release()
		}
		select {
		case <-ctx.Done():
			return
		case <-c.After(memoryPause):
		}
	}
}

// allocatedBytes returns how many bytes the program has allocated since its start.
func allocatedBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// quietness finds the moment at which memory can be given back. It is not safe for concurrent use.
type quietness struct {
	last     uint64        // allocated bytes at the last call
	released uint64        // allocated bytes at the last call that returned true
	at       time.Duration // time of that call
	once     bool          // a call has returned true
}

// becomesQuiet reports whether the daemon was quiet since the last call, and has worked since the last call that
// returned true, which was at least releaseEvery ago. allocated is the number of bytes that the program has allocated
// since its start. now is the time since the boot of the host.
func (q *quietness) becomesQuiet(allocated uint64, now time.Duration) bool {
	quiet := allocated-q.last <= quietBytes
	q.last = allocated
	if !quiet || allocated-q.released < releaseAfter || q.once && now-q.at < releaseEvery {
		return false
	}
	q.released, q.at, q.once = allocated, now, true
	return true
}

// releaseMemory gives garbage, and the pages of mapped files, back to the kernel. The pages stay in the page cache, so
// they are mapped again without a read of the disk.
func releaseMemory(files []mappedFile, log logrus.FieldLogger) {
	debug.FreeOSMemory()
	for _, f := range files {
		if err := f.ReleasePages(); err != nil {
			log.WithError(err).Debug("cannot release the pages of a database")
		}
	}
}
