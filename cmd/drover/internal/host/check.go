package host

import (
	"net"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/socket"
)

// driverRE takes what the engine finds by the file's name in the folder of plugins,
// and what can be typed after --volume-driver: no slash, which is another folder, and
// no colon, which begins the tag of a managed plugin.
var driverRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Check fails with ErrInvalid for what Run could not work with. It makes nothing.
func (o Options) Check() error {
	for _, dir := range []struct{ flag, path string }{{"root", o.Root}, {"run", o.Run}, {"plugin-dir", o.PluginDir}} {
		if !filepath.IsAbs(dir.path) {
			return dataset.Errorf(dataset.ErrInvalid, "--%s %q: want an absolute path", dir.flag, dir.path)
		}
	}
	switch {
	case !driverRE.MatchString(o.Driver):
		return dataset.Errorf(dataset.ErrInvalid, "--driver %q: want letters, digits, '_', '.' or '-', beginning with a letter or digit", o.Driver)
	case o.Driver == "local":
		return dataset.Errorf(dataset.ErrInvalid, "--driver local: that is Docker's own, which would be asked in place of this one (say another name)")
	}
	for _, path := range []string{o.apiSocket(), o.pluginSocket()} {
		if err := socket.CheckPath(path); err != nil {
			return err
		}
	}
	if o.Metrics != "" {
		if err := checkLoopback(o.Metrics); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) apiSocket() string    { return filepath.Join(o.Run, "drover.sock") }
func (o Options) pluginSocket() string { return filepath.Join(o.PluginDir, o.Driver+".sock") }

// checkLoopback takes a TCP address that nobody off this host can reach: what is
// answered there is plain.
func checkLoopback(address string) error {
	host, port, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	_, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || ip == nil || !ip.IsLoopback() {
		return dataset.Errorf(dataset.ErrInvalid, "--metrics-listen %q: want a loopback address and a port, such as 127.0.0.1:9469", address)
	}
	return nil
}
