package daemon

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/internal/strictyaml"
	"github.com/droverhq/drover/profiles"
)

// ConfigCommand makes drover config with its subcommand.
func ConfigCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "config",
		Short: "Check the configuration files",
	},
		newConfigCheckCmd(a),
	)
}

func newConfigCheckCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check drover.yaml and profiles.yaml before a start",
		Long: `Check drover.yaml and profiles.yaml as drover serve reads them, and start
nothing. FILE is /etc/drover/drover.yaml if it is left out; control.yaml has the
same keys. All mistakes are listed with file, line and column, including
settings of a profile that no backend can satisfy. Disks, addresses and
certificates are not tried. If a server responds, pools that no node has are
listed, and for root also the key files that are missing on this host. Whether
the existing pools satisfy a profile is checked when a volume is created.`,
		Example: `  drover config check
  drover config check drover.yaml --profiles profiles.yaml`,
		Args: cli.Args(0),
	}
	profiles := cmd.Flags().String("profiles", settings.DefaultProfiles,
		"profiles `FILE`; without a file at the default place, the built-in profiles are used")
	named := cmd.Flags().String("config", settings.DefaultConfig, "the same as the argument `FILE`")
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file := *named
		if len(args) > 0 {
			if cmd.Flags().Changed("config") && args[0] != file {
				return cli.UsageError(cmd, "name one file, with --config or as the argument")
			}
			file = args[0]
		}
		_, config := checkFile(file, settings.DefaultConfig, settings.LoadConfig)
		set, ofProfiles := checkFile(*profiles, settings.DefaultProfiles, settings.LoadProfiles)
		checks := []checkedFile{config, ofProfiles}
		if o.JSON() {
			return errors.Join(cli.JSONList(a.Out, checks), lastProblem(checks))
		}
		failed := printChecks(a, checks)
		if len(ofProfiles.mistakes) == 0 {
			return cmp.Or(settings.PrintNotes(cmd.Context(), a, set.All()), failed)
		}
		return failed
	}
	return cmd
}

// A checkedFile is a file of the configuration, and what is wrong with it.
type checkedFile struct {
	File     string   `json:"file"`
	Exists   bool     `json:"exists"` // if false, the default place has no file, and the defaults are used
	Mistakes []string `json:"mistakes"`
	mistakes []error
}

// checkFile reads a file as a process of Drover does. It returns the content of a valid file.
func checkFile[T any](path, defaultPath string, read func(string) (T, error)) (T, checkedFile) {
	c := checkedFile{File: path, Exists: true, Mistakes: []string{}}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && path == defaultPath {
		c.Exists = false
	}
	out, err := read(path)
	if err != nil {
		c.mistakes = strictyaml.All(err)
	}
	for _, m := range c.mistakes {
		c.Mistakes = append(c.Mistakes, m.Error())
	}
	return out, c
}

// lastProblem returns an error about the last file with a mistake, or nil if there is none.
func lastProblem(checks []checkedFile) error {
	for _, c := range slices.Backward(checks) {
		if len(c.mistakes) > 0 {
			return c.mistakes[0]
		}
	}
	return nil
}

// printChecks prints a line about each file, and all mistakes.
func printChecks(a *cli.App, checks []checkedFile) error {
	var failed error
	for _, c := range checks {
		line := c.File + " is valid"
		switch {
		case len(c.mistakes) > 0:
			if failed != nil {
				cli.PrintError(a.ErrOut, failed)
			}
			failed = cli.PrintMistakes(a, c.File, c.mistakes)
			continue
		case !c.Exists:
			line = "there is no " + c.File + ": the defaults are used"
		}
		if err := a.PrintLine("%s", line); err != nil {
			return err
		}
	}
	return failed
}

// driverRE matches valid names of the plugin. The name is also the name of a file in the engine's folder of plugins,
// and users type it after --volume-driver. A slash would name another folder, and a colon begins the tag of a managed
// plugin.
var driverRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// CheckServe fails with ErrInvalid for options that Serve cannot use. It creates nothing.
func (o Options) CheckServe() error {
	switch {
	case o.CA != "", o.Listen != nil, len(o.Replicas) > 0, o.TransferRate > 0, o.FencePrograms != nil, o.ListAll:
		return dataset.Errorf(dataset.ErrInvalid,
			"drover.yaml: the keys ca, listen, control, transfers, fence_programs and list are for the hosts of "+
				"a cluster, and drover serve runs a single host (remove them, or run drover control and drover agent)")
	}
	return o.checkHost()
}

// CheckControl fails with ErrInvalid for options that Control cannot use.
func (o Options) CheckControl() error {
	switch {
	case o.Consul == nil:
		return missingOption("store", "a cluster keeps its store in Consul",
			"store: {consul: {addresses: [\"https://consul1:8501\"]}}")
	case o.CA == "":
		return missingOption("ca", "control identifies itself with a certificate of the cluster's authority, which "+
			"drover ca init creates", "ca: /etc/drover/ca")
	case o.Listen == nil:
		return missingOption("listen", "agents connect to control over the network",
			"listen: {address: \"0.0.0.0:9470\", advertise: \"10.0.0.1:9470\"}")
	case len(o.Replicas) > 0:
		return dataset.Errorf(dataset.ErrInvalid,
			"drover.yaml: unexpected key control: it tells agents where control is, and this is control (remove it)")
	case len(o.Pools) > 0, len(o.Labels) > 0, o.TransferRate > 0, o.ListAll, o.CgroupParents != nil:
		return dataset.Errorf(dataset.ErrInvalid,
			"drover.yaml: the keys pools, labels, transfers, cgroup_parents and list are for agents, and "+
				"this is control (give drover agent its own file with --config)")
	}
	if err := o.checkPublish(config.PublishConsul,
		"control is not part of a Swarm (set it for drover agent)"); err != nil {
		return err
	}
	if err := o.checkFolders(); err != nil {
		return err
	}
	return socket.CheckPath(o.controlSocket())
}

// CheckAgent fails with ErrInvalid for options that Agent cannot use.
func (o Options) CheckAgent() error {
	switch {
	case len(o.Replicas) == 0:
		return missingOption("control", "an agent connects to the control replicas of the cluster",
			"control: {addresses: [\"10.0.0.1:9470\", \"10.0.0.2:9470\"]}")
	case o.Listen == nil:
		return missingOption("listen", "other hosts fetch volumes from this host",
			"listen: {address: \"0.0.0.0:9471\", advertise: \"10.0.0.1:9471\"}")
	case o.Consul != nil, o.CA != "":
		return dataset.Errorf(dataset.ErrInvalid,
			"drover.yaml: the keys store and ca are for control, and this is an agent (remove them)")
	}
	return o.checkHost()
}

func missingOption(key, reason, example string) error {
	return dataset.Errorf(dataset.ErrInvalid, "drover.yaml: missing key %s: %s (example: %s)", key, reason, example)
}

// checkPublish fails if the options name a place where this process cannot publish facts.
func (o Options) checkPublish(can, reason string) error {
	for _, place := range o.Publish {
		if place != can {
			return dataset.Errorf(dataset.ErrInvalid, "publish facts to %s: not possible here: %s", place, reason)
		}
	}
	return nil
}

// checkHost checks the options that every process with an agent needs.
func (o Options) checkHost() error {
	if err := o.checkPublish(config.PublishSwarm, "control does that (set it for drover control)"); err != nil {
		return err
	}
	if err := o.checkFolders(); err != nil {
		return err
	}
	switch {
	case !filepath.IsAbs(o.PluginDir):
		return relative("plugin-dir", o.PluginDir)
	case !driverRE.MatchString(o.Driver):
		return dataset.Errorf(dataset.ErrInvalid,
			"--driver %q: expected letters, digits, '_', '.' or '-', with a letter or digit first", o.Driver)
	case o.Driver == "local":
		return dataset.Errorf(dataset.ErrInvalid,
			"--driver local: Docker's built-in driver has this name (choose another name)")
	}
	for _, path := range []string{o.apiSocket(), o.pluginSocket()} {
		if err := socket.CheckPath(path); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) checkFolders() error {
	switch {
	case !filepath.IsAbs(o.Root):
		return relative("root", o.Root)
	case !filepath.IsAbs(o.Run):
		return relative("run", o.Run)
	case o.Metrics != "":
		// The answers are not encrypted, so other hosts must not reach the address.
		host, port, err := net.SplitHostPort(o.Metrics)
		ip := net.ParseIP(host)
		_, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || ip == nil || !ip.IsLoopback() {
			return dataset.Errorf(dataset.ErrInvalid,
				"--metrics-listen %q: expected a loopback address and a port, such as 127.0.0.1:9469", o.Metrics)
		}
	}
	return nil
}

func relative(flag, path string) error {
	return dataset.Errorf(dataset.ErrInvalid, "--%s %q: expected an absolute path", flag, path)
}

func (o Options) apiSocket() string     { return filepath.Join(o.Run, "drover.sock") }
func (o Options) controlSocket() string { return filepath.Join(o.Run, "control.sock") }
func (o Options) pluginSocket() string  { return filepath.Join(o.PluginDir, o.Driver+".sock") }

const (
	// lookEvery is the time between two looks at the file.
	lookEvery = 5 * time.Second
	// changeSettles is how long a changed file is not reported: a user who changes it reloads it next.
	changeSettles = 10 * time.Second
)

// profilesFile is profiles.yaml as it was last loaded. It also looks at the file from time to time, because a file that
// cannot be loaded prevents the next start. A change applies only after a reload. Its methods are safe for concurrent
// use.
type profilesFile struct {
	path    string
	clock   clock.Clock
	log     *logrus.Logger
	reread  chan struct{} // receives after set changed
	set     atomic.Pointer[profiles.Set]
	problem atomic.Pointer[api.Finding] // what is wrong with the file; nil if it is the loaded one

	mu   sync.Mutex // held while the file is read
	last fileStamp  // of the file when it was last read
	err  error      // why it could not be loaded then
	// reloadFailed is true if a user requested the load that failed with err.
	reloadFailed bool
	differs      bool          // it has other profiles than set, or cannot be loaded
	since        time.Duration // since when differs is true, by the steady clock
}

// fileStamp identifies a version of a file. It is the zero value if the file cannot be examined.
type fileStamp struct {
	device, inode     uint64
	size              int64
	modified, changed unix.Timespec
}

func stampOf(path string) fileStamp {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return fileStamp{}
	}
	return fileStamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
}

// loadProfilesFile loads a file of profiles for the first time.
func loadProfilesFile(path string, clk clock.Clock, log *logrus.Logger) (*profilesFile, error) {
	p := &profilesFile{path: path, clock: clk, log: log, reread: make(chan struct{}, 1)}
	p.last = stampOf(path) // before it is read: a change after that is noticed
	set, err := settings.LoadProfiles(path)
	p.set.Store(set)
	return p, err
}

// reload reads the file again and notifies reread. If the file has a mistake, the old profiles stay.
func (p *profilesFile) reload() {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.read()
	if p.err != nil {
		p.log.WithError(p.err).Error("reload failed; keeping previous profiles")
		p.reloadFailed = true
		p.problem.Store(p.describe())
		return
	}
	p.set.Store(set)
	p.differs = false
	p.problem.Store(nil)
	p.log.WithField("profiles", set.Names()).Info("reloaded the profiles")
	select {
	case p.reread <- struct{}{}:
	default: // a previous notification is still waiting
	}
}

// watch looks at the file every lookEvery until ctx ends. The returned function stops that, and waits for a running
// look.
func (p *profilesFile) watch(ctx context.Context) (wait func()) {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		for {
			select {
			case <-p.clock.After(lookEvery):
				p.look()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// look reads the file if it has changed since the last look, or could not be loaded then, and records what is wrong
// with it. It logs a file that can no longer be loaded once.
func (p *profilesFile) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || stampOf(p.path) != p.last {
		before := p.err
		if p.read(); p.err != nil && before == nil {
			p.log.WithError(p.err).Error("profiles cannot be loaded any more; keeping previous ones")
		}
	}
	p.problem.Store(p.describe())
}

// read reads the file, and compares it with the loaded profiles. mu is held.
func (p *profilesFile) read() (set *profiles.Set) {
	p.last = stampOf(p.path)
	set, p.err = settings.LoadProfiles(p.path)
	differed := p.differs
	loaded := p.set.Load()
	p.differs = p.err != nil || set.Default() != loaded.Default() || !reflect.DeepEqual(set.All(), loaded.All())
	if p.differs && !differed {
		p.since = p.clock.Steady()
	}
	p.reloadFailed = p.reloadFailed && p.err != nil
	return set
}

// describe returns the finding about the file as it was last read, or nil. mu is held.
func (p *profilesFile) describe() *api.Finding {
	var f api.Finding
	check := "drover config check --profiles " + p.path + ", then reload it (SIGHUP)"
	switch {
	case p.reloadFailed:
		f = condition.ProfilesNotReloaded.Finding("profiles", check, p.err)
	case errors.Is(p.err, os.ErrNotExist):
		f = condition.ProfilesMissing.Finding("profiles", "restore "+p.path, p.err)
	case p.err != nil:
		f = condition.ProfilesInvalid.Finding("profiles", check, p.err)
	case !p.differs, p.last != fileStamp{} && p.clock.Steady()-p.since < changeSettles:
		return nil
	case p.last == fileStamp{}: // without the file in its default place, the built-in profiles are loaded
		f = condition.ProfilesRemoved.Finding("profiles", "", p.path)
	default:
		f = condition.ProfilesChanged.Finding("profiles", "", p.path)
	}
	return &f
}

// findings returns what is wrong with the file.
func (p *profilesFile) findings() []api.Finding {
	if f := p.problem.Load(); f != nil {
		return []api.Finding{*f}
	}
	return nil
}
