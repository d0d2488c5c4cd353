// Package audit keeps the audit log: a file with one line of JSON for each change
// that somebody made, or was refused.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	// Refusals have an allowance, as anybody who reaches the port can cause them, and
	// so could push out of the file what matters: so many at once, and one more each
	// interval.
	maxRefused   = 200
	refusedEvery = 2 * time.Second
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
	allowed int // refusals that may come at once
	since   time.Duration
	dropped int // refusals since the last line
	closed  bool
}

// Open opens the log at path, mode 0600, and goes on at its end; the one before it is
// at path.old. failed, which must not be nil, is told of what could not be kept: the
// changes themselves are not held up.
func Open(path string, clk clock.Clock, failed func(error)) (*Log, error) {
	l := &Log{path: path, clock: clk, max: maxFile, failed: failed, allowed: maxRefused, since: clk.Steady()}
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
	// Unkept is how many refusals were left out before this one.
	Unkept int `json:"unkept,omitempty"`
}

func (l *Log) keep(c api.Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if c.Outcome == api.Refused && !l.allow() {
		l.dropped++
		return nil
	}
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

// allow takes one refusal from the allowance.
func (l *Log) allow() bool {
	now := l.clock.Steady()
	if more := int((now - l.since) / refusedEvery); more > 0 {
		l.since += time.Duration(more) * refusedEvery
		l.allowed = min(l.allowed+more, maxRefused)
	}
	if l.allowed == 0 {
		return false
	}
	l.allowed--
	return true
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

// Close lets go of the file. What is kept afterwards is an error.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
