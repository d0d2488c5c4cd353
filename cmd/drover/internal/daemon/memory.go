package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/internal/clock"
)

const (
	// memoryBase is the memory that a daemon may use without volumes before the garbage collector works harder. It
	// has room for the pages of a long list and for many requests at once.
	memoryBase = 40 << 20
	// memoryOfVolume is the memory that each volume adds to the limit. A bit more than half of it is reachable once
	// lists and metrics were read (2.4 KiB at 30,000 volumes), and the rest is room for garbage. With 3 KiB, the
	// garbage collector ran all the time while 30,000 volumes were listed.
	memoryOfVolume = 4 << 10
	// memoryPause is the time between two adjustments.
	memoryPause = 2 * time.Second
	// quietBytes is the most that a quiet daemon allocates in one pause. Heartbeats and idle pools need less.
	quietBytes = 1 << 20
	// releaseAfter is how much must have been allocated since the last release. Less garbage does not pay for a run
	// of the garbage collector.
	releaseAfter = 8 << 20
	// releaseEvery is the minimum time between two releases. Each runs the garbage collector, so a daemon whose
	// heartbeats allocate up to quietBytes in each pause must not release memory whenever that adds up.
	releaseEvery = time.Minute
)

// mappedFile is a database whose file is mapped into memory.
type mappedFile interface{ ReleasePages() error }

// boundMemory adjusts the memory of the daemon until ctx ends. It sets the limit of the Go runtime by the number of
// volumes, and gives memory back to the kernel when the daemon becomes quiet after work: garbage, and the pages of the
// databases. Without a limit, the garbage of a long list or of a burst of requests would double the memory of the
// daemon until the next collection. The limit is soft: the runtime exceeds it rather than stop the program
// (runtime/debug.SetMemoryLimit). It covers the memory of Go, not the pages of files that are mapped. An operator's
// GOMEMLIMIT has priority over this limit. If volumes is nil, boundMemory sets no limit.
func boundMemory(ctx context.Context, c clock.Clock, volumes func() int, release func()) {
	var q quietness
	for {
		if volumes != nil && os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryLimit(volumes()))
		}
		if q.becomesQuiet(allocatedBytes(), c.Steady()) {
			release()
		}
		select {
		case <-ctx.Done():
			return
		case <-c.After(memoryPause):
		}
	}
}

// memoryLimit returns the limit in bytes for a host with so many volumes.
func memoryLimit(volumes int) int64 { return memoryBase + int64(volumes)*memoryOfVolume }

// allocatedBytes returns how many bytes the program has allocated since its start.
func allocatedBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// quietness finds the moment at which memory can be given back. It is not safe for concurrent use.
type quietness struct {
	last     uint64        // allocated bytes at the last call
	released uint64        // allocated bytes at the last call that returned true
	at       time.Duration // time of that call
	once     bool          // a call has returned true
}

// becomesQuiet reports whether the daemon was quiet since the last call, and has worked since the last call that
// returned true, which was at least releaseEvery ago. allocated is the number of bytes that the program has allocated
// since its start. now is the time since the boot of the host.
func (q *quietness) becomesQuiet(allocated uint64, now time.Duration) bool {
	quiet := allocated-q.last <= quietBytes
	q.last = allocated
	if !quiet || allocated-q.released < releaseAfter || q.once && now-q.at < releaseEvery {
		return false
	}
	q.released, q.at, q.once = allocated, now, true
	return true
}

// releaseMemory gives garbage, and the pages of mapped files, back to the kernel. The pages stay in the page cache, so
// they are mapped again without a read of the disk.
func releaseMemory(files []mappedFile, log logrus.FieldLogger) {
	debug.FreeOSMemory()
	for _, f := range files {
		if err := f.ReleasePages(); err != nil {
			log.WithError(err).Debug("cannot release the pages of a database")
		}
	}
}
