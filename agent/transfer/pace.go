package transfer

// pace decides whether packing pays: when the processor takes less time for a byte than
// the link for what packing saves. Both are measured as it goes; times are in
// nanoseconds. A link that takes what it is given as fast as it comes (a local network,
// or one that is just being filled) is never waited for, and nothing is packed for it.
type pace struct {
	link   float64 // that a byte takes on its way
	cpu    float64 // that it takes to pack one
	ratio  float64 // packed size to size
	tried  bool
	frames int
}

const (
	// aging is the weight of what was measured last.
	aging = 0.2
	// trial is after how many frames packing is tried again, as data changes.
	trial = 64
	// margin: what saves less is not worth the processor's time, which others want.
	margin = 0.9
)

// pack says whether the next frame is to be packed.
func (p *pace) pack() bool {
	p.frames++
	if !p.tried {
		return p.frames > 1 // the first only tells how fast the link is
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
	// zerosStride is how far apart the bytes are that are looked at, no part of any block's size.
	zerosStride = 61
	// zerosPart: one of so many has to be zero.
	zerosPart = 4
)

// mostlyZeros says that much of b is zeros, by some of its bytes: packing that takes less
// time than its checksum, and is worth it on any link. The 2 MiB of its log that XFS
// writes anew with each mount, one header of some 50 bytes in each sector, are all of it
// that a small change has besides.
func mostlyZeros(b []byte) bool {
	zeros := 0
	for i := 0; i < len(b); i += zerosStride {
		if b[i] == 0 {
			zeros++
		}
	}
	return zeros*zerosStride*zerosPart >= len(b)
}
