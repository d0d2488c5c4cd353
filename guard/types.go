package guard

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
)

// Policy determines how far the ladder of a dataset goes.
type Policy string

// The policies. With PolicyFreeze, the guard cannot ensure that no process writes after the deadline: a holder that
// cannot be stopped continues to write.
const (
	PolicyFreeze   Policy = "freeze"   // no process is killed
	PolicyKill     Policy = "kill"     // the holders are killed when they cannot be stopped
	PolicyWatchdog Policy = "watchdog" // like PolicyKill; the host is rebooted if that fails
)

// Policies returns all policies.
func Policies() []Policy { return []Policy{PolicyFreeze, PolicyKill, PolicyWatchdog} }

// State is the state of a dataset.
type State string

// The states.
const (
	// StateArmed means that the dataset may be written to until its deadline.
	StateArmed State = "armed"
	// StateFencing means that the deadline has passed, and that a process may still be able to write.
	StateFencing State = "fencing"
	// StateFenced means that no process can write.
	StateFenced State = "fenced"
	// StateSuperseded means that the dataset was fenced, its holders were killed, and it was thawed.
	StateSuperseded State = "superseded"
	// StateRebooted means that the dataset was registered before the host was booted. The boot ended all mounts.
	StateRebooted State = "rebooted"
)

// Registration describes a dataset to the guard.
type Registration struct {
	Dataset uuid.UUID `json:"dataset"`
	Volume  string    `json:"volume"` // its name, for messages
	Epoch   uint64    `json:"epoch"`
	// Paths are the mount points on the host: absolute, without symbolic links.
	Paths []string `json:"paths"`
	// Own is true if the dataset has a filesystem for itself, which may be frozen. Check fails if the mounted
	// filesystem must not be frozen.
	Own    bool   `json:"own,omitempty"`
	Policy Policy `json:"policy"`
	// Deadline is a time of clock.Boottime.
	Deadline time.Duration `json:"deadline"`

	agent hand.Process // the process that registers, as the socket reports it
}

// Entry is a dataset in the guard's table.
type Entry struct {
	hand.Target
	Volume   string        `json:"volume"`
	Epoch    uint64        `json:"epoch"`
	Policy   Policy        `json:"policy"`
	Deadline time.Duration `json:"deadline"`
	Boot     string        `json:"boot"` // the boot in which the times of this entry were measured
	State    State         `json:"state"`
	// Bound is the longest time from the deadline until the fence is complete, if each rung of the ladder works.
	// Fence.Late shows by how much a fence took longer. Bound grows with the number of processes, so each Feed
	// computes it again.
	Bound time.Duration `json:"bound"`
	// Fence is the last complete fence, or nil if there was none.
	Fence *Fence `json:"fence,omitempty"`
	// Steps are the acts since the deadline passed, oldest first, at most MaxSteps.
	Steps []Step `json:"steps,omitempty"`
	// Breaches counts how often a complete fence was found broken.
	Breaches int `json:"breaches,omitempty"`
}

// Fence records that no process could write from a certain time on.
type Fence struct {
	Epoch uint64        `json:"epoch"`
	At    time.Duration `json:"at"`
	By    Act           `json:"by"`
	// Overrun is the time from the deadline to the fence. Late is the part of it that exceeds Entry.Bound.
	Overrun time.Duration `json:"overrun"`
	Late    time.Duration `json:"late,omitempty"`
}

// Act is the kind of a Step.
type Act string

// The acts. The rungs of the ladder come first.
const (
	ActFreeze    Act = "freeze"
	ActStop      Act = "stop"
	ActKill      Act = "kill"
	ActReboot    Act = "reboot"
	ActThaw      Act = "thaw"
	ActSupersede Act = "supersede"
)

// Step is one act and its result.
type Step struct {
	Act   Act           `json:"act"`
	Began time.Duration `json:"began"`
	Ended time.Duration `json:"ended"`
	Done  bool          `json:"done"`
	Note  string        `json:"note,omitempty"`
	// Left are processes that could still write, at most hand.MaxLeft.
	Left []hand.Process `json:"left,omitempty"`
}

// MaxSteps bounds Entry.Steps.
const MaxSteps = 32

// add records a step. If it repeats the previous step of its kind, add extends the previous step instead.
func (e *Entry) add(s Step) {
	if n := len(e.Steps); n > 0 && !s.Done {
		for i := n - 1; i >= 0; i-- {
			last := &e.Steps[i]
			if last.Act == s.Act {
				if last.Done == s.Done && last.Note == s.Note && slices.Equal(last.Left, s.Left) {
					last.Ended = s.Ended
					return
				}
				break
			}
		}
	}
	if e.Steps = append(e.Steps, s); len(e.Steps) > MaxSteps {
		e.Steps = slices.Delete(e.Steps, MaxSteps/2, MaxSteps/2+1) // keep the first: they show the cause
	}
}

const (
	maxPaths = 8
	maxPath  = 4095 // bytes, PATH_MAX without the NUL
	maxName  = 256  // bytes
	// MaxAhead bounds how far ahead a deadline may be.
	MaxAhead = time.Hour
)

// check returns ErrInvalid if the registration is not valid.
func (r Registration) check(now time.Duration) error {
	bad := func(format string, args ...any) error {
		return dataset.Errorf(dataset.ErrInvalid, "register with the guard: "+format, args...)
	}
	switch {
	case r.Dataset == uuid.Nil:
		return bad("missing dataset")
	case len(r.Volume) > maxName:
		return bad("the name of the volume has %d bytes: expected %d at most", len(r.Volume), maxName)
	case !slices.Contains(Policies(), r.Policy):
		return bad("unknown fence policy %q (available: %s)", dataset.Clip(string(r.Policy)),
			dataset.FormatChoices(toStrings(Policies())))
	case len(r.Paths) == 0 || len(r.Paths) > maxPaths:
		return bad("%d paths: expected 1 to %d", len(r.Paths), maxPaths)
	}
	for _, p := range r.Paths {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" || len(p) > maxPath ||
			strings.ContainsAny(p, "\n\x00") {
			return bad("path %q: expected an absolute path below /, in its shortest form", dataset.Clip(p))
		}
	}
	return checkDeadline(r.Deadline, now)
}

// checkDeadline rejects times outside the next hour: they come from another clock, or have another unit.
func checkDeadline(at, now time.Duration) error {
	if at <= now {
		return dataset.Errorf(dataset.ErrStale, "the deadline passed %v ago", now-at)
	}
	if at > now+MaxAhead {
		return dataset.Errorf(dataset.ErrInvalid,
			"the deadline is %v ahead: expected %v at most (CLOCK_BOOTTIME, in nanoseconds)", at-now, MaxAhead)
	}
	return nil
}

func toStrings[T ~string](list []T) []string {
	var all []string
	for _, w := range list {
		all = append(all, string(w))
	}
	return all
}

// Status is the state of the guard and its table.
type Status struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Boot    string `json:"boot"`
	// Now is the guard's clock.Boottime. Since is the time at which the guard started.
	Now   time.Duration `json:"now"`
	Since time.Duration `json:"since"`
	// Missing lists protections of the guard that this host does not allow, and records that could not be read,
	// one line each.
	Missing []string `json:"missing,omitempty"`
	// Watchdog is how long after its last feed the watchdog device reboots the host. It is 0 if the device is not
	// armed.
	Watchdog time.Duration `json:"watchdog,omitempty"`
	Datasets []Entry       `json:"datasets"`
}

// Version is the version of the protocol. A guard answers only requests of its own version. A guard ignores fields that
// it does not know, so a field that must not be ignored needs a new version.
const Version = 1

const (
	maxRequest = 1 << 20  // bytes, a feed of all datasets
	maxReply   = 64 << 20 // bytes, of the largest possible status
)

// The requests.
const (
	opRegister  = "register"
	opFeed      = "feed"
	opCheck     = "check"
	opThaw      = "thaw"
	opSupersede = "supersede"
	opRelease   = "release"
	opDismiss   = "dismiss"
	opStatus    = "status"
)

// request is a request of the client. Deadlines are times of the boot that Boot names.
type request struct {
	Version      int           `json:"v"`
	Boot         string        `json:"boot"`
	Op           string        `json:"op"`
	Agent        bool          `json:"agent,omitempty"` // the request comes from this host's agent, not from a person
	Registration *Registration `json:"registration,omitempty"`
	Feeds        []Feed        `json:"feeds,omitempty"`
	Dataset      uuid.UUID     `json:"dataset,omitzero"`
	Epoch        uint64        `json:"epoch,omitempty"`
	Deadline     time.Duration `json:"deadline,omitempty"`
}

// reply answers one request.
type reply struct {
	Version int                   `json:"v"`
	Failure *failure              `json:"failure,omitempty"`
	Entry   *Entry                `json:"entry,omitempty"`
	Refused map[uuid.UUID]failure `json:"refused,omitempty"`
	Status  *Status               `json:"status,omitempty"`
}

// failure is an error: its kind's code, and its line.
type failure struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// Clock measures deadlines: CLOCK_BOOTTIME, or a fake in tests.
type Clock interface {
	// Boottime is clock.Boottime.
	Boottime() time.Duration
	// NewAlarm is clock.NewAlarm.
	NewAlarm() (Alarm, error)
}

// Alarm is clock.Alarm.
type Alarm interface {
	C() <-chan struct{}
	Set(at time.Duration) error
	Close() error
}

type systemClock struct{}

func (systemClock) Boottime() time.Duration  { return clock.Boottime() }
func (systemClock) NewAlarm() (Alarm, error) { return clock.NewAlarm() }
