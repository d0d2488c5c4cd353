package transfer

// pace decides whether to compress: if the processor needs less time for a byte than the link for what
// compression saves. Both are measured continuously; times are in nanoseconds. A link that takes data as fast as
// it is produced (a local network, or a link that is just being filled) is never waited for, and nothing is
// compressed for it.
type pace struct {
	link   float64 // time that the link needs for a byte
	cpu    float64 // time that compressing a byte takes
	ratio  float64 // compressed size divided by size
	tried  bool
	frames int
}

const (
	// aging is the weight of the last measurement.
	aging = 0.2
	// trial is after how many frames compression is tried again, because data changes.
	trial = 64
	// margin: smaller savings are not worth the processor time, which others need.
	margin = 0.9
)

// pack reports whether the next frame should be compressed.
func (p *pace) pack() bool {
	p.frames++
	if !p.tried {
		return p.frames > 1 // the first frame only shows how fast the link is
	}
	return p.frames%trial == 0 || p.cpu+p.ratio*p.link < margin*p.link
}

func (p *pace) sent(bytes int, nanos int64) {
	age(&p.link, float64(nanos)/float64(bytes), p.link == 0)
}

func (p *pace) packed(from, to int, nanos int64) {
	age(&p.cpu, float64(nanos)/float64(from), !p.tried)
	age(&p.ratio, float64(to)/float64(from), !p.tried)
	p.tried = true
}

func age(mean *float64, now float64, first bool) {
	if first {
		*mean = now
		return
	}
	*mean += aging * (now - *mean)
}

const (
	// zerosStride is the distance of the bytes that are examined. It divides no block size.
	zerosStride = 61
	// zerosPart: one in so many bytes must be zero.
	zerosPart = 4
)

// mostlyZeros reports, from some of its bytes, whether much of b is zeros. Compressing that takes less time than
// its checksum, and pays on any link. The 2 MiB of its log that XFS rewrites with each mount, one header of some
// 50 bytes in each sector, are all that a small change has besides.
func mostlyZeros(b []byte) bool {
	zeros := 0
	for i := 0; i < len(b); i += zerosStride {
		if b[i] == 0 {
			zeros++
		}
	}
	return zeros*zerosStride*zerosPart >= len(b)
}
