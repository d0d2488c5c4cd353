package dataset

import "testing"

func TestQoSInWords(t *testing.T) {
	for want, q := range map[string]QoS{
		"":                                     {Strict: true},
		"read 5000 IOPS":                       {ReadIOPS: 5000},
		"write 2000 IOPS and 100MiB/s":         {WriteIOPS: 2000, WriteBPS: 100 * MiB},
		"read 200MiB/s, write 10 IOPS, strict": {ReadBPS: 200 * MiB, WriteIOPS: 10, Strict: true},
	} {
		if got := q.String(); got != want || q.Limited() != (want != "") {
			t.Errorf("%+v: %q and limited %t, want %q", q, got, q.Limited(), want)
		}
	}
}
