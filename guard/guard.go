package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/socket"
)

// Hands is what the guard does through its hand; see package hand for the acts. Safe for
// concurrent use.
type Hands interface {
	Freeze(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome
	Stop(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome
	Kill(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome
	KillHolders(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome
	Condemn(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome
	Undo(ctx context.Context, t hand.Target) error
	Bind(ctx context.Context, t hand.Target) (mount.Filesystem, error)
	Save(ctx context.Context, id uuid.UUID, record json.RawMessage) error
	Load(ctx context.Context) (map[uuid.UUID]json.RawMessage, error)
}

// MaxDatasets bounds the table.
const MaxDatasets = 4096

// MinStep and MaxStep bound Options.Step for a process: below, a rung has no time to do
// anything on a loaded host; above, a fence is complete after the lease of another node may
// begin.
const (
	MinStep = 50 * time.Millisecond
	MaxStep = time.Second
)

// Options say how a guard runs.
type Options struct {
	// Run is the guard's folder on a tmpfs, 0700.
	Run string
	// Hand does what may hang.
	Hand Hands
	// Clock is the system's when nil.
	Clock Clock
	// Step is what each rung of the ladder has, Recheck how often a complete fence is
	// looked at, Again how long a ladder that did not help waits to begin anew. A
	// second, a second and a quarter of one when 0.
	Step, Recheck, Again time.Duration
	// Processes returns how many processes the host has; nil: those in /proc.
	Processes func() int
	// OpenWatchdog opens the watchdog device; nil: there is none.
	OpenWatchdog func() (Watchdog, error)
	// Missing are protections that the host does not allow, for Status.
	Missing []string
	Version string
	Log     logrus.FieldLogger
	// Ready, when set, is called once what was due has begun to be fenced.
	Ready func()
}

// Guard is the table and what watches it. Safe for concurrent use.
type Guard struct {
	Options
	boot    string
	since   time.Duration
	records *records

	mu      sync.Mutex
	table   map[uuid.UUID]*entry
	agent   hand.Process // of this host, that asked last; PID 0: none yet
	missing []string
	dog     dog
	kick    chan struct{}
	ctx     context.Context // ends with Run
	wg      sync.WaitGroup
}

// entry is an Entry and what is under way with it. The Guard's lock covers it.
type entry struct {
	Entry
	// most is how long a fence may take for those who rely on Deadline: Feed.Most, or the bound with which
	// the registration was answered.
	most time.Duration
	// busy: a request changes it.
	busy bool
	// end ends its ladder, ended is closed when that has ended; nil without one.
	end   context.CancelFunc
	ended chan struct{}
}

// New reads the table of the guard that ran before; what was due meanwhile is fenced as
// soon as Run runs.
func New(ctx context.Context, o Options) (*Guard, error) {
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	o.Step, o.Recheck, o.Again = or(o.Step, time.Second), or(o.Recheck, time.Second), or(o.Again, time.Second/4)
	if o.Processes == nil {
		o.Processes = countProcesses
	}
	boot, err := clock.BootID()
	if err != nil {
		return nil, err
	}
	g := &Guard{
		Options: o, boot: boot, since: o.Clock.Boottime(), missing: o.Missing,
		table: map[uuid.UUID]*entry{}, kick: make(chan struct{}, 1),
		records: &records{run: o.Run, hand: o.Hand, queue: map[uuid.UUID]*saving{}, ctx: context.WithoutCancel(ctx)},
	}
	g.records.problem = func(err error) { o.Log.WithError(err).Error("a record is not on disk") }
	table, problems := g.records.load(ctx, boot)
	for _, err := range problems {
		o.Log.WithError(err).Error("the table is not whole")
		g.missing = append(g.missing, err.Error())
	}
	for id, e := range table {
		if e.Boot != boot {
			e = rebooted(e)
			if err := errors.Join(g.records.forgetDeadline(id), hand.Forget(o.Run, id)); err != nil {
				return nil, fmt.Errorf("guard: what was noted before the boot: %w", err)
			}
		}
		g.table[id] = &entry{Entry: e, most: e.Bound}
	}
	return g, nil
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// rebooted is an entry of an earlier boot: a boot ends all mounts and all processes.
func rebooted(e Entry) Entry {
	e.State = StateRebooted
	e.Steps = nil
	return e
}

// Run watches the deadlines, and answers on the listener, until ctx ends. What is fenced
// then stays so, what is armed is watched by nobody until another guard runs. It is called
// once.
func (g *Guard) Run(ctx context.Context, l *socket.Listener) error {
	alarm, err := g.Clock.NewAlarm()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	g.mu.Lock()
	g.ctx = ctx
	g.resume()
	g.mu.Unlock()
	next := g.tick()
	s := &server{guard: g, boot: g.boot, clock: g.Clock, log: g.Log}
	g.wg.Go(func() { s.serve(ctx, l) })
	if g.Ready != nil {
		g.Ready()
	}
	for err == nil {
		if err = alarm.Set(next); err != nil {
			break
		}
		select {
		case <-alarm.C():
		case <-g.kick:
		case <-ctx.Done():
			err = ctx.Err()
		}
		next = g.tick()
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	cancel()
	g.wg.Wait()
	g.records.wg.Wait()
	return errors.Join(err, g.leave(), alarm.Close())
}

// resume goes on where the guard before this one was; the lock is held.
func (g *Guard) resume() {
	wanted, rebooting := false, false
	for _, e := range g.table {
		if e.State != StateArmed && e.State != StateFencing && e.State != StateFenced {
			continue
		}
		if e.State != StateArmed {
			g.climb(e)
		}
		wanted = wanted || e.Policy == PolicyWatchdog
		rebooting = rebooting || e.State == StateFencing &&
			slices.ContainsFunc(e.Steps, func(s Step) bool { return s.Act == ActReboot })
	}
	if !wanted || rebooting { // to open the device would feed it
		return
	}
	if err := g.dog.want(g.OpenWatchdog); err != nil {
		// What was promised holds as far as the ladder without it.
		g.Log.WithError(err).Error("the watchdog is away")
		g.missing = append(g.missing, err.Error())
	}
}

// leave lets go of the watchdog. While a dataset wants it, it stays armed: unless a guard
// feeds it in time, the host is rebooted.
func (g *Guard) leave() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	armed, wanted := 0, false
	for _, e := range g.table {
		if e.State == StateArmed {
			armed++
			wanted = wanted || e.Policy == PolicyWatchdog
		}
	}
	if armed > 0 {
		g.Log.WithField("datasets", armed).Warn("the guard ends: nobody fences these until it runs again")
	}
	return g.dog.close(!wanted)
}

// tick fences what is due, and returns when to look again, 0 for never.
func (g *Guard) tick() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.Clock.Boottime()
	var next time.Duration
	for _, e := range g.table {
		if e.State != StateArmed {
			continue
		}
		if e.Deadline <= now {
			g.trip(e)
		} else if next == 0 || e.Deadline < next {
			next = e.Deadline
		}
	}
	feed, err := g.dog.feed(now)
	if err != nil {
		g.Log.WithError(err).Error("the watchdog was not fed")
	}
	if feed != 0 && (next == 0 || feed < next) {
		next = feed
	}
	return next
}

// wake has Run look at the table again.
func (g *Guard) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// save keeps an entry; the lock is held. A fence does not wait for a disk, nor fails with
// one: what could not be kept is logged.
func (g *Guard) save(e *entry) <-chan error {
	flushed, err := g.records.put(e.Entry)
	if err != nil {
		err = fmt.Errorf("keep the record of dataset %s: %w", e.Dataset, err)
		g.Log.WithError(err).Error("a record is not kept")
		c := make(chan error, 1)
		c <- err
		return c
	}
	return flushed
}
