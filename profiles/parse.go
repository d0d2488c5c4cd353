package profiles

import (
	"slices"
	"time"

	"github.com/adhocore/gronx"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// most bounds how many profiles a file may have.
const most = 256

// Parse reads profiles.yaml. The file's name is only for errors; they are
// ErrInvalid, one line each, with file, line, column, the offending line and,
// for an unknown key, the nearest one. Only the first mistake is reported.
func Parse(file string, src []byte) (*Set, error) {
	root, err := strictyaml.Parse(file, src)
	if err != nil {
		return nil, err
	}
	keys, err := root.Keys([]string{"default", "profiles"}, nil)
	if err != nil {
		return nil, err
	}
	s := &Set{profiles: map[string]dataset.Profile{}}
	fields, err := keys["profiles"].Fields()
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 || len(fields) > most {
		return nil, root.Errorf("want 1 to %d profiles under the key profiles, not %d", most, len(fields))
	}
	for _, f := range fields {
		if err := dataset.CheckProfileName(f.Name); err != nil {
			return nil, f.Node.Wrap(err)
		}
		p, err := parseProfile(f.Name, f.Node)
		if err != nil {
			return nil, err
		}
		p.Revision = revision(p)
		s.profiles[f.Name] = p
	}
	if s.def, err = keys["default"].String(); err != nil {
		return nil, err
	}
	if s.def == "" {
		return nil, root.Errorf("want a key default that names one of the profiles (have: %s)", dataset.Have(s.Names()))
	}
	if _, err := s.Get(s.def); err != nil {
		return nil, keys["default"].Wrap(err)
	}
	return s, nil
}

const notBuilt = "is not built yet in this version: leave it out"

// later are the keys that the design names and this version cannot keep.
func later() map[string]string {
	return map[string]string{
		"qos": notBuilt, "replicas": notBuilt, "failover": notBuilt, "follow": notBuilt,
		"placement": notBuilt, "encryption": notBuilt, "access": notBuilt,
	}
}

func parseProfile(name string, n strictyaml.Node) (p dataset.Profile, err error) {
	p = dataset.Profile{Name: name, Quiesce: dataset.QuiesceNone, OnDelete: dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(24 * time.Hour)}}
	if _, err := n.Keys([]string{"description", "backend", "pool", "size", "filesystem", "snapshots", "quiesce", "on_delete", "owner"}, later()); err != nil {
		return p, err
	}
	read := map[string]func(strictyaml.Node) error{
		"description": func(v strictyaml.Node) (err error) { p.Description, err = v.String(); return err },
		"backend":     func(v strictyaml.Node) error { return word(v, &p.Backend) },
		"pool":        func(v strictyaml.Node) error { return word(v, &p.Pool) },
		"size":        func(v strictyaml.Node) error { return size(v, &p.Size) },
		"filesystem":  func(v strictyaml.Node) error { return filesystem(v, &p.Filesystem) },
		"snapshots":   func(v strictyaml.Node) error { return snapshots(v, &p.Snapshots) },
		"quiesce":     func(v strictyaml.Node) error { return quiesce(v, &p.Quiesce) },
		"on_delete":   func(v strictyaml.Node) error { return onDelete(v, &p.OnDelete) },
		"owner":       func(v strictyaml.Node) error { return owner(v, &p) },
	}
	fields, err := n.Fields()
	if err != nil {
		return p, err
	}
	for _, f := range fields { // in their order, so that the first mistake is the first in the file
		if f.Node.Absent() {
			continue
		}
		if err := read[f.Name](f.Node); err != nil {
			return p, err
		}
	}
	return p, nil
}

func word(n strictyaml.Node, into *string) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	if err := dataset.CheckProfileName(s); err != nil {
		return n.Errorf("bad name %q: want 1 to 63 lower-case letters, digits or '-'", clip(s))
	}
	*into = s
	return nil
}

func size(n strictyaml.Node, into *dataset.Size) error {
	s, err := n.Scalar()
	if err != nil {
		return err
	}
	*into, err = dataset.ParseSize(s)
	return n.Wrap(err)
}

// mountOptions are the options of each filesystem that an operator may choose:
// those that change speed or access times. What could cost data (nobarrier,
// data=writeback) or is Drover's own business (ro, nouuid) is not among them.
func mountOptions() map[string][]string {
	common := []string{"noatime", "relatime", "nodiratime", "lazytime", "nosuid", "nodev", "noexec", "discard", "nodiscard"}
	return map[string][]string{
		"":     common,
		"xfs":  append([]string{"largeio", "swalloc", "inode64", "logbsize=32k", "logbsize=64k", "logbsize=128k", "logbsize=256k"}, common...),
		"ext4": append([]string{"commit=1", "commit=5", "commit=15", "commit=30", "stripe=0", "nodelalloc", "delalloc"}, common...),
	}
}

func filesystem(n strictyaml.Node, fs *dataset.Filesystem) error {
	keys, err := n.Keys([]string{"type", "mount"}, nil)
	if err != nil {
		return err
	}
	if fs.Type, err = keys["type"].String(); err != nil {
		return err
	}
	if fs.Type != "" && fs.Type != "xfs" && fs.Type != "ext4" {
		return keys["type"].Errorf("unknown filesystem %q (have: ext4, xfs)", clip(fs.Type))
	}
	items, err := keys["mount"].Items()
	if err != nil {
		return err
	}
	allowed := mountOptions()[fs.Type]
	for _, item := range items {
		o, err := item.String()
		if err != nil {
			return err
		}
		if !slices.Contains(allowed, o) {
			return item.Errorf("mount option %q cannot be chosen (have: %s)", clip(o), dataset.Have(allowed))
		}
		fs.Mount = append(fs.Mount, o)
	}
	return nil
}

func snapshots(n strictyaml.Node, s *dataset.Snapshots) error {
	keys, err := n.Keys([]string{"required", "schedule", "keep"}, nil)
	if err != nil {
		return err
	}
	if s.Required, err = keys["required"].Bool(); err != nil {
		return err
	}
	if s.Schedule, err = keys["schedule"].String(); err != nil {
		return err
	}
	if s.Schedule != "" {
		if !gronx.IsValid(s.Schedule) {
			return keys["schedule"].Errorf("bad schedule %q: want a cron expression of five fields, such as \"*/15 * * * *\"", clip(s.Schedule))
		}
		s.Required = true
	}
	keep, err := keys["keep"].Keys([]string{"last", "hourly", "daily", "weekly", "monthly"}, nil)
	if err != nil {
		return err
	}
	for key, into := range map[string]*int{"last": &s.Keep.Last, "hourly": &s.Keep.Hourly, "daily": &s.Keep.Daily, "weekly": &s.Keep.Weekly, "monthly": &s.Keep.Monthly} {
		v, err := keep[key].Int(10_000)
		if err != nil {
			return err
		}
		*into = int(v)
	}
	if s.Keep != (dataset.Keep{}) && s.Schedule == "" {
		return keys["keep"].Errorf("keep is for snapshots on a schedule: want a schedule as well")
	}
	return nil
}

func quiesce(n strictyaml.Node, q *dataset.Quiesce) error {
	if n.IsMap() {
		return n.Errorf("exec %s", notBuilt)
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	if *q = dataset.Quiesce(s); *q != dataset.QuiesceNone && *q != dataset.QuiesceFreeze {
		return n.Errorf("unknown way to quiesce %q (have: freeze, none)", clip(s))
	}
	return nil
}

func onDelete(n strictyaml.Node, o *dataset.OnDelete) error {
	if n.IsMap() {
		keys, err := n.Keys([]string{"trash"}, nil)
		if err != nil {
			return err
		}
		s, err := keys["trash"].String()
		if err != nil {
			return err
		}
		o.Mode = dataset.DeleteTrash
		return keys["trash"].Wrap(o.Trash.UnmarshalText([]byte(s)))
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	switch dataset.DeleteMode(s) {
	case dataset.DeletePurge, dataset.DeleteKeep:
		*o = dataset.OnDelete{Mode: dataset.DeleteMode(s)}
		return nil
	}
	return n.Errorf("unknown choice %q (have: {trash: 72h}, keep, purge)", clip(s))
}

// maxID is the largest user or group ID: -1 means "leave it" in chown(2).
const maxID = 1<<32 - 2

func owner(n strictyaml.Node, p *dataset.Profile) error {
	keys, err := n.Keys([]string{"uid", "gid", "mode"}, nil)
	if err != nil {
		return err
	}
	uid, err := keys["uid"].Int(maxID)
	if err != nil {
		return err
	}
	gid, err := keys["gid"].Int(maxID)
	if err != nil {
		return err
	}
	p.Owner = &dataset.Owner{UID: uint32(uid), GID: uint32(gid)} //nolint:gosec // bounded above
	if keys["mode"].Absent() {
		return nil
	}
	s, err := keys["mode"].String()
	if err != nil {
		return err
	}
	m, err := dataset.ParseMode(s)
	p.Owner.Mode = &m
	return keys["mode"].Wrap(err)
}
