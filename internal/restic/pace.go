package restic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

const (
	// paceTick is how often a pacer looks at a process that runs within its allowance.
	paceTick = 50 * time.Millisecond
	// paceSlice is how long a process runs that has been stopped for maxStop and is still ahead of its allowance.
	paceSlice = 5 * time.Millisecond
	// maxStop bounds a stop. While restic is stopped, it neither answers a server nor refreshes its lock.
	maxStop = 900 * time.Millisecond
	// maxDebt bounds how far a process can be ahead of its allowance, in seconds. Otherwise a process that reads very
	// much in its slices would be stopped for most of the time long afterwards.
	maxDebt = 10
)

// pacer limits how fast a process reads: restic has no such option. The process is stopped while it is ahead of its
// allowance, a token bucket. The bucket is full at the start, and holds what the process may read in a second. So a
// small backup is not slowed down.
//
// In any interval of t seconds, the process reads at most rate * (t+1) bytes, and what it reads in one tick. This holds
// if it reads at most rate * maxStop bytes in a slice. Function volumeBytes estimates what it has read. Children of the
// process are neither observed nor stopped.
type pacer struct {
	rate    int64 // bytes a second
	process pacedProcess
	// unlimited is called with the reason if the process cannot be observed or stopped. The process then runs without a
	// limit.
	unlimited func(error)

	allowance float64 // in bytes; negative if the process is ahead
	read      int64   // bytes that the process had read at the time at
	at        time.Time
	stopped   time.Time // when the process was stopped; zero if it runs
}

// pacedProcess is the process of a pacer.
type pacedProcess interface {
	// bytesRead returns how many bytes the process has read since it began.
	bytesRead() (int64, error)
	// Signal fails with os.ErrProcessDone if the process has ended.
	Signal(sig os.Signal) error
}

// pace limits what a run of restic reads. The commands of background replace themselves, so p becomes restic.
func (o Options) pace(ctx context.Context, p *os.Process) {
	unlimited := o.Unlimited
	if unlimited == nil {
		unlimited = func(error) {}
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/io", p.Pid))
	if err == nil {
		defer f.Close()
	}
	(&pacer{rate: o.MaxRead, process: &observed{Process: p, io: f, err: err}, unlimited: unlimited}).run(ctx)
}

// run returns when ctx or the process ends, or after a failure. The process is not stopped then.
func (p *pacer) run(ctx context.Context) {
	defer func() { _ = p.process.Signal(syscall.SIGCONT) }()
	p.allowance, p.at = float64(p.rate), now()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		wait, err := p.step()
		if err != nil {
			p.report(ctx, err)
			return
		}
		next.Reset(wait)
	}
}

// report reports a failure, unless the process has ended.
func (p *pacer) report(ctx context.Context, err error) {
	if ctx.Err() == nil && !errors.Is(p.process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
		p.unlimited(err)
	}
}

func now() time.Time { return clock.System{}.Now() }

// step observes the process, and stops or continues it. It returns when the next step is due.
func (p *pacer) step() (wait time.Duration, err error) {
	read, err := p.process.bytesRead()
	if err != nil {
		return 0, err
	}
	at := now()
	earned := float64(p.rate) * at.Sub(p.at).Seconds()
	p.allowance = min(float64(p.rate), p.allowance+earned) - float64(read-p.read)
	p.allowance = max(p.allowance, -maxDebt*float64(p.rate))
	p.read, p.at = read, at
	if p.allowance >= 0 {
		return paceTick, p.resume()
	}
	if p.stopped.IsZero() {
		if err := p.process.Signal(syscall.SIGSTOP); err != nil {
			return 0, err
		}
		p.stopped = at
	}
	left := maxStop - at.Sub(p.stopped)
	if left <= 0 {
		return paceSlice, p.resume()
	}
	due := time.Duration(-p.allowance / float64(p.rate) * float64(time.Second))
	return min(left, due+time.Millisecond), nil
}

// resume continues the process if it is stopped.
func (p *pacer) resume() error {
	if p.stopped.IsZero() {
		return nil
	}
	p.stopped = time.Time{}
	return p.process.Signal(syscall.SIGCONT)
}

// observed is a process whose reads the kernel counts in /proc/PID/io.
type observed struct {
	*os.Process
	io  *os.File
	err error // why io could not be opened
	// most is the largest estimate so far. The estimate shrinks while restic writes a temporary file.
	most int64
}

func (o *observed) bytesRead() (int64, error) {
	if o.err != nil {
		return 0, o.err
	}
	read, written, err := readIO(o.io)
	if err != nil {
		return 0, err
	}
	o.most = max(o.most, volumeBytes(read, written))
	return o.most, nil
}

// volumeBytes estimates how much restic backup has read of a volume, also from the page cache. read and written are
// what its system calls have read and written in total.
//
// restic writes new data to a temporary file after compression. It reads this file once for its checksum, and once more
// when it writes the data to the repository. So it writes new data twice, and reads it twice besides the volume: the
// difference is what it has read of the volume. restic 0.14.0 read 201 MB and wrote 134 MB in the first backup of a
// file of 67 MB that cannot be compressed. It read 67 MB and wrote nothing in the second one. A repeated request to the
// repository does not change the difference.
//
// A third of what was read is the lower bound. So the limit is not lost if a version of restic reads the temporary file
// only once.
func volumeBytes(read, written int64) int64 { return max(read-written, read/3) }
