package config

import (
	"net"
	"slices"
	"strconv"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// listen reads the address of a process on the network. It returns nil if the key is absent.
func listen(n strictyaml.Node) (*Listen, error) {
	if n.Absent() {
		return nil, nil
	}
	keys, err := n.Keys([]string{"address", "advertise"}, nil)
	if err != nil {
		return nil, err
	}
	var l Listen
	var bad strictyaml.Mistakes
	if keys["address"].Absent() {
		bad.Add(n.Errorf(`it needs an address, such as "0.0.0.0:9470"`))
	}
	l.Address, err = hostPort(keys["address"])
	if bad.Add(err) && l.Address != "" && ip(l.Address) == nil {
		bad.Add(keys["address"].Errorf("bad address %.80q: expected an IP address of this host, or 0.0.0.0, with "+
			"the port", l.Address))
	}
	l.Advertise, err = hostPort(keys["advertise"])
	bad.Add(err)
	all := ip(l.Address) != nil && ip(l.Address).IsUnspecified()
	switch {
	case l.Advertise == "" && all:
		bad.Add(n.Errorf("it needs an advertise, the address at which others reach this host, because %s means "+
			"all addresses", l.Address))
	case l.Advertise == "":
		l.Advertise = l.Address
	case ip(l.Advertise) != nil && ip(l.Advertise).IsUnspecified():
		bad.Add(keys["advertise"].Errorf("others cannot reach this host at %s: expected one of its "+
			"addresses", l.Advertise))
	}
	if err := bad.Err(); err != nil {
		return nil, err
	}
	return &l, nil
}

// minTransferRate is the lowest rate at which a move can end within its time limits.
const minTransferRate dataset.Size = 64 << 10

// transfers reads the limit of moves and replicas.
func transfers(n strictyaml.Node) (rate dataset.Size, err error) {
	if n.Absent() {
		return 0, nil
	}
	keys, err := n.Keys([]string{"rate"}, nil)
	if err != nil {
		return 0, err
	}
	v := keys["rate"]
	if v.Absent() {
		return 0, n.Errorf("it needs a rate, in bytes per second, such as 100MiB")
	}
	s, err := v.Scalar()
	if err != nil {
		return 0, err
	}
	if rate, err = dataset.ParseSize(s); err != nil {
		return 0, v.Wrap(err)
	}
	if rate < minTransferRate {
		return 0, v.Errorf("%s per second is too low: expected %s or more", rate, minTransferRate)
	}
	return rate, nil
}

// maxPrograms is the maximum number of fence programs of a host.
const maxPrograms = 64

// programs reads the list of Config.FencePrograms. It returns nil if the key is absent. An empty list allows no
// program.
func programs(n strictyaml.Node) ([]string, error) {
	items, err := n.Items()
	if err != nil || n.Absent() {
		return nil, err
	}
	if len(items) > maxPrograms {
		return nil, n.Errorf("too many programs: %d (%d at most)", len(items), maxPrograms)
	}
	var bad strictyaml.Mistakes
	out := make([]string, len(items))
	for i, item := range items {
		bad.Add(path(item, &out[i]))
	}
	return out, bad.Err()
}

// The values of the key that selects the volumes in an engine's list.
const (
	listNode    = "node" // the default
	listCluster = "cluster"
)

// listAll reports whether an engine's list shows the volumes of all hosts.
func listAll(n strictyaml.Node) (bool, error) {
	s, err := n.String()
	switch {
	case err != nil || n.Absent() || s == listNode:
		return false, err
	case s == listCluster:
		return true, nil
	}
	valid := []string{listNode, listCluster}
	return false,
		n.Errorf("unknown %.80q (available: %s)%s", s, dataset.FormatChoices(valid), dataset.Suggestion(s, valid))
}

// control reads the addresses of the control replicas. It returns nil if the key is absent.
func control(n strictyaml.Node) ([]string, error) {
	if n.Absent() {
		return nil, nil
	}
	keys, err := n.Keys([]string{"addresses"}, nil)
	if err != nil {
		return nil, err
	}
	if keys["addresses"].Absent() {
		return nil, n.Errorf(`it needs addresses, such as ["10.0.0.1:9470", "10.0.0.2:9470"]`)
	}
	items, err := keys["addresses"].Items()
	if err != nil {
		return nil, err
	}
	if len(items) == 0 || len(items) > maxConsul {
		return nil, keys["addresses"].Errorf("%d addresses: expected 1 to %d", len(items), maxConsul)
	}
	var bad strictyaml.Mistakes
	var out []string
	for _, item := range items {
		a, err := hostPort(item)
		if bad.Add(err) && slices.Contains(out, a) {
			bad.Add(item.Errorf("%s is listed twice", a))
		}
		out = append(out, a)
	}
	return out, bad.Err()
}

// hostPort reads HOST:PORT. It returns "" if the key is absent.
func hostPort(n strictyaml.Node) (string, error) {
	if n.Absent() {
		return "", nil
	}
	if n.IsMap() {
		// In a list in brackets, the YAML parser reads host:9470 without quotes as a key and a value.
		return "", n.Errorf(`expected an address in quotes, such as "10.0.0.1:9470"`)
	}
	s, err := n.String()
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(s)
	number, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" || number == 0 {
		return "", n.Errorf("bad address %.80q: expected HOST:PORT, such as 10.0.0.1:9470", s)
	}
	return s, nil
}

func ip(hostPort string) net.IP {
	host, _, _ := net.SplitHostPort(hostPort)
	return net.ParseIP(host)
}
