package profiles

import (
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// The minimum limits. With lower ones, a volume is so slow that its users think that it is broken.
const (
	minIOPS = 10
	minBPS  = 128 * dataset.KiB
)

// maxIOPS is the largest limit, rounded. The kernel counts in unsigned numbers of 32 bits, and the largest of these
// means "no limit".
const maxIOPS = 4_000_000_000

// qos reads {read_iops: 5000, write_bps: 100MiB, strict: true}.
func qos(n strictyaml.Node, q *dataset.QoS) error {
	keys, err := n.Keys([]string{"read_iops", "write_iops", "read_bps", "write_bps", "strict"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	bad.Add(iops(keys["read_iops"], &q.ReadIOPS))
	bad.Add(iops(keys["write_iops"], &q.WriteIOPS))
	bad.Add(bps(keys["read_bps"], &q.ReadBPS))
	bad.Add(bps(keys["write_bps"], &q.WriteBPS))
	if v, ok := keys["strict"]; ok {
		q.Strict, err = v.Bool()
		bad.Add(err)
	}
	if err := bad.Err(); err != nil {
		return err
	}
	if !q.Limited() {
		return n.Errorf("expected a limit, such as {write_iops: 2000, write_bps: 100MiB}")
	}
	return nil
}

func iops(n strictyaml.Node, into *int64) (err error) {
	if n.Absent() {
		return nil
	}
	if *into, err = n.Int(maxIOPS); err == nil && *into < minIOPS {
		return n.Errorf("%d operations per second are too few: expected %d or more (omit it for no limit)", *into,
			minIOPS)
	}
	return err
}

func bps(n strictyaml.Node, into *dataset.Size) error {
	if n.Absent() {
		return nil
	}
	err := size(n, into)
	if err == nil && *into < minBPS {
		return n.Errorf("%s per second is too low: expected %s or more (omit it for no limit)", *into, minBPS)
	}
	return err
}
