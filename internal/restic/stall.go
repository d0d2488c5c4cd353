package restic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/droverhq/drover/dataset"
)

// A run of restic has stalled if it has made no progress for stallLimit. Progress is stallBytes that were read,
// written, sent or received, or stallCPU of CPU time. A silent server is not: restic repeats a request a few times, and
// refreshes its lock every 5 minutes. A pause of the pacer lasts less than a second, so it needs no exception.
const (
	stallLimit = 10 * time.Minute
	stallBytes = 4 << 10
	stallCPU   = time.Second
	// stallLooks is how many looks in a row see no progress before a run has stalled. Looks are counted, and not the
	// time: restic can have been frozen together with this process.
	stallLooks = 40
)

// errStalled is the cause with which a run that has stalled is ended.
var errStalled = errors.New("restic has stalled")

// stallWatch ends a run of restic that has stalled.
type stallWatch struct {
	limit time.Duration
	// work returns what the run has done since it began. If it fails, the run is not watched any longer.
	work func() (bytes int64, cpu time.Duration, err error)
	end  func() // ends the run
}

// run returns when ctx ends, when the run cannot be observed, or when it has stalled.
func (w stallWatch) run(ctx context.Context) {
	next := time.NewTicker(w.limit / stallLooks)
	defer next.Stop()
	var bytes int64
	var cpu time.Duration
	for looks := 0; ; looks++ {
		b, c, err := w.work()
		if err != nil {
			return
		}
		if b-bytes >= stallBytes || c-cpu >= stallCPU {
			bytes, cpu, looks = b, c, 0
		}
		if looks == stallLooks {
			w.end()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
	}
}

func (o Options) stallLimit() time.Duration {
	if o.StallLimit > 0 {
		return o.StallLimit
	}
	return stallLimit
}

func (r *Repository) stalled() error {
	return &accessError{r.errorf(dataset.ErrOffline, "it does not answer: restic neither received nor sent anything "+
		"for %s, and was ended (check its server, and the network)", r.options.stallLimit())}
}

// watchStall calls end if a process of restic stalls. What it has written to output, such as lines about its progress,
// does not count. The commands of background replace themselves, so p becomes restic.
func (o Options) watchStall(ctx context.Context, p *os.Process, output *atomic.Int64, end func()) {
	dir := fmt.Sprintf("/proc/%d/", p.Pid)
	count, err := os.Open(dir + "io")
	if err != nil {
		return // it has ended, or the kernel does not count: then it is not watched
	}
	defer count.Close()
	stat, err := os.Open(dir + "stat")
	if err != nil {
		return
	}
	defer stat.Close()
	stallWatch{o.stallLimit(), func() (int64, time.Duration, error) {
		read, written, err := readIO(count)
		if err != nil {
			return 0, 0, err
		}
		cpu, err := readCPU(stat)
		return read + written - output.Load(), cpu, err
	}, end}.run(ctx)
}

// readIO returns how many bytes the system calls of a process have read and written, also from the page cache and on
// sockets. f is /proc/PID/io.
func readIO(f *os.File) (read, written int64, err error) {
	buf := make([]byte, 512)
	n, err := f.ReadAt(buf, 0)
	if n == 0 {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(string(buf[:n]), "rchar: %d\nwchar: %d\n", &read, &written); err != nil {
		return 0, 0, fmt.Errorf("parse %s: %w", f.Name(), err)
	}
	return read, written, nil
}

// readCPU returns the CPU time of a process. f is /proc/PID/stat: see proc_pid_stat(5). Its times are in hundredths
// of a second.
func readCPU(f *os.File) (time.Duration, error) {
	buf := make([]byte, 1024)
	n, err := f.ReadAt(buf, 0)
	if n == 0 {
		return 0, err
	}
	const user, system = 11, 12 // counted after the name of the program, which can contain blanks and parentheses
	fields := bytes.Fields(buf[bytes.LastIndexByte(buf[:n], ')')+1 : n])
	if len(fields) <= system {
		return 0, fmt.Errorf("%s has an unknown format", f.Name())
	}
	u, uerr := strconv.ParseInt(string(fields[user]), 10, 64)
	s, serr := strconv.ParseInt(string(fields[system]), 10, 64)
	return time.Duration(u+s) * (time.Second / 100), errors.Join(uerr, serr)
}

// counter counts the bytes that are written to another writer.
type counter struct {
	to  io.Writer
	sum *atomic.Int64
}

func (c counter) Write(p []byte) (int, error) {
	c.sum.Add(int64(len(p)))
	return c.to.Write(p)
}
