package move

// compressionPolicy decides whether to compress. It compresses if the processor takes less time for a byte than the
// link takes for the bytes that compression saves. Both are measured continuously, in nanoseconds. If the link
// accepts data as fast as it is produced (a local network, or a link whose buffers are not full yet), the sender
// never waits for the link, and so does not compress.
type compressionPolicy struct {
	link   float64 // time that the link needs for a byte
	cpu    float64 // time that compressing a byte takes
	ratio  float64 // compressed size divided by size
	tried  bool
	frames int
}

const (
	// measurementWeight is the weight of the last measurement.
	measurementWeight = 0.2
	// trialInterval is the interval, in frames, at which compression is tried again, because data changes.
	trialInterval = 64
	// maxCostRatio is the largest cost of a compressed byte that is accepted, as a part of the cost of an
	// uncompressed byte. A smaller saving is not worth the processor time, which the host's containers need.
	maxCostRatio = 0.9
)

// shouldCompress reports whether the next frame should be compressed.
func (p *compressionPolicy) shouldCompress() bool {
	p.frames++
	if !p.tried {
		return p.frames > 1 // the first frame only shows how fast the link is
	}
	return p.frames%trialInterval == 0 || p.cpu+p.ratio*p.link < maxCostRatio*p.link
}

func (p *compressionPolicy) recordSend(bytes int, nanos int64) {
	average(&p.link, float64(nanos)/float64(bytes), p.link == 0)
}

func (p *compressionPolicy) recordCompression(from, to int, nanos int64) {
	average(&p.cpu, float64(nanos)/float64(from), !p.tried)
	average(&p.ratio, float64(to)/float64(from), !p.tried)
	p.tried = true
}

func average(mean *float64, now float64, first bool) {
	if first {
		*mean = now
		return
	}
	*mean += measurementWeight * (now - *mean)
}

const (
	// zerosStride is the distance of the bytes that are examined. It divides no block size.
	zerosStride = 61
	// zerosPart determines how many of the examined bytes must be zero: one in zerosPart, which is a quarter.
	zerosPart = 4
)

// mostlyZeros reports whether much of b is zeros, judging by some of its bytes. Compressing zeros takes less time than
// their checksum, and is worthwhile on any link. For a small change most of the transferred data can be such zeros:
// with each mount, XFS rewrites 2 MiB of its log with one header of about 50 bytes in each sector.
func mostlyZeros(b []byte) bool {
	zeros := 0
	for i := 0; i < len(b); i += zerosStride {
		if b[i] == 0 {
			zeros++
		}
	}
	return zeros*zerosStride*zerosPart >= len(b)
}
