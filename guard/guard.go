package guard

import (
	"cmp"
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

// Hands performs the acts that may hang in the kernel: see package hand. Safe for concurrent use.
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

// MinStep and MaxStep bound Options.Step for a process. With a shorter step, a rung has no time to do anything on a
// loaded host. With a longer step, the fence could still be incomplete when the lease of another node begins.
const (
	MinStep = 50 * time.Millisecond
	MaxStep = time.Second
)

// Options are the settings of a guard.
type Options struct {
	// Run is the guard's folder. It is on a tmpfs, with mode 0700.
	Run string
	// Hand performs the acts that may hang.
	Hand Hands
	// Clock measures the deadlines. If nil, the system's clock is used.
	Clock Clock
	// Step is the time that each rung of the ladder has; the default is a second. Recheck is the interval at which
	// a complete fence is checked; the default is a second. RetryPause is the pause between two rounds of a ladder that
	// has not completed the fence; the default is a quarter of a second.
	Step, Recheck, RetryPause time.Duration
	// Processes returns how many processes the host has. If nil, those in /proc are counted.
	Processes func() int
	// OpenWatchdog opens the watchdog device. If nil, the host has none.
	OpenWatchdog func() (Watchdog, error)
	// Missing lists protections that the host does not allow. Status shows them.
	Missing []string
	Version string
	Log     logrus.FieldLogger
	// Ready, if set, is called once the guard has begun to fence every dataset whose deadline had passed.
	Ready func()
}

// Guard keeps the table of registered datasets and fences those whose deadline passes. Safe for concurrent use.
type Guard struct {
	Options
	boot    string
	since   time.Duration
	records *records

	mu       sync.Mutex
	table    map[uuid.UUID]*entry
	agent    hand.Process // the agent that sent the last request; PID 0: none yet
	missing  []string
	watchdog watchdogKeeper
	kick     chan struct{}
	ctx      context.Context // ends with Run
	wg       sync.WaitGroup
}

// entry is an Entry and the state of the work on it. The Guard's lock protects it.
type entry struct {
	Entry
	// maxFenceTime is the longest duration of a fence that other nodes rely on: Feed.MaxFenceTime, or the bound that
	// the registration returned.
	maxFenceTime time.Duration
	// busy is true while a request changes the entry.
	busy bool
	// end cancels the ladder of the entry, and ended is closed when the ladder has ended. Both are nil if no
	// ladder is under way.
	end   context.CancelFunc
	ended chan struct{}
}

// New returns a guard with the table of the previous guard. Datasets whose deadline passed meanwhile are fenced as
// soon as Run runs.
func New(ctx context.Context, o Options) (*Guard, error) {
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	o.Step, o.Recheck = cmp.Or(o.Step, time.Second), cmp.Or(o.Recheck, time.Second)
	o.RetryPause = cmp.Or(o.RetryPause, time.Second/4)
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
		records: &records{
			run: o.Run, hand: o.Hand, queue: map[uuid.UUID]*pendingSave{}, ctx: context.WithoutCancel(ctx),
		},
	}
	g.records.problem = func(err error) { o.Log.WithError(err).Error("cannot write a record to disk") }
	table, problems := g.records.load(ctx, boot)
	for _, err := range problems {
		o.Log.WithError(err).Error("the table is incomplete")
		g.missing = append(g.missing, err.Error())
	}
	for id, e := range table {
		if e.Boot != boot {
			e.State, e.Steps = StateRebooted, nil // a boot ends all mounts and all processes
			if err := errors.Join(g.records.forgetDeadline(id), hand.Forget(o.Run, id)); err != nil {
				return nil, fmt.Errorf("guard: records from before the boot: %w", err)
			}
		}
		g.table[id] = &entry{Entry: e, maxFenceTime: e.Bound}
	}
	return g, nil
}

// Run watches the deadlines and answers requests on the listener until ctx ends. After Run has returned, fenced
// datasets stay fenced. The deadlines of armed datasets are not watched until another guard runs. Call Run only once.
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
	return errors.Join(err, g.closeWatchdog(), alarm.Close())
}

// resume continues the work of the previous guard. The lock is held.
func (g *Guard) resume() {
	wanted, rebooting := false, false
	for _, e := range g.table {
		if e.State != StateArmed && e.State != StateFencing && e.State != StateFenced {
			continue
		}
		if e.State != StateArmed {
			g.startLadder(e)
		}
		wanted = wanted || e.Policy == PolicyWatchdog
		rebooting = rebooting || e.State == StateFencing &&
			slices.ContainsFunc(e.Steps, func(s Step) bool { return s.Act == ActReboot })
	}
	if !wanted || rebooting { // opening the device would feed it, and postpone the reboot
		return
	}
	if err := g.watchdog.open(g.OpenWatchdog); err != nil {
		// Without the watchdog, the ladder still fences as far as it can.
		g.Log.WithError(err).Error("the watchdog device is missing")
		g.missing = append(g.missing, err.Error())
	}
}

// closeWatchdog closes the watchdog device. If an armed dataset has policy watchdog, the device stays armed: the host
// is rebooted unless another guard feeds the device in time.
func (g *Guard) closeWatchdog() error {
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
		g.Log.WithField("datasets", armed).Warn("the guard stops: these datasets are not fenced until it runs again")
	}
	return g.watchdog.close(!wanted)
}

// tick fences the datasets whose deadline has passed. It returns the time of the next check, or 0 if there is
// none.
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
			g.startFence(e)
		} else if next == 0 || e.Deadline < next {
			next = e.Deadline
		}
	}
	feed, err := g.watchdog.feed(now)
	if err != nil {
		g.Log.WithError(err).Error("cannot feed the watchdog")
	}
	if feed != 0 && (next == 0 || feed < next) {
		next = feed
	}
	return next
}

// wake makes Run check the table again.
func (g *Guard) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// save records an entry. The lock is held. An error is only logged, because a fence must neither wait for a disk nor
// fail because of it.
func (g *Guard) save(e *entry) <-chan error {
	flushed, err := g.records.put(e.Entry)
	if err != nil {
		err = fmt.Errorf("save the record of dataset %s: %w", e.Dataset, err)
		g.Log.WithError(err).Error("cannot save a record")
		c := make(chan error, 1)
		c <- err
		return c
	}
	return flushed
}
