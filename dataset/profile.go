package dataset

import (
	"slices"
	"time"
)

// Profile is a named set of choices, resolved: every key has its value. It is
// frozen into a dataset when that is made.
type Profile struct {
	Name        string     `json:"name"`                  // name of the profile
	Revision    string     `json:"revision"`              // 12 hex digits of a hash over all choices
	Description string     `json:"description,omitempty"` // text of the operator who defined the profile
	Backend     string     `json:"backend,omitempty"`     // kind of storage; empty: any
	Pool        string     `json:"pool,omitempty"`        // one pool by name; empty: any that fits
	Size        Size       `json:"size,omitempty"`        // bytes, enforced; 0: no limit of its own
	Filesystem  Filesystem `json:"filesystem"`            // filesystem of the datasets
	Snapshots   Snapshots  `json:"snapshots"`             // when snapshots are taken and how long they are kept
	Quiesce     Quiesce    `json:"quiesce"`               // how writes are stopped while a snapshot is taken
	OnDelete    OnDelete   `json:"on_delete"`             // what happens to the data when the volume is deleted
	Owner       *Owner     `json:"owner,omitempty"`       // of the root; nil: whatever the image's copy-up makes it
	Follow      Follow     `json:"follow,omitzero"`       // whether a volume moves to the node that mounts it
	Replicas    Replicas   `json:"replicas,omitzero"`     // how many nodes besides the home keep a copy
	Failover    Failover   `json:"failover,omitzero"`     // what happens when the home is lost
	Placement   string     `json:"placement,omitempty"`   // expression over the facts of a node; empty: any
	QoS         QoS        `json:"qos,omitzero"`          // limits of reading and writing
	Encryption  KeySource  `json:"encryption,omitzero"`   // source of the encryption key; absent: not encrypted
	Access      Access     `json:"access,omitempty"`      // empty: one host at a time
}

// Replicas says how many nodes beside the home keep a copy, and how old that may get.
type Replicas struct {
	Count int      `json:"count,omitempty"` // number of nodes besides the home that keep a copy; 0: none
	Every Duration `json:"every,omitempty"` // between two refreshes, when something changed
}

// Failover says what happens when the home is lost. The zero value is manual: a person
// says where the volume goes on, and vouches that its home writes no more.
type Failover struct {
	Auto bool `json:"auto,omitempty"` // a copy takes over without an operator; false: failover is manual
	// MaxLoss is how old a copy may be, by the home's clock at its last heartbeat, to take
	// over by itself; with Auto never 0.
	MaxLoss Duration `json:"max_loss,omitempty"`
	// Fence is what makes sure that the home writes no more; with Auto never empty.
	Fence Fence `json:"fence,omitzero"`
}

// String is the choice in a few words.
func (f Failover) String() string {
	if !f.Auto {
		return "manual"
	}
	return "auto, from a copy at most " + time.Duration(f.MaxLoss).String() + " old; fence: " + f.Fence.String()
}

// Fence is a way to stop the writers of a home that nobody hears.
type Fence struct {
	// how writers on a lost home are stopped; empty: no fence, as with auto false
	Kind FenceKind `json:"kind,omitempty"`
	// Exec is, with FenceExec, a program by its absolute path and its arguments, which cuts
	// a node off, and Timeout what one run of it has.
	Exec    []string `json:"exec,omitempty"`
	Timeout Duration `json:"timeout,omitempty"` // how long one run of the program may take
}

// String is the fence as profiles.yaml says it, in short.
func (f Fence) String() string {
	if f.Kind == FenceExec && len(f.Exec) > 0 {
		return f.Exec[0]
	}
	return string(f.Kind)
}

// Unknown reports whether the command of a FenceExec is not known.
func (f Fence) Unknown() bool { return f.Kind == FenceExec && len(f.Exec) == 0 }

// FenceKind is a choice of Fence.
type FenceKind string

// The kinds of fences. On the holder's side FenceExec is what FenceGuard is.
const (
	FenceGuard    FenceKind = "guard"    // drover guard: what writes is stopped, or killed
	FenceWatchdog FenceKind = "watchdog" // and, should that fail, the host starts anew
	FenceExec     FenceKind = "exec"     // and a command that who takes over runs first
)

const (
	// DefaultFenceTimeout is what a fence command has of which the profile does not say it.
	DefaultFenceTimeout = Duration(20 * time.Second)
	// MaxFenceTimeout bounds what it may have: a mount that waits for it has two minutes.
	MaxFenceTimeout = Duration(time.Minute)
)

// Follow says whether a volume that is mounted on another node than its home moves
// there by itself. The zero value, of records from before there was a choice, is
// what a profile that says nothing has: within DefaultFollow.
type Follow struct {
	// when the volume moves to the node that mounts it; empty: as for within, with the default time
	Mode   FollowMode `json:"mode,omitempty"`
	Within Duration   `json:"within,omitempty"` // with mode within: the longest that the move may be expected to take
}

// FollowMode is a choice of Follow.
type FollowMode string

// The modes of following.
const (
	FollowAlways FollowMode = "always"
	FollowNever  FollowMode = "never"
	FollowWithin FollowMode = "within"
)

// DefaultFollow is for how long a move is waited for where a profile does not say.
const DefaultFollow = Duration(time.Minute)

// Allows reports whether a move that is expected to take so long begins by itself.
func (f Follow) Allows(expected time.Duration) bool {
	switch f.Mode {
	case FollowAlways:
		return true
	case FollowNever:
		return false
	case FollowWithin:
		return expected <= time.Duration(f.Within)
	}
	return expected <= time.Duration(DefaultFollow)
}

// String is the choice as profiles.yaml says it.
func (f Follow) String() string {
	switch f.Mode {
	case FollowAlways, FollowNever:
		return string(f.Mode)
	case FollowWithin:
		return "within " + time.Duration(f.Within).String()
	}
	return "within " + time.Duration(DefaultFollow).String()
}

// Filesystem is what lies inside a dataset on a block device. Backends without
// a device of their own refuse a type.
type Filesystem struct {
	Type  string   `json:"type,omitempty"`  // ext4 or xfs; empty: the backend's own choice
	Mount []string `json:"mount,omitempty"` // options, such as noatime
	// Chosen says, of a dataset's, that Type is what its pool chose: no promise to anybody.
	Chosen bool `json:"chosen,omitempty"`
}

// Snapshots is what a profile promises about points in time.
type Snapshots struct {
	Required bool   `json:"required,omitempty"` // the pool must take snapshots without copying
	Schedule string `json:"schedule,omitempty"` // cron expression, local time; empty: none on a schedule
	Keep     Keep   `json:"keep"`               // how many scheduled snapshots are kept
}

// Keep says how many scheduled snapshots survive: the newest Last ones, and the
// newest of each of the latest so many hours, days, weeks, months. All zero
// keeps every one.
type Keep struct {
	Last    int `json:"last,omitempty"`    // number of newest snapshots that are kept
	Hourly  int `json:"hourly,omitempty"`  // number of hours whose newest snapshot is kept
	Daily   int `json:"daily,omitempty"`   // number of days whose newest snapshot is kept
	Weekly  int `json:"weekly,omitempty"`  // number of weeks whose newest snapshot is kept
	Monthly int `json:"monthly,omitempty"` // number of months whose newest snapshot is kept
}

// Quiesce is what is done around a snapshot beyond its being atomic.
type Quiesce string

// The ways to quiesce.
const (
	QuiesceNone   Quiesce = "none"   // crash-consistent
	QuiesceFreeze Quiesce = "freeze" // the filesystem is frozen: clean on disk
)

// OnDelete says what becomes of the data when the name is deleted.
type OnDelete struct {
	Mode  DeleteMode `json:"mode"`            // what happens to the data when the volume is deleted
	Trash Duration   `json:"trash,omitempty"` // how long, with mode trash
}

// DeleteMode is a choice of OnDelete.
type DeleteMode string

// The modes of deleting.
const (
	DeleteTrash DeleteMode = "trash" // kept for a time, then purged
	DeletePurge DeleteMode = "purge" // destroyed at once
	DeleteKeep  DeleteMode = "keep"  // kept in the trash until someone purges it
)

// Owner is the owner and mode of a dataset's root.
type Owner struct {
	UID  uint32  `json:"uid"`            // numeric user ID
	GID  uint32  `json:"gid"`            // numeric group ID
	Mode *uint32 `json:"mode,omitempty"` // permission bits with setuid, setgid, sticky; nil: left
}

// Duration is a time.Duration that reads and prints itself as text, 72h0m0s.
type Duration time.Duration

// MarshalText prints the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads; ErrInvalid otherwise.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return Errorf(ErrInvalid, "bad duration %q: want a number and a unit, such as 72h or 30m", Clip(string(b)))
	}
	*d = Duration(v)
	return nil
}

// Clone returns a copy that shares nothing with p.
func (p Profile) Clone() Profile {
	p.Filesystem.Mount = slices.Clone(p.Filesystem.Mount)
	p.Failover.Fence.Exec = slices.Clone(p.Failover.Fence.Exec)
	p.Encryption.Exec = slices.Clone(p.Encryption.Exec)
	if p.Owner != nil {
		o := *p.Owner
		if o.Mode != nil {
			m := *o.Mode
			o.Mode = &m
		}
		p.Owner = &o
	}
	return p
}
