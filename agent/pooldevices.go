package agent

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// config is what a pool on record is opened with.
func (r poolRecord) config(name string, keys backends.Keys) backends.Config {
	return backends.Config{ID: r.ID, Name: name, Path: r.Path, Image: r.Image, Mount: r.Mount, Devices: r.Devices, Keys: keys}
}

// place says where a pool lies and is mounted, as far as nobody else has.
func (p *pools) place(name string, rec *poolRecord) {
	// What lies below /dev is no directory, so its backend has something to mount.
	if rec.Image > 0 || len(rec.Devices) > 0 || within(rec.Path, "/dev") {
		rec.Mount = p.imageMount(name)
	}
	if rec.Path != "" || len(rec.Devices) == 0 {
		return
	}
	kind, err := p.a.Backends.Kind(rec.Backend)
	if former, ok := kind.(backends.Former); ok && err == nil {
		rec.Path = former.PathOf(name, rec.Mount)
	}
}

// formable refuses devices where they cannot become a pool.
func (p *pools) formable(ctx context.Context, name string, rec poolRecord, kind backends.Kind) error {
	if len(rec.Devices) == 0 {
		return nil
	}
	if _, ok := kind.(backends.Former); ok {
		return nil
	}
	var can []string
	for _, k := range p.a.Backends.Kinds() {
		if _, ok := k.(backends.Former); ok && k.Available(ctx) == nil {
			can = append(can, k.Name())
		}
	}
	return dataset.Errorf(dataset.ErrUnsupported, "pool %s: backend %s makes no pool of devices: give it a path, or another backend (have: %s)", name, rec.Backend, dataset.Have(can))
}

// asked is the record of a pool that somebody wants, without a UUID.
func (p *pools) asked(n api.NewPool) (poolRecord, error) {
	rec := poolRecord{Backend: n.Backend, Path: n.Path, Devices: n.Devices}
	for _, path := range append(slices.Clone(n.Devices), n.Path) {
		if path == "" && len(n.Devices) > 0 {
			continue
		}
		if !filepath.IsAbs(path) || filepath.Clean(path) != path {
			return rec, dataset.Errorf(dataset.ErrInvalid, "pool %s: path %q is not absolute and clean", n.Name, path)
		}
	}
	if n.Image != "" {
		if len(n.Devices) > 0 {
			return rec, dataset.Errorf(dataset.ErrInvalid, "pool %s: it lies in an image or on devices, not both", n.Name)
		}
		size, err := dataset.ParseSize(n.Image)
		if err != nil {
			return rec, err
		}
		rec.Image = size
	}
	p.place(n.Name, &rec)
	return rec, nil
}
