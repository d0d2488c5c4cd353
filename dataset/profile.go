package dataset

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Profile is a named set of choices. All its keys have a value, because defaults are already applied. A dataset keeps
// the profile as it was when the dataset was made.
type Profile struct {
	Name        string     `json:"name"`                  // name of the profile
	Revision    string     `json:"revision"`              // 12 hex digits of a hash over all choices
	Description string     `json:"description,omitempty"` // text of the operator who defined the profile
	Backend     string     `json:"backend,omitempty"`     // backend of the pool; empty: any
	Pool        string     `json:"pool,omitempty"`        // name of the pool; empty: any that fits
	Size        Size       `json:"size,omitempty"`        // size of a dataset in bytes, enforced; 0: not limited
	Filesystem  Filesystem `json:"filesystem"`            // filesystem of the datasets
	Snapshots   Snapshots  `json:"snapshots"`             // when snapshots are taken and how long they are kept
	Quiesce     Quiesce    `json:"quiesce"`               // how a filesystem is prepared for a snapshot
	OnDelete    OnDelete   `json:"on_delete"`             // what happens to the data when the volume is deleted
	// owner of the root directory; absent: as the image's content makes it
	Owner      *Owner    `json:"owner,omitempty"`
	Follow     Follow    `json:"follow,omitzero"`     // whether a volume moves to the node that mounts it
	Replicas   Replicas  `json:"replicas,omitzero"`   // how many nodes besides the home keep a copy
	Failover   Failover  `json:"failover,omitzero"`   // what happens when the home is lost
	Placement  string    `json:"placement,omitempty"` // expression over the facts of a node; empty: any node
	QoS        QoS       `json:"qos,omitzero"`        // limits of reading and writing
	Encryption KeySource `json:"encryption,omitzero"` // source of the encryption key; absent: not encrypted
	Access     Access    `json:"access,omitempty"`    // how many hosts may mount a volume at once; empty: one
	WarnAt     int       `json:"warn_at,omitempty"`   // percentage of use from which a volume is nearly full; 0: 85
	Backup     Backups   `json:"backup,omitzero"`     // scheduled backups; absent: none
	// in the record of a dataset: the profile schedules snapshots or backups, but not for this dataset
	SchedulesOff bool `json:"schedules_off,omitempty"`
}

// WithoutSchedules returns p without its schedules of snapshots and backups.
func (p Profile) WithoutSchedules() Profile {
	p.SchedulesOff = p.SchedulesOff || p.HasSchedules()
	p.Snapshots.Schedule, p.Backup = "", Backups{}
	return p
}

// HasSchedules reports whether snapshots or backups are made on a schedule.
func (p Profile) HasSchedules() bool { return p.Snapshots.Schedule != "" || p.Backup.Schedule != "" }

// Replicas says how many nodes besides the home keep a copy, and how old a copy may become.
type Replicas struct {
	Count int      `json:"count,omitempty"` // number of nodes besides the home that keep a copy; 0: none
	Every Duration `json:"every,omitempty"` // time between two refreshes, if something changed
}

// Failover says what happens when the home is lost. The zero value is manual: a person chooses where the volume
// continues, and confirms that its home is fenced.
type Failover struct {
	Auto bool `json:"auto,omitempty"` // a copy takes over without an operator; false: failover is manual
	// MaxLoss is how old a copy may be, by the home's clock at its last heartbeat, to take over automatically. It
	// is never 0 with Auto.
	MaxLoss Duration `json:"max_loss,omitempty"`
	// Fence is what makes sure that the home no longer writes. It is never empty with Auto.
	Fence Fence `json:"fence,omitzero"`
}

// String formats the choice in a few words.
func (f Failover) String() string {
	if !f.Auto {
		return "manual"
	}
	return "auto, from a copy at most " + time.Duration(f.MaxLoss).String() + " old; fence: " + f.Fence.String()
}

// Fence is a way to stop the writers of an unreachable home.
type Fence struct {
	// how writers on a lost home are stopped; empty: failover is manual
	Kind FenceKind `json:"kind,omitempty"`
	// Exec is, with FenceExec, the absolute path of a program that fences a node, with its arguments.
	Exec    []string `json:"exec,omitempty"`
	Timeout Duration `json:"timeout,omitempty"` // how long one run of the program may take
}

// String formats the fence in short, as in profiles.yaml.
func (f Fence) String() string {
	if f.Kind == FenceExec && len(f.Exec) > 0 {
		return f.Exec[0]
	}
	return string(f.Kind)
}

// Unknown reports whether the fence is a FenceExec whose command is not known.
func (f Fence) Unknown() bool { return f.Kind == FenceExec && len(f.Exec) == 0 }

// FenceKind is a choice of Fence.
type FenceKind string

// The kinds of fences. On the home itself FenceExec works like FenceGuard.
const (
	FenceGuard    FenceKind = "guard"    // drover guard stops or kills the processes that can write
	FenceWatchdog FenceKind = "watchdog" // as guard, and if that fails, the host is restarted
	FenceExec     FenceKind = "exec"     // as guard, and the node that takes over first runs a command
)

const (
	// DefaultFenceTimeout is how long one run of a fence command may take if the profile sets no timeout.
	DefaultFenceTimeout = Duration(20 * time.Second)
	// MaxFenceTimeout is the longest time that a profile may allow: a mount that waits for the command has two
	// minutes.
	MaxFenceTimeout = Duration(time.Minute)
)

// Follow says whether a volume that is mounted on another node than its home moves to that node automatically. The zero
// value means FollowWithin with DefaultFollow. Profiles that do not set this choice have the zero value.
type Follow struct {
	// when the volume moves to the node that mounts it; empty: within the default time
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

// DefaultFollow is how long a move may be expected to take if the profile sets no time.
const DefaultFollow = Duration(time.Minute)

// Allows reports whether a move begins automatically. expected is how long the move is expected to take.
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

// String formats the choice as in profiles.yaml.
func (f Follow) String() string {
	switch f.Mode {
	case FollowAlways, FollowNever:
		return string(f.Mode)
	case FollowWithin:
		return "within " + f.Within.String()
	}
	return "within " + DefaultFollow.String()
}

// Filesystem is the filesystem of a dataset on a block device. Backends without devices for datasets refuse a
// type.
type Filesystem struct {
	Type  string   `json:"type,omitempty"`  // ext4 or xfs; empty: the backend chooses
	Mount []string `json:"mount,omitempty"` // mount options, such as noatime
	// Chosen says, in a dataset, that its pool chose Type: it was not requested.
	Chosen bool `json:"chosen,omitempty"`
}

// Snapshots are a profile's settings for snapshots.
type Snapshots struct {
	Required bool   `json:"required,omitempty"` // the pool must take snapshots without copying
	Schedule string `json:"schedule,omitempty"` // cron expression in local time; empty: no scheduled snapshots
	Keep     Keep   `json:"keep"`               // how many scheduled snapshots are kept
}

// Keep says how many scheduled snapshots or backups retention keeps: the newest Last ones, and the newest one of each
// of the latest Hourly hours, Daily days, Weekly weeks and Monthly months. If all are zero, it keeps all of them.
type Keep struct {
	Last    int `json:"last,omitempty"`    // number of newest ones that are kept
	Hourly  int `json:"hourly,omitempty"`  // number of hours whose newest one is kept
	Daily   int `json:"daily,omitempty"`   // number of days whose newest one is kept
	Weekly  int `json:"weekly,omitempty"`  // number of weeks whose newest one is kept
	Monthly int `json:"monthly,omitempty"` // number of months whose newest one is kept
}

// Retained says which of some snapshots or backups retention keeps. newest has the times at which they were taken,
// in the order in which they count, the newest first. A rule such as Daily divides time into periods, in the time zone
// loc. The rule considers the latest periods that contain one, and keeps the newest of each of them.
func (k Keep) Retained(newest []time.Time, loc *time.Location) []bool {
	kept := make([]bool, len(newest))
	for i := range kept {
		kept[i] = k == Keep{} || i < k.Last
	}
	for _, rule := range []struct {
		n      int
		period func(time.Time) string
	}{
		// with the offset, because the hour in which clocks are set back occurs twice
		{k.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15-0700") }},
		{k.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{k.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%d", y, w) }},
		{k.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		seen := map[string]bool{}
		for i, at := range newest {
			if len(seen) >= rule.n {
				break
			}
			if p := rule.period(at.In(loc)); !seen[p] {
				seen[p], kept[i] = true, true
			}
		}
	}
	return kept
}

// Backups are a profile's settings for scheduled backups.
type Backups struct {
	To       string `json:"to,omitempty"`       // name of the repository; empty: no scheduled backups
	Schedule string `json:"schedule,omitempty"` // cron expression in local time
	Keep     Keep   `json:"keep,omitzero"`      // how many scheduled backups are kept; absent: all
	// scheduled verifications of the backups; absent: none
	Verify Verification `json:"verify,omitzero"`
}

// Verification says how the scheduled backups of a volume are verified.
type Verification struct {
	Every Duration `json:"every,omitempty"` // time between two verifications
	// whether the newest backup is restored into a temporary volume, and compared; false: no scheduled verifications
	Restore bool   `json:"restore,omitempty"`
	Check   string `json:"check,omitempty"` // path of a program that checks the restored volume; empty: none
}

// Quiesce is the preparation of a snapshot of a mounted volume that has a filesystem for itself.
type Quiesce string

// The ways to quiesce.
const (
	QuiesceFreeze Quiesce = "freeze" // it is flushed, and frozen while it is copied: the snapshot is exact
	QuiesceFlush  Quiesce = "flush"  // it is only flushed: the snapshot has the state after a power cut
)

// OnDelete says what becomes of the data when the volume is deleted.
type OnDelete struct {
	Mode  DeleteMode `json:"mode"`            // what happens to the data when the volume is deleted
	Trash Duration   `json:"trash,omitempty"` // how long the data stays in the trash, with mode trash
}

// DeleteMode is a choice of OnDelete.
type DeleteMode string

// The modes of deleting.
const (
	DeleteTrash DeleteMode = "trash" // kept in the trash for a time, then destroyed
	DeletePurge DeleteMode = "purge" // destroyed at once
	DeleteKeep  DeleteMode = "keep"  // kept in the trash until someone purges it
)

// Owner is the owner and mode of a dataset's root.
type Owner struct {
	UID  uint32  `json:"uid"`            // numeric user ID
	GID  uint32  `json:"gid"`            // numeric group ID
	Mode *uint32 `json:"mode,omitempty"` // permission bits with setuid, setgid and sticky; absent: not changed
}

// Clone returns a deep copy of p.
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

// QoS limits the speed of a volume. A value of 0 is no limit.
type QoS struct {
	ReadIOPS  int64 `json:"read_iops,omitempty"`  // reads per second, at most; 0: not limited
	WriteIOPS int64 `json:"write_iops,omitempty"` // writes per second, at most; 0: not limited
	ReadBPS   Size  `json:"read_bps,omitempty"`   // bytes read per second, at most; 0: not limited
	WriteBPS  Size  `json:"write_bps,omitempty"`  // bytes written per second, at most; 0: not limited
	// Strict requires that the limit applies to all users of the volume together, from the first moment. A node that
	// cannot enforce this is not used.
	Strict bool `json:"strict,omitempty"`
}

// Limited reports whether there is any limit.
func (q QoS) Limited() bool {
	q.Strict = false
	return q != QoS{}
}

// String formats the limits in a few words. It returns "" if there are none.
func (q QoS) String() string {
	if !q.Limited() {
		return ""
	}
	var parts []string
	for _, d := range []struct {
		what string
		iops int64
		bps  Size
	}{{"read", q.ReadIOPS, q.ReadBPS}, {"write", q.WriteIOPS, q.WriteBPS}} {
		var limits []string
		if d.iops > 0 {
			limits = append(limits, fmt.Sprintf("%d IOPS", d.iops))
		}
		if d.bps > 0 {
			limits = append(limits, d.bps.String()+"/s")
		}
		if len(limits) > 0 {
			parts = append(parts, d.what+" "+strings.Join(limits, " and "))
		}
	}
	if q.Strict {
		parts = append(parts, "strict")
	}
	return strings.Join(parts, ", ")
}

// LimitEnforcement says which limits a node can enforce for volumes with separate block devices.
type LimitEnforcement string

// The limits that nodes can enforce; empty: none.
const (
	// LimitsContainer limits each container separately, from about a second after its start. The kernel's own writes
	// are limited separately too.
	LimitsContainer LimitEnforcement = "container"
	// LimitsStrict limits all users of the volume together, from the first moment.
	LimitsStrict LimitEnforcement = "strict"
)

// KeySource says where the operator's key for the datasets of a profile is: in a file on each host, or in the output of
// a program. The zero value means that the datasets are not encrypted.
type KeySource struct {
	KeyFile string `json:"key_file,omitempty"` // absolute path of the file with the key
	// Exec is the absolute path of a program that prints the key, with its arguments.
	Exec    []string `json:"exec,omitempty"`
	Timeout Duration `json:"timeout,omitempty"` // how long one run of the program may take
}

const (
	// DefaultKeyTimeout is how long one run of a key program may take if the profile sets no timeout.
	DefaultKeyTimeout = Duration(10 * time.Second)
	// MaxKeyTimeout is the longest time that a profile may allow: a mount that waits for the program has two
	// minutes.
	MaxKeyTimeout = Duration(time.Minute)
)

// Wanted reports whether the key source names a key, so that the datasets must be encrypted.
func (k KeySource) Wanted() bool { return k.KeyFile != "" || len(k.Exec) > 0 }

// Equal reports whether two key sources are the same.
func (k KeySource) Equal(o KeySource) bool {
	return k.KeyFile == o.KeyFile && k.Timeout == o.Timeout && slices.Equal(k.Exec, o.Exec)
}

// String names the key source.
func (k KeySource) String() string {
	if k.KeyFile != "" {
		return k.KeyFile
	}
	return strings.Join(k.Exec, " ")
}

// Encryption is the wrapped data key of an encrypted dataset: the data key, encrypted with a key of the operator. The
// dataset cannot be read without the operator's key. It is a part of the dataset's record.
type Encryption struct {
	// ID is the UUID of the data key and of the LUKS container that it opens. Snapshots, clones and copies have
	// the container's ID, and the same data key.
	ID      uuid.UUID `json:"id"`
	KeyID   string    `json:"key_id"`  // 8 hexadecimal digits that distinguish keys of the operator
	Wrapped []byte    `json:"wrapped"` // the data key, encrypted with the operator's key
}
