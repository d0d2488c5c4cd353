package guard

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
)

// Policy is how far the ladder of a dataset goes.
type Policy string

// The policies. By time alone, a fence of PolicyFreeze proves nothing: a holder that can't
// be stopped writes on.
const (
	PolicyFreeze   Policy = "freeze"   // no process is killed
	PolicyKill     Policy = "kill"     // the holders are killed when they cannot be stopped
	PolicyWatchdog Policy = "watchdog" // and the host is rebooted when they cannot be killed
)

// Policies returns all policies.
func Policies() []Policy { return []Policy{PolicyFreeze, PolicyKill, PolicyWatchdog} }

// State is what became of a dataset.
type State string

// The states.
const (
	// StateArmed: it may be written to until its deadline.
	StateArmed State = "armed"
	// StateFencing: its deadline has passed, and somebody may still be able to write.
	StateFencing State = "fencing"
	// StateFenced: nobody can write.
	StateFenced State = "fenced"
	// StateSuperseded: it was fenced, its holders were killed, and it was let go.
	StateSuperseded State = "superseded"
	// StateRebooted: it was registered before the host was booted, which ended all mounts.
	StateRebooted State = "rebooted"
)

// Registration is what the guard has to know of a dataset.
type Registration struct {
	Dataset uuid.UUID `json:"dataset"`
	Volume  string    `json:"volume"` // its name, for messages
	Epoch   uint64    `json:"epoch"`
	// Paths are where the host mounts it: absolute, without symbolic links.
	Paths []string `json:"paths"`
	// Own tells that it has a filesystem of its own, which may be frozen. Check refuses
	// what is none.
	Own    bool   `json:"own,omitempty"`
	Policy Policy `json:"policy"`
	// Deadline is a moment of clock.Boottime.
	Deadline time.Duration `json:"deadline"`

	agent hand.Process // who registers; the socket tells
}

// Entry is a dataset in the guard's table.
type Entry struct {
	hand.Target
	Volume   string        `json:"volume"`
	Epoch    uint64        `json:"epoch"`
	Policy   Policy        `json:"policy"`
	Deadline time.Duration `json:"deadline"`
	Boot     string        `json:"boot"` // of the deadline and of all moments here
	State    State         `json:"state"`
	// Bound is how long after the deadline the fence is complete at the latest, if each
	// rung of the ladder does what it should; one that overruns it says so in Fence. It grows with
	// the number of processes; Feed renews it.
	Bound time.Duration `json:"bound"`
	// Fence is the last one that was complete, nil when there was none.
	Fence *Fence `json:"fence,omitempty"`
	// Steps are what was done since the deadline passed, oldest first, at most MaxSteps.
	Steps []Step `json:"steps,omitempty"`
	// Breaches counts what was found undone, or anew, after the fence was complete.
	Breaches int `json:"breaches,omitempty"`
}

// Fence is proof that nobody could write from a moment on.
type Fence struct {
	Epoch uint64        `json:"epoch"`
	At    time.Duration `json:"at"`
	By    Act           `json:"by"`
	// Overrun is how long after the deadline that was, Late how much of it is beyond
	// Entry.Bound.
	Overrun time.Duration `json:"overrun"`
	Late    time.Duration `json:"late,omitempty"`
}

// Act is what a Step did.
type Act string

// The acts, the rungs of the ladder first.
const (
	ActFreeze    Act = "freeze"
	ActStop      Act = "stop"
	ActKill      Act = "kill"
	ActReboot    Act = "reboot"
	ActThaw      Act = "thaw"
	ActSupersede Act = "supersede"
)

// Step is one act and what came of it.
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

// add puts a step on record; one that says what the last of its kind said makes that
// longer.
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
		e.Steps = slices.Delete(e.Steps, MaxSteps/2, MaxSteps/2+1) // the first tell how it began
	}
}

const (
	maxPaths = 8
	maxPath  = 4095 // bytes, PATH_MAX without the NUL
	maxName  = 256  // bytes
	// MaxAhead bounds how far ahead a deadline may be.
	MaxAhead = time.Hour
)

// check fails with ErrInvalid for what is no registration.
func (r Registration) check(now time.Duration) error {
	bad := func(format string, args ...any) error {
		return dataset.Errorf(dataset.ErrInvalid, "register with the guard: "+format, args...)
	}
	switch {
	case r.Dataset == uuid.Nil:
		return bad("no dataset is named")
	case len(r.Volume) > maxName:
		return bad("the name of the volume has %d bytes: want %d at most", len(r.Volume), maxName)
	case !slices.Contains(Policies(), r.Policy):
		return bad("unknown fence policy %q (have: %s)", dataset.Clip(string(r.Policy)),
			dataset.Have(words(Policies())))
	case len(r.Paths) == 0 || len(r.Paths) > maxPaths:
		return bad("%d paths: want 1 to %d", len(r.Paths), maxPaths)
	}
	for _, p := range r.Paths {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" || len(p) > maxPath ||
			strings.ContainsAny(p, "\n\x00") {
			return bad("path %q: want an absolute path below /, in its shortest form", dataset.Clip(p))
		}
	}
	return checkDeadline(r.Deadline, now)
}

// checkDeadline refuses moments that are none of the next hour: those of another clock, or
// of another unit.
func checkDeadline(at, now time.Duration) error {
	if at <= now {
		return dataset.Errorf(dataset.ErrStale, "the deadline passed %v ago", now-at)
	}
	if at > now+MaxAhead {
		return dataset.Errorf(dataset.ErrInvalid,
			"the deadline is %v ahead: want %v at most (CLOCK_BOOTTIME, in nanoseconds)", at-now, MaxAhead)
	}
	return nil
}

func words[T ~string](list []T) []string {
	var all []string
	for _, w := range list {
		all = append(all, string(w))
	}
	return all
}

// Status is all that the guard knows.
type Status struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Boot    string `json:"boot"`
	// Now is the guard's clock.Boottime, Since that of its start.
	Now   time.Duration `json:"now"`
	Since time.Duration `json:"since"`
	// Missing are protections of the guard itself that this host does not allow, and
	// records that could not be read, one line each.
	Missing []string `json:"missing,omitempty"`
	// Watchdog is how long after its last feed the watchdog device reboots the host, 0
	// when it is not armed.
	Watchdog time.Duration `json:"watchdog,omitempty"`
	Datasets []Entry       `json:"datasets"`
}
