// Package audit writes the audit log: a file with one JSON line for each change, each read of a whole volume or store,
// and each such request that was refused.
//
// The daemon in cmd/drover opens one Log in each process: for a single host, for a control replica or for the agent of
// a cluster. It passes Keep as a function to package control/api/server, which calls it for each such change, read and
// refused request. Each caller may cause only a limited number of lines about requests that changed nothing. The state
// is the file and, in memory, how many such lines each caller may still cause. A mutex protects both. What a line
// contains is in control/api (Change) and control/api/server (audit.go). How many lines are kept is decided here.
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
	// maxFile is how large the file may become before it is renamed. One old file is kept. Each has some 100,000
	// changes.
	maxFile = 32 << 20
	// Each caller has an allowance for lines about requests that changed nothing. Anybody who reaches the port can
	// cause such lines, and could otherwise push the important ones out of the file. Each caller may add maxUnchanged
	// such lines at once, and one more each interval. All callers without a certificate share one allowance.
	maxUnchanged      = 200
	unchangedInterval = 2 * time.Second
	// maxCallers is the maximum number of callers with a separate allowance; the others share one.
	maxCallers = 1000
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
	allowed map[string]allowance // by caller
	dropped int                  // number of lines that were left out since the last line
	torn    bool                 // the file ends with a part of a line
	closed  bool
}

// allowance is how many lines a caller may still add.
type allowance struct {
	left      int
	countedAt time.Duration // by the steady clock, when it was counted
}

// Open opens the log at path with mode 0600, and appends to it. The previous file is at path.old. If a line cannot be
// written, the change is neither delayed nor refused. Instead, failed is called with the error; it must not be nil.
func Open(path string, clk clock.Clock, failed func(error)) (*Log, error) {
	l := &Log{path: path, clock: clk, max: maxFile, failed: failed, allowed: map[string]allowance{}}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
	}
	last := []byte{'\n'}
	if st.Size() > 0 {
		if _, err := f.ReadAt(last, st.Size()-1); err != nil {
			return errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
		}
	}
	l.file, l.size, l.torn = f, st.Size(), last[0] != '\n'
	return nil
}

// Keep appends a change with the present time, in one write(2). It leaves out a change that had no effect if the
// allowance of its caller is used up. The next line says how many were left out.
func (l *Log) Keep(c api.Change) {
	if err := l.keep(c); err != nil {
		l.failed(fmt.Errorf("audit log %s: %w", l.path, err))
	}
}

type line struct {
	api.Change
	// Omitted is how many lines about requests that changed nothing were left out before this one.
	Omitted int `json:"omitted,omitempty"`
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
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if l.torn { // an earlier write failed in the middle of a line, for instance because the disk was full
		b = append([]byte{'\n'}, b...)
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	if n > 0 {
		l.torn = b[n-1] != '\n'
	}
	if err != nil {
		return err
	}
	l.dropped = 0
	return nil
}

// allow takes one line from a caller's allowance.
func (l *Log) allow(who string) bool {
	now := l.clock.Steady()
	a, known := l.allowed[who]
	if !known && len(l.allowed) >= maxCallers {
		maps.DeleteFunc(l.allowed, func(_ string, a allowance) bool {
			return now-a.countedAt >= maxUnchanged*unchangedInterval
		})
		if len(l.allowed) >= maxCallers {
			who = ""
			a, known = l.allowed[who]
		}
	}
	if !known {
		a = allowance{maxUnchanged, now}
	}
	if more := int((now - a.countedAt) / unchangedInterval); more > 0 {
		a.countedAt += time.Duration(more) * unchangedInterval
		a.left = min(a.left+more, maxUnchanged)
	}
	ok := a.left > 0
	if ok {
		a.left--
	}
	l.allowed[who] = a
	return ok
}

// rotate renames the file to the old one and starts a new file.
func (l *Log) rotate() error {
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

// Close writes how many lines were left out since the last line that was written, and closes the file. A later Keep
// fails.
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
