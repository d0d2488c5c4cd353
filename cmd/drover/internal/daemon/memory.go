package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"time"

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
	memoryPause = 10 * time.Second
)

// boundMemory adjusts the memory limit of the Go runtime to the number of volumes until ctx ends. Without a limit, the
// garbage after a long list or a burst of requests would double the memory of the daemon, which stays until the next
// collection. The limit is soft: the runtime exceeds it rather than stop the program (runtime/debug.SetMemoryLimit). It
// covers the memory of Go, not the pages of files that are mapped. An operator's GOMEMLIMIT has priority.
func boundMemory(ctx context.Context, c clock.Clock, volumes func() int) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	for {
		debug.SetMemoryLimit(memoryLimit(volumes()))
		select {
		case <-ctx.Done():
			return
		case <-c.After(memoryPause):
		}
	}
}

// memoryLimit returns the limit in bytes for a host with so many volumes.
func memoryLimit(volumes int) int64 { return memoryBase + int64(volumes)*memoryOfVolume }
