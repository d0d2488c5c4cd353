package dataset

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// Usage is how full a filesystem is, in the figures that df shows.
type Usage struct {
	Used      Size `json:"used"`      // bytes in use, as df shows them
	Available Size `json:"available"` // bytes that can still be written, without those that are reserved for root
	// number of inodes, in use or not; absent: the filesystem has no fixed number
	Inodes     int64 `json:"inodes,omitempty"`
	InodesUsed int64 `json:"inodes_used,omitempty"` // inodes in use
}

// Percent returns how many percent of the bytes are used. It is the Use% of df: the share of the bytes that are used or
// available, rounded up.
func (u Usage) Percent() int {
	return percent(int64(u.Used), int64(u.Available))
}

// InodePercent returns how many percent of the inodes are used. It is the IUse% of df -i. It is 0 if the filesystem has
// no fixed number of inodes.
func (u Usage) InodePercent() int {
	return percent(u.InodesUsed, u.Inodes-u.InodesUsed)
}

// percent returns the share of used in used+free, rounded up. A negative number counts as 0.
func percent(used, free int64) int {
	part := uint64(max(used, 0))         //nolint:gosec // not negative
	total := part + uint64(max(free, 0)) //nolint:gosec // not negative
	if total == 0 {
		return 0
	}
	high, low := bits.Mul64(part, 100)
	quotient, rest := bits.Div64(high, low, total)
	if rest > 0 {
		quotient++
	}
	return int(quotient) //nolint:gosec // at most 100
}

// Fullness says whether the space of a volume or pool runs out.
type Fullness string

// The states of Fullness.
const (
	NotFull    Fullness = ""
	NearlyFull Fullness = "nearly_full"
	Full       Fullness = "full"
)

// String returns the word that people read.
func (f Fullness) String() string {
	switch f {
	case NearlyFull:
		return "NEARLY FULL"
	case Full:
		return "FULL"
	}
	return string(f)
}

const (
	// DefaultWarnAt is the percentage of use from which a volume is nearly full if its profile sets none. It applies to
	// pools too.
	DefaultWarnAt = 85
	// fullAt is the percentage of use from which a volume or pool is full, unless the threshold for nearly full is
	// higher.
	fullAt = 97
	// fullnessMargin is the hysteresis in percentage points: a state ends only when the use has fallen this far below
	// its threshold. Without the margin, a volume whose use varies around a threshold would cause an event each time.
	fullnessMargin = 3
)

// Fullness returns the state for these figures. It uses the bytes or the inodes, whichever have the higher percentage.
// warnAt is the threshold in percent for nearly full; 0 means DefaultWarnAt. The previous state ends only when the use
// has fallen clearly below its threshold.
func (u Usage) Fullness(warnAt int, previous Fullness) Fullness {
	warnAt = cmp.Or(warnAt, DefaultWarnAt)
	used, fullFrom := max(u.Percent(), u.InodePercent()), max(fullAt, warnAt)
	switch {
	case used >= fullFrom, previous == Full && used > fullFrom-fullnessMargin:
		return Full
	case used >= warnAt, previous != NotFull && used > warnAt-fullnessMargin:
		return NearlyFull
	}
	return NotFull
}

// Describe returns how full a filesystem of the given size is, such as "88% of 20GiB used". It gives the percentage of
// the inodes if that is higher than the percentage of the bytes.
func (u Usage) Describe(size Size) string {
	if p := u.InodePercent(); p > u.Percent() {
		return fmt.Sprintf("%d%% of %d inodes used", p, u.Inodes)
	}
	return fmt.Sprintf("%d%% of %s used", u.Percent(), size.Human())
}

// Usage returns how full the pool is.
func (p PoolStatus) Usage() Usage { return Usage{Used: p.Size - p.Free, Available: p.Free} }

// Fullness returns whether the space of the pool runs out. It is NotFull if the pool has not reported its size.
func (p PoolStatus) Fullness() Fullness {
	if p.Size <= 0 {
		return NotFull
	}
	return p.Usage().Fullness(DefaultWarnAt, NotFull)
}

// FullnessAfter is Fullness with the margin of Usage.Fullness. If the pool has not reported its size, because it is
// offline, the previous state stays.
func (p PoolStatus) FullnessAfter(previous Fullness) Fullness {
	if p.Size <= 0 {
		return previous
	}
	return p.Usage().Fullness(DefaultWarnAt, previous)
}

// OvercommitRatio returns the provisioned bytes divided by the size of the pool, or 0 if the size is not known.
func (p PoolStatus) OvercommitRatio() float64 {
	if p.Size <= 0 {
		return 0
	}
	return float64(p.Provisioned) / float64(p.Size)
}

// WhyOvercommitted returns why the policy of the pool does not allow that more bytes are provisioned, or "" if it does.
// more is the number of these bytes. A pool without a policy allows any number.
func (p PoolStatus) WhyOvercommitted(more Size) string {
	if p.Overcommit <= 0 || p.Size <= 0 || more <= 0 ||
		float64(p.Provisioned+more) <= p.Overcommit*float64(p.Size) {
		return ""
	}
	return fmt.Sprintf("its volumes may become %s large and it has %s, and %s more would exceed its overcommit of %s",
		p.Provisioned.Human(), p.Size.Human(), more.Human(), FormatRatio(p.Overcommit))
}

// FormatRatio formats a ratio with at most two digits after the point, such as 1.5.
func FormatRatio(r float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(r, 'f', 2, 64), "0"), ".")
}

// The limits of the overcommit of a pool.
const (
	minOvercommit = 0.01
	maxOvercommit = 1000
)

// CheckOvercommit fails with ErrInvalid unless r can be the overcommit of a pool. 0 means no limit.
func CheckOvercommit(r float64) error {
	if r == 0 || r >= minOvercommit && r <= maxOvercommit {
		return nil
	}
	return Errorf(ErrInvalid, "bad overcommit %v: expected a ratio from %v to %v, such as 1.5, or 0 for no limit", r,
		minOvercommit, maxOvercommit)
}

// Enlarged returns a larger size to suggest: one and a half times the given size, in whole GiB, or in MiB for small
// sizes.
func (s Size) Enlarged() Size {
	unit := GiB
	if s < 4*unit {
		unit = MiB
	}
	return (s + s/2 + unit - 1) / unit * unit
}

// GrowsMounted reports whether a dataset with a filesystem can grow while it is mounted.
func (c Capabilities) GrowsMounted(filesystem string) bool {
	return !c.EnforcesSize || c.OnlineGrow && !slices.Contains(c.OfflineGrow, filesystem)
}

// Room describes the pool of a volume that needs more space.
type Room struct {
	Pool   string      // the name of the pool, for commands
	Status *PoolStatus // nil if the status of the pool is not known
	// Blocked is true if the volume is mounted, and cannot grow before it is unmounted.
	Blocked bool
}

// RoomIn returns the room of a volume in a pool. name is the name of the pool for commands, and st the status of the
// volume.
func (d Dataset) RoomIn(name string, can Capabilities, is *PoolStatus, st *DatasetStatus) Room {
	mounted := st != nil && (st.Mounted || len(st.Mounts) > 0)
	return Room{Pool: name, Status: is, Blocked: mounted && !can.GrowsMounted(d.Profile.Filesystem.Type)}
}

// SpaceCommands returns commands for a user whose volume needs more space: the command that enlarges the volume or, if
// a larger volume would not help or is refused, commands that show what could be enlarged or removed in the pool. None
// of them removes data. If the volume must be unmounted first, a line before and after the command says so.
func (d Dataset) SpaceCommands(in Room, u Usage) []string {
	switch grow, why := d.growCommandIn(in, u); {
	case why != "" && in.Status.limitsOvercommit(d):
		return []string{"drover pool inspect " + in.Pool, "drover pool ls"}
	case why != "":
		return []string{"drover pool inspect " + in.Pool, "drover snapshot ls --size", "drover trash ls"}
	case in.Blocked:
		return []string{"stop its containers: " + d.whyBlocked(), grow, "start its containers again"}
	default:
		return []string{grow}
	}
}

// SpaceHint returns what gives a volume in a pool more space, in one line.
func (d Dataset) SpaceHint(in Room, u Usage) string {
	switch grow, why := d.growCommandIn(in, u); {
	case why != "" && in.Status.limitsOvercommit(d):
		return fmt.Sprintf("%s: allow more (drover pool set %s --overcommit RATIO), or move volumes away (drover pool "+
			"ls shows the other pools)", why, in.Pool)
	case why != "":
		return fmt.Sprintf("%s: enlarge the pool's filesystem (drover pool inspect %s), move volumes away (drover "+
			"pool ls shows the other pools), or remove what drover snapshot ls --size and drover trash ls list", why,
			in.Pool)
	case in.Blocked:
		return fmt.Sprintf("stop its containers (drover volume inspect %s names them), run %s, and start them again: "+
			"%s", d.Volume, grow, d.whyBlocked())
	default:
		return grow
	}
}

// whyBlocked returns why a mounted volume cannot grow.
func (d Dataset) whyBlocked() string {
	return cmp.Or(d.Profile.Filesystem.Type, "it") + " cannot grow while mounted on its node"
}

// WhyNotLarger returns why a larger volume would not help or is refused, or "" if the volume can grow.
func (d Dataset) WhyNotLarger(in Room, u Usage) string {
	_, why := d.growCommandIn(in, u)
	return why
}

// growCommandIn is GrowCommand with a size that the pool accepts: at most the size of the pool, and at most what the
// overcommit of the pool allows. If a larger volume would not help or is refused, it returns the reason instead.
func (d Dataset) growCommandIn(in Room, u Usage) (command, why string) {
	st, size := in.Status, d.Size.Enlarged()
	if st == nil || st.Size <= 0 {
		return d.GrowCommand(), ""
	}
	size = min(size, st.Size/MiB*MiB, st.allowedSize(d)/MiB*MiB)
	switch {
	case st.limitsOvercommit(d):
		return "", fmt.Sprintf("the volume cannot grow, because the volumes of pool %s may become %s large, and its "+
			"overcommit of %s allows at most %s", in.Pool, st.Provisioned.Human(), FormatRatio(st.Overcommit),
			st.allowedSum().Human())
	case size <= d.Size:
		return "", fmt.Sprintf("the volume cannot grow, because pool %s has %s in all", in.Pool, st.Size.Human())
	// A volume that lacks inodes more than space would get more of them with a larger size.
	case st.Size > 0 && (st.Fullness() == Full || st.Free <= u.Available && u.InodePercent() <= u.Percent()):
		return "", fmt.Sprintf("a larger volume would not help, because pool %s has only %s free", in.Pool,
			st.Free.Human())
	}
	return fmt.Sprintf("drover volume resize %s %s", d.Volume, size), ""
}

// allowedSize returns the largest size of a volume of the pool that its overcommit allows.
func (p *PoolStatus) allowedSize(d Dataset) Size {
	if p.Overcommit <= 0 {
		return math.MaxInt64
	}
	return max(0, d.Size+p.allowedSum()-p.Provisioned)
}

// allowedSum returns the largest sum of the sizes of all volumes that the overcommit of the pool allows.
func (p *PoolStatus) allowedSum() Size { return Size(p.Overcommit * float64(p.Size)) }

// leastGrowth is the divisor of a volume's size that gives the smallest growth worth advising: a tenth of the size.
const leastGrowth = 10

// limitsOvercommit reports whether the overcommit of the pool, and not its size, prevents that a volume grows.
func (p *PoolStatus) limitsOvercommit(d Dataset) bool {
	return p != nil && p.Size > d.Size && p.allowedSize(d)-d.Size < d.Size/leastGrowth
}

// GrowCommand returns the command that gives a volume more space.
func (d Dataset) GrowCommand() string {
	return fmt.Sprintf("drover volume resize %s %s", d.Volume, d.Size.Enlarged())
}

const (
	maxNamed      = 3   // number of things in a pool that an error names
	maxErrorBytes = 400 // longest text of such an error, unless a single thing is longer
)

// PoolContent is a thing that prevents the removal of a pool, with the way to remove the thing.
type PoolContent struct{ What, Remedy string }

// PoolNotEmpty returns the error for a pool that cannot be removed because of its content or of records. It is
// ErrConflict, and names up to three of these things, each with the way to remove it. If there are none, PoolNotEmpty
// returns nil.
func PoolNotEmpty(pool string, contents []PoolContent) error {
	if len(contents) == 0 {
		return nil
	}
	text := ""
	for n := min(len(contents), maxNamed); n > 0; n-- {
		var parts []string
		for _, h := range contents[:n] {
			parts = append(parts, h.What+": "+h.Remedy)
		}
		if more := len(contents) - n; more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", more))
		}
		if text = fmt.Sprintf("pool %s holds %s", pool, strings.Join(parts, "; ")); len(text) <= maxErrorBytes {
			break
		}
	}
	return Errorf(ErrConflict, "%s", text)
}

// PoolContent describes the dataset as a thing that prevents the removal of its home's pool.
func (d Dataset) PoolContent() PoolContent {
	short := d.ID.String()[:8]
	switch d.State {
	case StateTrashed:
		return PoolContent{fmt.Sprintf("volume %s (in the trash, %s)", d.Volume, short),
			"drover trash purge " + short + " --dry-run"}
	case StatePurging:
		return PoolContent{fmt.Sprintf("the remaining data of volume %s (purged, %s)", d.Volume, short),
			"removed automatically, try again soon"}
	}
	return PoolContent{"volume " + d.Volume, fmt.Sprintf("drover volume rm %s --dry-run", d.Volume)}
}

// PoolContent describes the copy as a thing that prevents the removal of its pool. volume is the name of the copied
// volume, and node is the name of the node that keeps the copy.
func (c Copy) PoolContent(volume, node string) PoolContent {
	switch c.Kind {
	case CopyReplica:
		return PoolContent{"a replica of volume " + volume, "delete the volume, or run drover node drain " + node}
	case CopySuperseded:
		return PoolContent{"a superseded copy of volume " + volume,
			fmt.Sprintf("drover copy mount %s %s shows it", c.Dataset, node)}
	case CopyLeft:
		return PoolContent{"a copy of volume " + volume + " from before a move",
			"removed automatically some time after the move"}
	}
	return PoolContent{"the remaining data of a copy of volume " + volume, "removed automatically, try again soon"}
}
