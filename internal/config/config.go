// Package config parses drover.yaml, the settings of an operator for a host. Package settings of the command
// (cmd/drover/internal) parses the file. Package daemon uses the parsed [Config] and the names of the
// places where facts are published, and package status uses the paths of the pools. Package config performs no
// I/O, keeps no state, and is as strict as the parser of profiles.yaml. To add a key, add a field to Config, a reader
// to this package, and the key with its description to drover.schema.json, from which the reference pages are made.
package config

import (
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// Config is the content of drover.yaml. The zero value is an absent file.
type Config struct {
	Pools  []Pool            // in the order of the file; empty means the default pool
	Labels map[string]string // labels of the node
	Consul *Consul           // the store; nil means a file in the root of Drover

	CA      string   // folder of the certificate authority on a control replica: an absolute, clean path
	Listen  *Listen  // address of this process on the network; nil means none
	Control []string // addresses of the control replicas, for an agent: HOST:PORT
	Publish []string // where facts are published: PublishSwarm, PublishConsul

	// TransferRate is the maximum number of bytes a second that moves and replicas of an agent's host send and receive
	// together. 0 means no limit.
	TransferRate dataset.Size
	// FencePrograms lists the programs that profiles and repositories may name: as a fence command, or to print a key
	// or a password. The agent's host runs them as root. If nil, every program that only root can change is allowed.
	FencePrograms []string
	// CgroupParents lists the control groups below which the engine of an agent's host creates containers. If nil, the
	// defaults of the engines are used.
	CgroupParents []string
	// ListAll makes the engine of an agent's host list the volumes of all hosts.
	ListAll bool
	// HideVolumeMetrics leaves out the metrics with a series for each volume.
	HideVolumeMetrics bool
}

// Listen describes where a process listens on the network, and where others reach it.
type Listen struct {
	Address string // IP:PORT to listen on
	// Advertise is HOST:PORT at which other hosts reach the process. If the file lacks it, it is Address. The key is
	// required if Address means all addresses of the host.
	Advertise string
}

// Consul describes a store in Consul and how to connect to it. If the file lacks a key, its field is empty, except
// Prefix.
type Consul struct {
	Addresses                 []string // URLs; at least one
	Prefix                    string   // of the cluster's keys; "drover" if the file names none
	TokenFile                 string   // this and the following paths are absolute and clean
	CAFile, CertFile, KeyFile string
	ServerName                string // the name in Consul's certificates
}

// Pool is one pool of the host.
type Pool struct {
	Name    string
	Backend string
	Path    string       // absolute and clean; may be empty if Devices is not
	Image   dataset.Size // if above 0, Path is a preallocated image file of this size
	Devices []string     // absolute and clean: the devices of the pool
	// Trim is the interval at which the free space of the devices is discarded. 0 means the default of the agent, a
	// negative value never.
	Trim time.Duration
	// Overcommit is the highest ratio of the total size of the pool's volumes to the size of the pool. 0 means not
	// limited.
	Overcommit float64
}

// The limits of a file, far above the needs of a host.
const (
	maxPools   = 64
	maxDevices = 64 // of a pool
	maxLabels  = 64
	maxLabel   = 1024 // bytes of a value
	maxConsul  = 16   // addresses of Consul; also the limit for addresses of control replicas
)

// Parse parses drover.yaml. file is the name of the file, for errors. An empty file is valid. backend fails for the
// name of a backend that does not exist. If backend is nil, every name is accepted. Errors are ErrInvalid. If the file
// is YAML, they contain all mistakes as strictyaml.Mistakes, each with its place, but only one for each place. The
// message of the error is that of the first mistake.
func Parse(file string, src []byte, backend func(name string) error) (Config, error) {
	root, err := strictyaml.Parse(file, src)
	if err != nil {
		return Config{}, err
	}
	var c Config
	var bad strictyaml.Mistakes
	keys, err := root.Keys([]string{"pools", "labels", "store", "ca", "listen", "control", "publish_facts",
		"transfers", "fence_programs", "list", "cgroup_parents", "metrics"}, map[string]string{
		"remotes": "drover serves no repositories: use rclone or rest-server (docs/push-and-pull.md)",
	})
	bad.Add(err)
	c.Consul, err = parseStore(keys["store"])
	bad.Add(err)
	bad.Add(path(keys["ca"], &c.CA))
	c.Listen, err = listen(keys["listen"])
	bad.Add(err)
	c.Control, err = control(keys["control"])
	bad.Add(err)
	c.Publish, err = publish(keys["publish_facts"])
	bad.Add(err)
	c.TransferRate, err = transfers(keys["transfers"])
	bad.Add(err)
	c.FencePrograms, err = programs(keys["fence_programs"])
	bad.Add(err)
	c.ListAll, err = listAll(keys["list"])
	bad.Add(err)
	c.CgroupParents, err = parents(keys["cgroup_parents"])
	bad.Add(err)
	c.HideVolumeMetrics, err = hideVolumeMetrics(keys["metrics"])
	bad.Add(err)
	c.Pools, err = pools(keys["pools"], backend)
	bad.Add(err)
	c.Labels, err = labels(keys["labels"])
	bad.Add(err)
	if err := bad.Err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func labels(n strictyaml.Node) (map[string]string, error) {
	fields, err := n.Fields()
	if err != nil || len(fields) == 0 {
		return nil, err
	}
	if len(fields) > maxLabels {
		return nil, n.Errorf("too many labels: %d (%d at most)", len(fields), maxLabels)
	}
	var bad strictyaml.Mistakes
	out := make(map[string]string, len(fields))
	for _, f := range fields {
		if err := dataset.CheckLabel(f.Name); err != nil {
			bad.Add(f.Node.KeyErrorf("%v", err))
			continue
		}
		if f.Node.Absent() {
			bad.Add(f.Node.KeyErrorf(`it has no value: use "" for an empty one`))
			continue
		}
		v, err := f.Node.Scalar()
		if bad.Add(err) && len(v) > maxLabel {
			bad.Add(f.Node.Errorf("a value of %d bytes is too long (%d at most)", len(v), maxLabel))
		}
		out[f.Name] = v
	}
	return out, bad.Err()
}

func pools(n strictyaml.Node, backend func(string) error) ([]Pool, error) {
	items, err := n.Items()
	if err != nil {
		return nil, err
	}
	if len(items) > maxPools {
		return nil, n.Errorf("too many pools: %d (%d at most)", len(items), maxPools)
	}
	var bad strictyaml.Mistakes
	var out []Pool
	for _, item := range items {
		p, err := pool(item, backend)
		if !bad.Add(err) {
			continue
		}
		for _, other := range out {
			if other.Name == p.Name {
				bad.Add(item.Errorf("pool %s is defined twice", p.Name))
			} else if other.Path == p.Path && p.Path != "" {
				bad.Add(item.Errorf("pool %s has the path of pool %s", p.Name, other.Name))
			}
			for _, device := range p.Devices {
				if slices.Contains(other.Devices, device) {
					bad.Add(item.Errorf("pool %s has device %s of pool %s", p.Name, device, other.Name))
				}
			}
		}
		out = append(out, p)
	}
	return out, bad.Err()
}

func pool(n strictyaml.Node, backend func(string) error) (Pool, error) {
	var p Pool
	var bad strictyaml.Mistakes
	keys, err := n.Keys([]string{"name", "backend", "path", "image", "devices", "trim", "overcommit"}, nil)
	if !bad.Add(err) && len(keys) == 0 {
		return p, err
	}
	need := []string{"name", "backend", "path"}
	if _, ok := keys["devices"]; ok {
		need = need[:2]
		if image, ok := keys["image"]; ok {
			bad.Add(image.KeyErrorf("a pool uses either an image or devices, not both"))
		}
	}
	for _, need := range need {
		if _, ok := keys[need]; !ok && err == nil {
			bad.Add(n.Errorf("a pool needs a %s", need))
		}
	}
	bad.Add(simpleName(keys["name"], &p.Name))
	if bad.Add(simpleName(keys["backend"], &p.Backend)) && p.Backend != "" && backend != nil {
		bad.Add(keys["backend"].Wrap(backend(p.Backend)))
	}
	bad.Add(path(keys["path"], &p.Path))
	bad.Add(image(keys["image"], &p.Image))
	p.Devices, err = devices(keys["devices"])
	bad.Add(err)
	if n, ok := keys["trim"]; ok && keys["devices"].Absent() {
		bad.Add(n.KeyErrorf("only a pool on devices is trimmed: omit it"))
	} else if ok {
		p.Trim, err = trim(n)
		bad.Add(err)
	}
	bad.Add(overcommit(keys["overcommit"], &p.Overcommit))
	return p, bad.Err()
}

// overcommit reads a ratio such as 1.5.
func overcommit(n strictyaml.Node, into *float64) error {
	if n.Absent() {
		return nil
	}
	text, err := n.Scalar()
	if err != nil {
		return err
	}
	ratio, err := strconv.ParseFloat(text, 64)
	if err != nil || ratio == 0 || dataset.CheckOvercommit(ratio) != nil {
		return n.Errorf("bad overcommit %.80q: expected a ratio from 0.01 to 1000, such as 1.5", text)
	}
	*into = ratio
	return nil
}

func devices(n strictyaml.Node) ([]string, error) {
	items, err := n.Items()
	if err != nil || n.Absent() {
		return nil, err
	}
	if len(items) == 0 || len(items) > maxDevices {
		return nil, n.Errorf("a pool of %d devices: expected 1 to %d", len(items), maxDevices)
	}
	var bad strictyaml.Mistakes
	var out []string
	for _, item := range items {
		var device string
		if !bad.Add(path(item, &device)) {
			continue
		}
		if slices.Contains(out, device) {
			bad.Add(item.Errorf("device %s is listed twice", device))
		}
		out = append(out, device)
	}
	return out, bad.Err()
}

// The limits of the key trim, and the value for a pool that is never trimmed.
const (
	minTrim = time.Hour
	maxTrim = 10000 * time.Hour
	never   = -1
)

func trim(n strictyaml.Node) (time.Duration, error) {
	text, err := n.String()
	if err != nil {
		return 0, err
	}
	switch text {
	case "weekly":
		return 7 * 24 * time.Hour, nil
	case "never":
		return never, nil
	}
	every, err := dataset.ParseDuration(text)
	if err != nil || every < minTrim || every > maxTrim {
		return 0, n.Errorf("bad trim %.80q: expected weekly, never, or a time of 1h or more, such as 24h or 3d", text)
	}
	return every, nil
}

func simpleName(n strictyaml.Node, into *string) (err error) {
	if *into, err = n.String(); err != nil || n.Absent() {
		return err
	}
	if dataset.CheckPoolName(*into) != nil {
		return n.Errorf("bad name %.80q: expected 1 to 63 lower-case letters, digits or '-', with a letter or "+
			"digit first", *into)
	}
	return nil
}

func path(n strictyaml.Node, into *string) (err error) {
	if *into, err = n.String(); err != nil || n.Absent() {
		return err
	}
	if !filepath.IsAbs(*into) || filepath.Clean(*into) != *into || *into == "/" {
		return n.Errorf(`bad path %.200q: expected an absolute one, without ".." or a slash at its end`, *into)
	}
	return nil
}

func image(n strictyaml.Node, into *dataset.Size) error {
	s, err := n.Scalar()
	if err != nil || n.Absent() {
		return err
	}
	*into, err = dataset.ParseSize(s)
	return n.Wrap(err)
}
