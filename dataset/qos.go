package dataset

import (
	"fmt"
	"strings"
)

// QoS says how fast a volume may be at most; what is 0 is not limited.
type QoS struct {
	ReadIOPS  int64 `json:"read_iops,omitempty"`  // reads per second, at most; 0: not limited
	WriteIOPS int64 `json:"write_iops,omitempty"` // writes per second, at most; 0: not limited
	ReadBPS   Size  `json:"read_bps,omitempty"`   // bytes a second
	WriteBPS  Size  `json:"write_bps,omitempty"`  // bytes written per second, at most; 0: not limited
	// Strict wants the limit to hold for all that use the volume together, from the first
	// moment: a node that cannot is refused.
	Strict bool `json:"strict,omitempty"`
}

// Limited reports whether there is any limit.
func (q QoS) Limited() bool {
	q.Strict = false
	return q != QoS{}
}

// String is the limits in a few words, empty when there are none.
func (q QoS) String() string {
	if !q.Limited() {
		return ""
	}
	var parts []string
	for _, d := range []struct {
		what string
		iops int64
		bps  Size
	}{{"read", q.ReadIOPS, q.ReadBPS}, {"write", q.WriteIOPS, q.WriteBPS}} {
		var of []string
		if d.iops > 0 {
			of = append(of, fmt.Sprintf("%d IOPS", d.iops))
		}
		if d.bps > 0 {
			of = append(of, d.bps.String()+"/s")
		}
		if len(of) > 0 {
			parts = append(parts, d.what+" "+strings.Join(of, " and "))
		}
	}
	if q.Strict {
		parts = append(parts, "strict")
	}
	return strings.Join(parts, ", ")
}

// Limits says what a node can hold a volume to, whose pool gives each a block device.
type Limits string

// What nodes can hold; empty: nothing.
const (
	// LimitsContainer: each container by itself, from about a second after its start; and
	// the kernel's own writing by itself.
	LimitsContainer Limits = "container"
	// LimitsStrict: all that use the volume together, from the first moment.
	LimitsStrict Limits = "strict"
)
