package dataset

import (
	"sort"
	"strconv"
	"strings"
)

// Options are the options -o key=value of a create.
type Options struct {
	Profile  string            `json:"profile,omitempty"`
	Size     Size              `json:"size,omitempty"`
	From     string            `json:"from,omitempty"` // volume, snapshot name or UUID prefix
	FS       string            `json:"fs,omitempty"`
	Pool     string            `json:"pool,omitempty"`
	Node     string            `json:"node,omitempty"`  // name or UUID prefix
	Owner    *Owner            `json:"owner,omitempty"` // UID and GID, without the mode
	Mode     *uint32           `json:"mode,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Protect  bool              `json:"protect,omitempty"`
	ReadOnly bool              `json:"readonly,omitempty"`
	// Schedules says whether the profile's schedules of snapshots and backups apply; nil: unless the volume is a clone.
	Schedules *bool `json:"schedules,omitempty"`
}

// Option is one line of the help on options.
type Option struct{ Name, Value, Help string }

// OptionSchedules is the name of the option Schedules.
const OptionSchedules = "schedules"

// OptionHelp lists the options of a create.
func OptionHelp() []Option {
	return []Option{
		{"profile", "NAME", "the profile, as in db@NAME"},
		{"size", "SIZE", "instead of the profile's, such as 20GiB"},
		{"from", "SOURCE", "start as a copy of a volume, of VOLUME@SNAPSHOT, or of a UUID prefix"},
		{"fs", "ext4|xfs", "the filesystem inside"},
		{"pool", "NAME", "the pool, instead of the profile's"},
		{"node", "NODE", "create the volume on this node; an existing volume stays where it is"},
		{"owner", "UID:GID", "owner of the volume's root; a copy has its source's"},
		{"mode", "OCTAL", "mode of the volume's root, such as 0750; a copy has its source's"},
		{"label.KEY", "VALUE", "a label"},
		{"protect", "true|false", "refuse to delete the volume"},
		{"readonly", "true|false", "mount it read-only"},
		{OptionSchedules, "true|false", "use the profile's schedules; a copy needs this, or a profile"},
	}
}

// ParseOptions parses the options of a create. An unknown key or a bad value fails with ErrInvalid, and the
// error lists the valid ones.
func ParseOptions(opts map[string]string) (Options, error) {
	var o Options
	keys := make([]string, 0, len(opts))
	for k := range opts {
		keys = append(keys, k)
	}
	sort.Strings(keys) // so that the same mistake gives the same error every time
	for _, k := range keys {
		if err := o.set(k, opts[k]); err != nil {
			return Options{}, err
		}
	}
	return o, nil
}

func (o *Options) set(key, value string) (err error) {
	if label, ok := strings.CutPrefix(key, "label."); ok {
		return o.setLabel(label, value)
	}
	switch key {
	case "profile":
		o.Profile, err = value, CheckProfileName(value)
	case "size":
		o.Size, err = ParseSize(value)
	case "from":
		o.From = value
		if value == "" {
			err = Errorf(ErrInvalid, "option from is empty: expected a volume, a snapshot, or 4 to 36 characters "+
				"of a UUID")
		}
	case "fs":
		o.FS = value
		if value != "ext4" && value != "xfs" {
			err = Errorf(ErrInvalid, "option fs=%q: unknown filesystem (available: ext4, xfs)", Clip(value))
		}
	case "pool":
		o.Pool, err = value, CheckPoolName(value)
	case "node":
		o.Node = value
		if value == "" {
			err = Errorf(ErrInvalid, "option node is empty: expected the name of a node (drover node ls)")
		}
	case "owner":
		err = o.setOwner(value)
	case "mode":
		err = o.setMode(value)
	case "protect":
		o.Protect, err = parseBool(key, value)
	case "readonly":
		o.ReadOnly, err = parseBool(key, value)
	case OptionSchedules:
		var on bool
		on, err = parseBool(key, value)
		o.Schedules = &on
	default:
		err = unknownOption(key)
	}
	return err
}

func unknownOption(key string) error {
	var names []string
	for _, h := range OptionHelp() {
		names = append(names, h.Name)
	}
	hint := ""
	if n := Nearest(key, names); n != "" {
		hint = ", did you mean " + n + "?"
	}
	return Errorf(ErrInvalid, "unknown option %q%s (available: %s)", Clip(key), hint, FormatChoices(names))
}

func (o *Options) setLabel(key, value string) error {
	if err := checkLabelValue(key, value); err != nil {
		return err
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	if len(o.Labels) == maxLabels {
		return Errorf(ErrInvalid, "too many labels (%d at most)", maxLabels)
	}
	o.Labels[key] = value
	return nil
}

func (o *Options) setOwner(value string) error {
	u, g, ok := strings.Cut(value, ":")
	uid, err1 := strconv.ParseUint(u, 10, 31)
	gid, err2 := strconv.ParseUint(g, 10, 31)
	if !ok || err1 != nil || err2 != nil {
		return Errorf(ErrInvalid, "option owner=%q: expected UID:GID in numbers, such as 999:999", Clip(value))
	}
	o.Owner = &Owner{UID: uint32(uid), GID: uint32(gid)}
	return nil
}

func (o *Options) setMode(value string) error {
	m, err := ParseMode(value)
	if err == nil {
		o.Mode = &m
	}
	return err
}

// ParseMode parses permission bits in octal, 0750 or 750, with setuid, setgid and sticky: at most 07777. It fails
// with ErrInvalid.
func ParseMode(s string) (uint32, error) {
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, Errorf(ErrInvalid, "bad mode %q: expected octal permission bits, such as 0750", Clip(s))
	}
	return uint32(m), nil
}

func parseBool(key, value string) (bool, error) {
	switch value {
	case "true", "yes", "1", "": // docker volume create -o protect sends an empty value
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, Errorf(ErrInvalid, "option %s=%q: expected true or false", key, Clip(value))
}

// Apply returns the profile with the values that the options override: size, pool, filesystem, owner and mode. It
// does not change p.
func (o Options) Apply(p Profile) Profile {
	p = p.Clone()
	if o.Size != 0 {
		p.Size = o.Size
	}
	if o.Pool != "" {
		p.Pool = o.Pool
	}
	if o.FS != "" {
		p.Filesystem.Type, p.Filesystem.Chosen = o.FS, false
	}
	if o.Owner == nil && o.Mode == nil {
		return p
	}
	if p.Owner == nil {
		p.Owner = &Owner{}
	}
	if o.Owner != nil {
		p.Owner.UID, p.Owner.GID = o.Owner.UID, o.Owner.GID
	}
	if o.Mode != nil {
		m := *o.Mode
		p.Owner.Mode = &m
	}
	return p
}
