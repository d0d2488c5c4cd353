// Package config reads drover.yaml: what an operator says of a host. It is pure,
// and as strict as profiles.yaml.
package config

import (
	"path/filepath"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// Config is what drover.yaml says; the zero value is an absent file.
type Config struct {
	Pools  []Pool
	Labels map[string]string
}

// Pool is one pool of the host.
type Pool struct {
	Name    string
	Backend string
	Path    string       // absolute and clean
	Image   dataset.Size // > 0: Path is a preallocated image file of that size
}

const notBuilt = "is for clusters, which are not built yet in this version: leave it out"

// Parse reads drover.yaml. The file's name is only for errors, which are
// ErrInvalid with their place.
func Parse(file string, src []byte) (Config, error) {
	var c Config
	root, err := strictyaml.Parse(file, src)
	if err != nil {
		return c, err
	}
	keys, err := root.Keys([]string{"pools", "labels"}, map[string]string{"store": notBuilt, "control": notBuilt, "list": notBuilt})
	if err != nil {
		return c, err
	}
	if c.Pools, err = pools(keys["pools"]); err != nil {
		return c, err
	}
	labels, err := keys["labels"].Fields()
	if err != nil {
		return c, err
	}
	for _, f := range labels {
		if err := dataset.CheckLabel(f.Name); err != nil {
			return c, f.Node.Wrap(err)
		}
		v, err := f.Node.Scalar()
		if err != nil {
			return c, err
		}
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[f.Name] = v
	}
	return c, nil
}

func pools(n strictyaml.Node) ([]Pool, error) {
	items, err := n.Items()
	if err != nil {
		return nil, err
	}
	var out []Pool
	seen := map[string]bool{}
	for _, item := range items {
		p, err := pool(item)
		if err != nil {
			return nil, err
		}
		if seen[p.Name] {
			return nil, item.Errorf("a pool %s is there twice", p.Name)
		}
		seen[p.Name] = true
		out = append(out, p)
	}
	return out, nil
}

func pool(n strictyaml.Node) (p Pool, err error) {
	keys, err := n.Keys([]string{"name", "backend", "path", "image"}, map[string]string{"device": "is not built yet in this version: leave it out"})
	if err != nil {
		return p, err
	}
	for key, into := range map[string]*string{"name": &p.Name, "backend": &p.Backend, "path": &p.Path} {
		if *into, err = keys[key].String(); err != nil {
			return p, err
		}
		if *into == "" {
			return p, n.Errorf("a pool needs name, backend and path")
		}
	}
	if dataset.CheckProfileName(p.Name) != nil {
		return p, keys["name"].Errorf("bad pool name %q: want 1 to 63 lower-case letters, digits or '-'", p.Name)
	}
	if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path {
		return p, keys["path"].Errorf("path %q is not absolute and clean", p.Path)
	}
	if keys["image"].Absent() {
		return p, nil
	}
	s, err := keys["image"].Scalar()
	if err != nil {
		return p, err
	}
	p.Image, err = dataset.ParseSize(s)
	return p, keys["image"].Wrap(err)
}
