// Package hand performs the operations of the guard that may hang in the kernel: it freezes filesystems, finds, stops
// and kills processes, and flushes records. They run in a separate process, the hand. A process with a thread that
// waits in the kernel (state D) cannot end. So a guard that performed these operations itself could not be killed or
// replaced.
//
// Tool performs the operations, which are called acts. Serve runs in the hand and answers requests with a Tool. Hand is
// the guard's side of the connection: it starts the hand, and restarts it when it dies. Package guard calls both sides.
//
// An act records its intent in files below Options.Run, which are called marks. So a later guard of the same boot, with
// another hand, can continue the act and undo it. Only the marks and the records of the guard outlive the hand. A mutex
// and a lock on a file (see markFiles.lock) protect the marks. The state in memory (running acts, freezes, looks,
// suspects, and the connection of a Hand) is protected by the mutex of each type.
//
// Where to change what: what is done to a holder is in stop.go, and how a filesystem is frozen in freeze.go. Who
// counts as a holder is in look.go and processtable.go, and which processes are examined first in examineall.go. How
// an act is undone is in undo.go. A new act also needs a request in process.go and serve.go. What an act reports about
// processes is in hand.go (Outcome), and stop.go fills it in.
//
// # How holders are found
//
// A holder is a process that can write to a dataset. To find the holders, a look reads /proc:
//
//   - list reads the mount namespace of every process, unless its mount table is large. A process in whose namespace
//     the dataset is mounted is a holder, unless that mount is a copy of the host's.
//   - examineAll then reads the descriptors, working directories and memory maps of every process. A process that has
//     the dataset open for writing is a holder.
//
// The result is a processTable. A process that cannot be examined in time is a suspect: it is stopped first, examined
// in the background, and continues once it was shown not to hold the dataset.
package hand

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Target is a dataset that acts are applied to.
type Target struct {
	Dataset uuid.UUID `json:"dataset"`
	// Paths are the mount points of the dataset on the host: absolute, without symbolic links.
	Paths []string `json:"paths"`
	// Own is true if the dataset has a filesystem for itself, which may be frozen.
	Own bool `json:"own,omitempty"`
	// Filesystem is what Bind found mounted on Paths. It is zero if Bind has not found anything yet.
	Filesystem mount.Filesystem `json:"filesystem,omitzero"`
	// Agent is the process that registered the dataset. If it holds the dataset, it is killed and
	// not stopped: a stopped agent could never ask to undo the fence, but a killed agent is restarted.
	Agent Process `json:"agent,omitzero"`
}

// Process identifies a process of this host.
type Process struct {
	PID int `json:"pid"`
	// Start distinguishes the process from a later one with the same PID: proc_pid_stat(5), starttime.
	Start uint64 `json:"start"`
	Comm  string `json:"comm"`
	// Engine is true for a container engine, which writes into volumes itself during docker cp. It is stopped and never
	// killed, because it uses more than this dataset.
	Engine bool `json:"engine,omitempty"`
}

// ProcessOf returns the process that has a PID now. It fails if there is none.
func ProcessOf(pid int) (Process, error) {
	st, err := statOf(filepath.Join("/proc", strconv.Itoa(pid)))
	return Process{PID: pid, Start: st.start, Comm: st.comm}, err
}

func (p Process) same(q Process) bool { return p.PID == q.PID && p.Start == q.Start }

// Outcome is the result of an act.
type Outcome struct {
	// Done is true if no process could write to the dataset at the moment At of clock.Boottime. No process can write
	// until the act is undone.
	Done bool          `json:"done"`
	At   time.Duration `json:"at"`
	// Changed is true if this act changed something. It is false if an earlier act had done everything already.
	Changed bool `json:"anew,omitempty"`
	// Contained is true if the act is not done, but every holder that was found is harmless. The act is then not done
	// for one reason: new processes appear all the time, and cannot be examined in time. A stricter act would kill
	// holders without need.
	Contained bool `json:"contained,omitempty"`
	// Note is one line: the reason why the act is not done, or something unusual.
	Note string `json:"note,omitempty"`
	// Left lists holders that could not be stopped or killed, at most MaxLeft of them.
	Left []Process `json:"left,omitempty"`
}

// noteOf formats an error as one line. If the error only says that time ran out, it returns was, the
// earlier and more specific note, instead.
func noteOf(err error, was string) string {
	if was != "" && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return was
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// MaxLeft is the maximum length of Outcome.Left.
const MaxLeft = 8

// Tool performs the acts in the calling process. Every act is idempotent. An act ends when its context ends, or as soon
// after that as the kernel returns.
//
// Safe for concurrent use, with one restriction: the caller (the guard) must not run two acts on the same dataset at
// once. Undo may run at any time, because it ends the other acts on its dataset first.
type Tool struct {
	Options
	*freezer // implements Freeze and Bind
	marks    *markFiles
	looks    looks
	examiner inuse.Examiner
	suspects suspects

	mu   sync.Mutex
	acts map[uuid.UUID]*runningActs
	wg   sync.WaitGroup // the examinations in the background
}

// Options are the settings of a Tool.
type Options struct {
	// Run is a folder for files that are valid for this boot. It must be on a filesystem that never
	// waits for a disk (tmpfs).
	Run string
	// Root is a folder for files that must survive a power cut.
	Root string
	// Spare lists the PIDs that acts ignore: the guard and its hand.
	Spare []int
	Clock clock.Clock
}

// New returns a Tool. It starts nothing.
func New(o Options) *Tool {
	t := &Tool{Options: o, marks: &markFiles{run: o.Run, clock: o.Clock}, acts: map[uuid.UUID]*runningActs{}}
	t.freezer = &freezer{
		root: o.Root, clock: o.Clock, marks: t.marks, freezing: map[uuid.UUID]*attempt{},
		look: func(ctx context.Context, target Target) *look { return t.looks.begin(ctx, t, target) },
	}
	return t
}

// runningActs are the acts on the holders of one dataset that are under way.
type runningActs struct {
	running map[*context.CancelFunc]bool
	ended   chan struct{} // closed and replaced each time that an act ends
}

// beginAct registers an act on the holders of a dataset, so that endActs can end it. The caller calls
// the returned function when the act is over.
func (t *Tool) beginAct(ctx context.Context, id uuid.UUID) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acts[id] == nil {
		t.acts[id] = &runningActs{map[*context.CancelFunc]bool{}, make(chan struct{})}
	}
	t.acts[id].running[&cancel] = true
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		a := t.acts[id]
		delete(a.running, &cancel)
		close(a.ended)
		if a.ended = make(chan struct{}); len(a.running) == 0 {
			delete(t.acts, id)
		}
	}
}

// endActs cancels the acts on the holders of a dataset and waits for their end, so that no process is
// stopped while Undo lets the processes continue.
func (t *Tool) endActs(ctx context.Context, id uuid.UUID) error {
	for {
		t.mu.Lock()
		a := t.acts[id]
		var ended chan struct{}
		if a != nil {
			ended = a.ended
			for cancel := range a.running {
				(*cancel)()
			}
		}
		t.mu.Unlock()
		if a == nil {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("pending actions on the dataset do not end: %w", ctx.Err())
		}
	}
}

// Wait waits for the background work of acts: freezes that the kernel had not finished in time, and the examination
// of stopped suspects.
func (t *Tool) Wait() {
	t.freezer.wg.Wait()
	t.wg.Wait()
}
