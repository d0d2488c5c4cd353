// Package hand does for the guard what may hang in the kernel: freezing filesystems,
// finding and stopping processes, flushing records. It runs in a process of its own, the
// hand, because a thread that waits in the kernel (state D) keeps its whole process from
// ending: a guard that did these things itself could not be killed, nor replaced.
//
// A Tool does the acts, Serve answers requests with them in the hand, and a Hand is the
// guard's end: it starts the hand, and another one when that dies. What an act has begun
// stands in files below Tool.Run before it is done, so that the hand of another guard of
// the same boot goes on with it and can undo it.
package hand

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/mount"
)

// Target is a dataset as the acts know it.
type Target struct {
	Dataset uuid.UUID `json:"dataset"`
	// Paths are where the host mounts it: absolute, without symbolic links.
	Paths []string `json:"paths"`
	// Own tells that it has a filesystem of its own, which may be frozen.
	Own bool `json:"own,omitempty"`
	// Filesystem is what Bind saw mounted there; the zero value: nothing yet.
	Filesystem mount.Filesystem `json:"filesystem,omitzero"`
	// Agent is the process that asked for the fence. Were it stopped, it could never ask
	// to undo that: it is killed at once when it holds the dataset, and started anew.
	Agent Process `json:"agent,omitzero"`
}

// Process is one that can write to a dataset: a holder.
type Process struct {
	PID int `json:"pid"`
	// Start tells it from another one that gets its PID: proc_pid_stat(5), starttime.
	Start uint64 `json:"start"`
	Comm  string `json:"comm"`
	// Engine tells that it is the container engine itself, as during docker cp. It is
	// stopped and never killed: it holds more than this dataset.
	Engine bool `json:"engine,omitempty"`
}

// ProcessOf returns the process that has a PID now.
func ProcessOf(pid int) (Process, error) {
	st, err := statOf(filepath.Join("/proc", strconv.Itoa(pid)))
	return Process{PID: pid, Start: st.start, Comm: st.comm}, err
}

// is tells whether two are one process.
func (p Process) is(q Process) bool { return p.PID == q.PID && p.Start == q.Start }

// Outcome is what came of an act.
type Outcome struct {
	// Done tells that nobody could write to the dataset at the moment At of
	// clock.Boottime, and as long as what was done is not undone.
	Done bool          `json:"done"`
	At   time.Duration `json:"at"`
	// Anew tells that this act changed something; otherwise it found all done.
	Anew bool `json:"anew,omitempty"`
	// Note is one line: why it is not done, or what is unusual.
	Note string `json:"note,omitempty"`
	// Left are holders that could not be stopped or killed, at most MaxLeft of them.
	Left []Process `json:"left,omitempty"`
}

// MaxLeft bounds the processes that an Outcome names.
const MaxLeft = 8

// Tool does the acts, in the process that calls it. Each is idempotent, and ends when its
// context does, apart from the time that the kernel keeps it. Safe for concurrent use; of
// one dataset one act at a time, which the guard sees to.
type Tool struct {
	// Run is a folder for what is good for this boot, on a filesystem that never waits
	// for a disk (tmpfs).
	Run string
	// Root is a folder for what must be found again after a power cut.
	Root string
	// Spare are PIDs that are never touched: the guard and its hand.
	Spare []int
	Clock clock.Clock

	looks    looks
	hanging  processes // that are being examined
	suspects suspects
	noting   sync.Mutex // guards the files of all datasets with what was done

	mu       sync.Mutex
	freezing map[uuid.UUID]*attempt
	acts     map[uuid.UUID]*acts
	wg       sync.WaitGroup
}

// acts are those on the holders of a dataset that are under way.
type acts struct {
	running map[*context.CancelFunc]bool
	ended   chan struct{} // closed and made anew each time that one ends
}

// begin puts an act on the holders of a dataset among those that end ends.
func (t *Tool) begin(ctx context.Context, id uuid.UUID) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.acts == nil {
		t.acts = map[uuid.UUID]*acts{}
	}
	if t.acts[id] == nil {
		t.acts[id] = &acts{map[*context.CancelFunc]bool{}, make(chan struct{})}
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

// end ends the acts on the holders of a dataset, so that nothing is stopped anew while it
// is undone.
func (t *Tool) end(ctx context.Context, id uuid.UUID) error {
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
			return fmt.Errorf("what is under way does not end: %w", ctx.Err())
		}
	}
}

// Wait waits for what the kernel had not done when an act ended, and until all processes that were
// stopped to be examined were examined.
func (t *Tool) Wait() { t.wg.Wait() }

func (t *Tool) now() time.Duration { return clock.Boottime() }
