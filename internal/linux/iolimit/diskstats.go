package iolimit

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// BlockDevice is the number of a block device.
type BlockDevice struct{ Major, Minor uint32 }

// Counters count the reads, or the writes, of a device since it was made. They only grow until the device is removed,
// and a later device with the same number starts at 0.
type Counters struct {
	Operations uint64        // completed operations
	Bytes      uint64        // transferred bytes
	Time       time.Duration // sum of the durations of the operations
}

// Stats are the counters of a device.
type Stats struct{ Read, Write Counters }

// sectorSize is the unit of /proc/diskstats, whatever the sectors of a device are
// (Documentation/admin-guide/iostats.rst).
const sectorSize = 512

// ReadStats returns the counters of all block devices of this host.
func ReadStats() (map[BlockDevice]Stats, error) {
	f, err := os.Open("/proc/diskstats")
	if err != nil {
		return nil, fmt.Errorf("read the counters of block devices: %w", err)
	}
	defer f.Close()
	return parseStats(f)
}

func parseStats(r io.Reader) (map[BlockDevice]Stats, error) {
	all := map[BlockDevice]Stats{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		// major, minor, name; then for reads: operations, merged ones, sectors, milliseconds; the same for writes
		fields := strings.Fields(lines.Text())
		if len(fields) < 11 {
			return nil, fmt.Errorf("/proc/diskstats: line %q has %d fields, expected 11 or more", lines.Text(),
				len(fields))
		}
		var n [11]uint64
		for i := range n {
			if i == 2 {
				continue
			}
			var err error
			if n[i], err = strconv.ParseUint(fields[i], 10, 64); err != nil {
				return nil, fmt.Errorf("/proc/diskstats: %w", err)
			}
		}
		counters := func(n []uint64) Counters {
			return Counters{n[0], n[2] * sectorSize, time.Duration(n[3]) * time.Millisecond}
		}
		all[BlockDevice{uint32(n[0]), uint32(n[1])}] = Stats{counters(n[3:7]), counters(n[7:11])}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read /proc/diskstats: %w", err)
	}
	return all, nil
}
