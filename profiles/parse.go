package profiles

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// maxProfiles is the maximum number of profiles in a file.
const maxProfiles = 256

const notBuilt = "is not supported in this version: omit it"

// Check returns the key of the profile that must be changed, and the reason why no host can satisfy the profile. If a
// host could satisfy the profile, both are empty.
type Check func(p dataset.Profile) (key string, why error)

// Parse reads profiles.yaml. The file's name is used only in errors. The findings of checks count as mistakes in the
// profile.
//
// It fails with ErrInvalid and all mistakes that it found, as strictyaml.Mistakes. Each has the file, line and column,
// the wrong line and, for an unknown key, the nearest known one. The text of the error is that of the first mistake,
// with the number of the others. If the file is not YAML, only its first mistake is returned.
func Parse(file string, src []byte, checks ...Check) (*Set, error) {
	root, err := strictyaml.Parse(file, src)
	if err != nil {
		return nil, err
	}
	var bad strictyaml.Mistakes
	keys, err := root.Keys([]string{"default", "profiles"}, nil)
	bad.Add(err)
	s := &Set{profiles: map[string]dataset.Profile{}}
	names, err := s.parseAll(root, keys["profiles"], checks)
	bad.Add(err)
	bad.Add(s.parseDefault(root, keys["default"], names))
	if err := bad.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

// parseAll reads the profiles and returns the names of all of them, including those with mistakes.
func (s *Set) parseAll(root, n strictyaml.Node, checks []Check) ([]string, error) {
	fields, err := n.Fields()
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 || len(fields) > maxProfiles {
		return nil, root.Errorf("expected 1 to %d profiles under the key profiles, not %d", maxProfiles, len(fields))
	}
	var bad strictyaml.Mistakes
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		names = append(names, f.Name)
		if err := dataset.CheckProfileName(f.Name); err != nil {
			bad.Add(f.Node.KeyErrorf("%v", err))
		}
		p, err := parseProfile(f.Name, f.Node, checks)
		if bad.Add(err) {
			p.Revision = revision(p)
			s.profiles[f.Name] = p
		}
	}
	return names, bad.Err()
}

func (s *Set) parseDefault(root, n strictyaml.Node, names []string) (err error) {
	if s.def, err = n.String(); err != nil || len(names) == 0 {
		return err
	}
	if n.Absent() {
		return root.Errorf("missing key default: the profile of volumes that name none, such as default: %s "+
			"(available: %s)", names[0], dataset.FormatChoices(names))
	}
	for _, name := range names {
		if name == s.def {
			return nil
		}
	}
	return n.Errorf("unknown profile %q (available: %s)%s", dataset.Clip(s.def), dataset.FormatChoices(names),
		dataset.Suggestion(s.def, names))
}

func parseProfile(name string, n strictyaml.Node, checks []Check) (dataset.Profile, error) {
	p := dataset.Profile{
		Name: name, Quiesce: dataset.QuiesceFreeze,
		OnDelete: dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(24 * time.Hour)},
		Follow:   dataset.Follow{Mode: dataset.FollowWithin, Within: dataset.DefaultFollow},
	}
	var bad strictyaml.Mistakes
	keys, err := n.Keys([]string{"description", "backend", "pool", "size", "filesystem", "snapshots", "quiesce",
		"on_delete", "owner", "follow", "placement", "replicas", "failover", "fence", "max_loss", "qos",
		"encryption", "access", "warn_at", "backup"}, misplaced)
	bad.Add(err)
	for key, read := range map[string]func(strictyaml.Node) error{
		"description": func(v strictyaml.Node) error { return description(v, &p.Description) },
		"backend":     func(v strictyaml.Node) error { return word(v, &p.Backend) },
		"pool":        func(v strictyaml.Node) error { return word(v, &p.Pool) },
		"size":        func(v strictyaml.Node) error { return size(v, &p.Size) },
		"filesystem":  func(v strictyaml.Node) error { return filesystem(v, &p.Filesystem) },
		"snapshots":   func(v strictyaml.Node) error { return snapshots(v, &p.Snapshots) },
		"quiesce":     func(v strictyaml.Node) error { return quiesce(v, &p.Quiesce) },
		"on_delete":   func(v strictyaml.Node) error { return onDelete(v, &p.OnDelete) },
		"placement":   func(v strictyaml.Node) error { return placement(v, &p.Placement) },
		"owner":       func(v strictyaml.Node) error { return owner(v, &p) },
		"follow":      func(v strictyaml.Node) error { return follow(v, &p.Follow) },
		"replicas":    func(v strictyaml.Node) error { return replicas(v, &p.Replicas) },
		"failover":    func(v strictyaml.Node) error { return failover(v, &p.Failover) },
		"fence":       func(v strictyaml.Node) error { return fence(v, &p.Failover.Fence) },
		"max_loss":    func(v strictyaml.Node) error { return maxLoss(v, &p.Failover) },
		"qos":         func(v strictyaml.Node) error { return qos(v, &p.QoS) },
		"encryption":  func(v strictyaml.Node) error { return encryption(v, &p.Encryption) },
		"access":      func(v strictyaml.Node) error { return access(v, &p.Access) },
		"warn_at":     func(v strictyaml.Node) error { return warnAt(v, &p.WarnAt) },
		"backup":      func(v strictyaml.Node) error { return backup(v, &p.Backup) },
	} {
		if v, ok := keys[key]; ok {
			bad.Add(read(v))
		}
	}
	bad.Add(checkFailover(keys, &p))
	bad.Add(checkAccess(keys, &p))
	if err := bad.Err(); err != nil {
		return p, err
	}
	for _, check := range checks {
		key, problem := check(p)
		at, ok := keys[key]
		if !ok {
			at = n
		}
		bad.Add(at.Wrap(problem))
	}
	return p, bad.Err()
}

// misplaced has keys that belong below another key of a profile, with what to write instead.
var misplaced = map[string]string{
	"trash":    "it belongs to on_delete (on_delete: {trash: 3d})",
	"purge":    "it is a value of on_delete (on_delete: purge)",
	"schedule": "it belongs to snapshots (snapshots: {schedule: daily}) or to backup",
	"keep":     "it belongs to snapshots (snapshots: {keep: {daily: 7}}) or to backup",
	"key_file": "it belongs to encryption (encryption: {key_file: /etc/drover/key})",
	"uid":      "it belongs to owner (owner: {uid: 999})",
	"gid":      "it belongs to owner (owner: {gid: 999})",
	"mode":     "it belongs to owner (owner: {mode: 0750})",
	"type":     "it belongs to filesystem (filesystem: {type: xfs})",
}

func description(n strictyaml.Node, into *string) (err error) {
	if *into, err = n.String(); err == nil && len(*into) > 1024 {
		return n.Errorf("%d bytes are too long (1024 at most)", len(*into))
	}
	return err
}

// word reads the name of a backend or pool.
func word(n strictyaml.Node, into *string) (err error) {
	if *into, err = n.String(); err != nil {
		return err
	}
	if dataset.CheckPoolName(*into) != nil {
		return n.Errorf("bad name %q: expected 1 to 63 lower-case letters, digits or '-', with a letter or digit "+
			"first", dataset.Clip(*into))
	}
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

func quiesce(n strictyaml.Node, q *dataset.Quiesce) error {
	if n.IsMap() {
		if _, err := n.Keys(nil, map[string]string{"exec": notBuilt, "timeout": notBuilt}); err != nil {
			return err
		}
		return n.Errorf("expected freeze or flush")
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	if *q = dataset.Quiesce(s); *q != dataset.QuiesceFreeze && *q != dataset.QuiesceFlush {
		return n.Errorf("unknown way to quiesce %q (available: flush, freeze)", dataset.Clip(s))
	}
	return nil
}

func onDelete(n strictyaml.Node, o *dataset.OnDelete) error {
	if n.IsMap() {
		return trash(n, o)
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	switch mode := dataset.DeleteMode(s); mode {
	case dataset.DeletePurge, dataset.DeleteKeep:
		*o = dataset.OnDelete{Mode: mode}
		return nil
	}
	return n.Errorf("unknown choice %q (available: {trash: 72h}, keep, purge)", dataset.Clip(s))
}

func trash(n strictyaml.Node, o *dataset.OnDelete) error {
	keys, err := n.Keys([]string{"trash"}, nil)
	if err != nil {
		return err
	}
	v, ok := keys["trash"]
	if !ok {
		return n.Errorf("expected a time, such as {trash: 72h}, or keep, or purge")
	}
	o.Mode = dataset.DeleteTrash
	if err := duration(v, &o.Trash); err != nil {
		return err
	}
	if o.Trash == 0 {
		return v.Errorf("the time is 0: use purge to have the data destroyed immediately")
	}
	return nil
}

// maxID is the largest user or group ID. The next number is reserved: it is -1, which tells chown(2) not to change the
// ID.
const maxID = 1<<32 - 2

func owner(n strictyaml.Node, p *dataset.Profile) error {
	keys, err := n.Keys([]string{"uid", "gid", "mode"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	ids := [2]int64{}
	for i, key := range []string{"uid", "gid"} {
		v, ok := keys[key]
		if !ok {
			bad.Add(n.Errorf("expected uid and gid, such as {uid: 999, gid: 999}"))
			break
		}
		ids[i], err = v.Int(maxID)
		bad.Add(err)
	}
	p.Owner = &dataset.Owner{UID: uint32(ids[0]), GID: uint32(ids[1])} //nolint:gosec // bounded above
	if v, ok := keys["mode"]; ok {
		bad.Add(mode(v, p.Owner))
	}
	return bad.Err()
}

// mode reads permission bits. The value must be a text, because 0750 without quotes is a number whose value depends on
// the version of YAML.
func mode(n strictyaml.Node, o *dataset.Owner) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	m, err := dataset.ParseMode(s)
	o.Mode = &m
	return n.Wrap(err)
}
