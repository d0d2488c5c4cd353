package daemon

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/internal/steps"
)

// Flags are the flags of the processes of Drover.
type Flags struct {
	config, profiles, root, run, pluginDir, driver, metrics, node, Level, logFormat string
	publish                                                                         []string
}

func (f *Flags) common(fl *pflag.FlagSet) {
	fl.StringVar(&f.config, "config", settings.DefaultConfig,
		"configuration `FILE`; the default file is optional")
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

// tune sets GOMAXPROCS and GOGC for work that mostly waits for disks, unless the user has set them. By default, Go runs
// one goroutine for each CPU. While one waits in a flush, others that are ready must wait too. With two CPUs and 64
// concurrent creates, this would reduce the number of creates a second by a tenth to a fifth. Garbage is collected half
// as often as by default, which saves another twentieth, and the heap is still small.
func tune(getenv func(string) string) {
	if getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(4, 2*runtime.NumCPU()))
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// runProcess reads the settings of a process and runs it until a signal ends it.
func runProcess(ctx context.Context, a *cli.App, f Flags,
	process func(context.Context, Options) error) error {
	tune(a.Getenv)
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
