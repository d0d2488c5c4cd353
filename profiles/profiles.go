// Package profiles reads profiles.yaml, in which an operator defines named sets of choices for volumes. Parse is a pure
// function: it converts bytes to resolved profiles, or to an error with the position of each mistake. The package owns
// no state, and a Set never changes.
//
// In cmd/drover, package settings reads the file, calls Parse and has the commands of drover profile. Package daemon
// keeps the Set that was read last and passes it to control. To add a key, add a field to dataset.Profile, its reader
// to this package, the key to both lists in parseProfile, its description to profiles.schema.json, and a line to
// profileForm (settings/profile.go). A key inside another key needs no change of parseProfile: it belongs in the
// reader of the outer key (storage.go) and in the lists there. Add cases to testdata/documents.txt, and run go test
// ./cmd/drover -update for the reference page. If the field contains a slice or a pointer, also change
// dataset.Profile.Clone.
package profiles

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
	"github.com/droverhq/drover/internal/strictyaml"
)

// Set is the profiles of one file. It never changes; safe for concurrent use.
type Set struct {
	def      string
	profiles map[string]dataset.Profile
}

// Default returns the name of the profile for volumes that request none.
func (s *Set) Default() string { return s.def }

// Names returns the names in alphabetical order.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.profiles))
	for n := range s.profiles {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// All returns all profiles in the order of their names.
func (s *Set) All() []dataset.Profile {
	out := make([]dataset.Profile, 0, len(s.profiles))
	for _, n := range s.Names() {
		out = append(out, s.profiles[n].Clone())
	}
	return out
}

// Get returns a profile. If name is empty, it returns the default one. It fails with ErrInvalid, and the existing
// names, if the name is unknown.
func (s *Set) Get(name string) (dataset.Profile, error) {
	name = cmp.Or(name, s.def)
	if p, ok := s.profiles[name]; ok {
		return p.Clone(), nil
	}
	names := s.Names()
	return dataset.Profile{}, dataset.Errorf(dataset.ErrInvalid, "unknown profile %q (available: %s)%s",
		dataset.Clip(name), dataset.FormatChoices(names), dataset.Suggestion(name, names))
}

// revision distinguishes two versions of a profile: the first 12 hex digits of a hash of all its choices.
func revision(p dataset.Profile) string {
	p.Revision, p.Description = "", ""
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of plain values
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

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

// access reads "one" or "many".
func access(n strictyaml.Node, a *dataset.Access) error {
	s, err := n.String()
	switch {
	case err != nil:
		return err
	case s == string(dataset.AccessMany):
		*a = dataset.AccessMany
	case s != "one":
		return n.Errorf("unknown choice %q (available: many, one)", dataset.Clip(s))
	}
	return nil
}

// checkAccess refuses the settings that a profile with access many cannot have, because Drover can enforce them only on
// one host.
func checkAccess(keys map[string]strictyaml.Node, p *dataset.Profile) error {
	if p.Access != dataset.AccessMany {
		return nil
	}
	_, follows := keys["follow"]
	var bad strictyaml.Mistakes
	if p.Backend != "" && p.Backend != shareBackend {
		bad.Add(keys["access"].Errorf("a pool of backend %s belongs to one host: expected backend: %s, whose "+
			"pools are on a share", p.Backend, shareBackend))
	}
	for _, c := range []struct {
		key    string
		isSet  bool
		reason string
	}{
		{"failover", p.Failover.Auto, "with access: many every host of the share can mount it, even if its home " +
			"is lost: omit it, because auto would fence hosts that use it"},
		{"replicas", p.Replicas.Count > 0, "a volume on a share for many hosts has no copies elsewhere: omit it"},
		{"follow", follows, "with access: many it can be mounted on every host, and its home stays: omit it"},
		{"qos", p.QoS.Limited(), "a limit on one host does not apply to the others: omit it"},
	} {
		if c.isSet {
			bad.Add(keys[c.key].KeyErrorf("%s", c.reason))
		}
	}
	return bad.Err()
}

// placement reads an expression over facts and checks it. The names in it must be facts that Drover knows, but not
// every host needs to have them.
func placement(n strictyaml.Node, into *string) (err error) {
	if *into, err = n.String(); err != nil {
		return err
	}
	_, err = selector.Parse(*into)
	var m *selector.Mistake
	if errors.As(err, &m) {
		return n.WithinErrorf(m.At, "%s", m.Message)
	}
	return n.Wrap(err)
}

// follow reads "always", "never", or {within: 60s}.
func follow(n strictyaml.Node, f *dataset.Follow) error {
	if n.IsMap() {
		return followWithin(n, f)
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	switch mode := dataset.FollowMode(s); mode {
	case dataset.FollowAlways, dataset.FollowNever:
		*f = dataset.Follow{Mode: mode}
		return nil
	}
	return n.Errorf("unknown choice %q (available: {within: 60s}, always, never)", dataset.Clip(s))
}

func followWithin(n strictyaml.Node, f *dataset.Follow) error {
	keys, err := n.Keys([]string{"within"}, nil)
	if err != nil {
		return err
	}
	v, ok := keys["within"]
	if !ok {
		return n.Errorf("expected a time, such as {within: 60s}, or always, or never")
	}
	f.Mode = dataset.FollowWithin
	if err := duration(v, &f.Within); err != nil {
		return err
	}
	if f.Within == 0 {
		return v.Errorf("the time is 0: use never to have it moved only by hand")
	}
	return nil
}

// warnAt reads a percentage such as 85%. The default is recorded as 0, so that a profile that names it has the same
// revision as one that leaves it out.
func warnAt(n strictyaml.Node, into *int) error {
	s, err := n.Scalar()
	if err != nil {
		return err
	}
	digits, isPercent := strings.CutSuffix(s, "%")
	percent, err := strconv.Atoi(digits)
	if !isPercent || err != nil || percent < 1 || percent > 100 || strconv.Itoa(percent) != digits {
		return n.Errorf("bad percentage %q: expected 1%% to 100%%, such as 85%%", dataset.Clip(s))
	}
	if percent != dataset.DefaultWarnAt {
		*into = percent
	}
	return nil
}

// maxReplicas is the maximum number of replicas of one volume.
const maxReplicas = 8

// minEvery is the minimum interval between two refreshes. Even a refresh with hardly any changes may take that long.
const minEvery = dataset.Duration(time.Second)

// replicas reads {count: 1, every: 30s}.
func replicas(n strictyaml.Node, r *dataset.Replicas) error {
	keys, err := n.Keys([]string{"count", "every"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	for _, need := range []string{"count", "every"} {
		if _, ok := keys[need]; !ok {
			bad.Add(n.Errorf("expected the number and the interval, such as {count: 1, every: 30s}"))
			return bad.Err()
		}
	}
	count, err := keys["count"].Int(maxReplicas)
	if bad.Add(err) && count == 0 {
		bad.Add(keys["count"].Errorf("no replicas: omit replicas"))
	}
	r.Count = int(count)
	if bad.Add(duration(keys["every"], &r.Every)) && r.Every < minEvery {
		bad.Add(keys["every"].Errorf("too often: expected %s or more", minEvery))
	}
	return bad.Err()
}

func duration(n strictyaml.Node, into *dataset.Duration) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	return n.Wrap(into.UnmarshalText([]byte(s)))
}
