package daemon

import (
	"net"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/socket"
)

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
	if err := o.checkPublish(config.PublishSwarm,
		"control does that (set it for drover control)"); err != nil {
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
		return checkLoopback(o.Metrics)
	}
	return nil
}

func relative(flag, path string) error {
	return dataset.Errorf(dataset.ErrInvalid, "--%s %q: expected an absolute path", flag, path)
}

func (o Options) apiSocket() string     { return filepath.Join(o.Run, "drover.sock") }
func (o Options) controlSocket() string { return filepath.Join(o.Run, "control.sock") }
func (o Options) pluginSocket() string  { return filepath.Join(o.PluginDir, o.Driver+".sock") }

// checkLoopback accepts only a TCP address that other hosts cannot reach, because its answers are not encrypted.
func checkLoopback(address string) error {
	host, port, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	_, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || ip == nil || !ip.IsLoopback() {
		return dataset.Errorf(dataset.ErrInvalid,
			"--metrics-listen %q: expected a loopback address and a port, such as 127.0.0.1:9469", address)
	}
	return nil
}
