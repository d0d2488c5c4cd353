package dataset

import (
	"fmt"
	"strings"
)

// QoS limits the speed of a volume. A value of 0 is no limit.
type QoS struct {
	ReadIOPS  int64 `json:"read_iops,omitempty"`  // reads per second, at most; 0: not limited
	WriteIOPS int64 `json:"write_iops,omitempty"` // writes per second, at most; 0: not limited
	ReadBPS   Size  `json:"read_bps,omitempty"`   // bytes read per second, at most; 0: not limited
	WriteBPS  Size  `json:"write_bps,omitempty"`  // bytes written per second, at most; 0: not limited
	// Strict requires that the limit applies to all users of the volume together, from the first moment. A node that
	// cannot enforce this is not used.
	Strict bool `json:"strict,omitempty"`
}

// Limited reports whether there is any limit.
func (q QoS) Limited() bool {
	q.Strict = false
	return q != QoS{}
}

// String formats the limits in a few words. It returns "" if there are none.
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
		var limits []string
		if d.iops > 0 {
			limits = append(limits, fmt.Sprintf("%d IOPS", d.iops))
		}
		if d.bps > 0 {
			limits = append(limits, d.bps.String()+"/s")
		}
		if len(limits) > 0 {
			parts = append(parts, d.what+" "+strings.Join(limits, " and "))
		}
	}
	if q.Strict {
		parts = append(parts, "strict")
	}
	return strings.Join(parts, ", ")
}

// LimitEnforcement says which limits a node can enforce for volumes with separate block devices.
type LimitEnforcement string

// The limits that nodes can enforce; empty: none.
const (
	// LimitsContainer limits each container separately, from about a second after its start. The kernel's own writes
	// are limited separately too.
	LimitsContainer LimitEnforcement = "container"
	// LimitsStrict limits all users of the volume together, from the first moment.
	LimitsStrict LimitEnforcement = "strict"
)
