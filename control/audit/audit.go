// Package audit keeps the audit log: a file with one line of JSON for each change
// that somebody made, each volume and store that somebody read as a whole, and each
// such request that was refused.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/clock"
)

const (
	// maxFile is how large the file may grow before it becomes the old one, of which
	// one is kept: some 100,000 changes in each.
	maxFile = 32 << 20
	// What changed nothing, and carried nothing out, has an allowance, as anybody who reaches the port can cause
	// it, and so could push out of the file what matters: each who asks, and all together
	// who have no certificate, so many lines at once, and one more each interval.
	maxVain   = 200
	vainEvery = 2 * time.Second
	// maxAskers bounds of how many that is counted; the others have one in common.
	maxAskers = 1000
)

// Log is an audit log. Safe for concurrent use.
type Log struct {
	path   string
	clock  clock.Clock
	max    int64
	failed func(error)

	mu      sync.Mutex
	file    *os.File
	size    int64
	allowed map[string]allowance // by who asks
	dropped int                  // what was left out since the last line
	closed  bool
}

// allowance is how many lines may come at once.
type allowance struct {
	left  int
	since time.Duration // of the steady clock, when it was counted
}

// Open opens the log at path, mode 0600, and goes on at its end; the one before it is
// at path.old. failed, which must not be nil, is told of what could not be kept: the
// changes themselves are not held up.
func Open(path string, clk clock.Clock, failed func(error)) (*Log, error) {
	l := &Log{path: path, clock: clk, max: maxFile, failed: failed, allowed: map[string]allowance{}}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
	}
	l.file, l.size = f, st.Size()
	return nil
}

// Keep appends a change with the time that it is now, by one write(2).
func (l *Log) Keep(c api.Change) {
	if err := l.keep(c); err != nil {
		l.failed(fmt.Errorf("audit log %s: %w", l.path, err))
	}
}

type line struct {
	api.Change
	// Unkept is how many lines were left out before this one: of what changed nothing.
	Unkept int `json:"unkept,omitempty"`
}

func (l *Log) keep(c api.Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if c.Outcome != api.Done && c.Bytes == 0 && !l.allow(c.Who) {
		l.dropped++
		return nil
	}
	return l.append(c)
}

func (l *Log) append(c api.Change) error {
	c.Time = l.clock.Now()
	b, err := json.Marshal(line{c, l.dropped})
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if l.file == nil || l.size+int64(len(b)) > l.max {
		if err := l.turn(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	if err != nil {
		return err
	}
	l.dropped = 0
	return nil
}

// allow takes one line from somebody's allowance.
func (l *Log) allow(who string) bool {
	now := l.clock.Steady()
	a, known := l.allowed[who]
	if !known && len(l.allowed) >= maxAskers {
		maps.DeleteFunc(l.allowed, func(_ string, a allowance) bool { return now-a.since >= maxVain*vainEvery })
		if len(l.allowed) >= maxAskers {
			who = ""
			a, known = l.allowed[who]
		}
	}
	if !known {
		a = allowance{maxVain, now}
	}
	if more := int((now - a.since) / vainEvery); more > 0 {
		a.since += time.Duration(more) * vainEvery
		a.left = min(a.left+more, maxVain)
	}
	ok := a.left > 0
	if ok {
		a.left--
	}
	l.allowed[who] = a
	return ok
}

// turn makes the file the old one and begins another.
func (l *Log) turn() error {
	if l.file != nil {
		err := l.file.Close()
		l.file = nil
		if err != nil {
			return err
		}
		if err := os.Rename(l.path, l.path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return l.open()
}

// Close says what was left out since the last line and lets go of the file. What is kept
// afterwards is an error.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var err error
	if l.dropped > 0 {
		err = l.append(api.Change{Who: api.Principal{Local: true}.String(), What: "close-log", Outcome: api.Done})
	}
	if l.file == nil {
		return err
	}
	err = errors.Join(err, l.file.Close())
	l.file = nil
	return err
}
