package loop

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
)

// I2: a failed flush is not repeated, because the kernel treats the pages as clean by then. Only the part of a
// received snapshot that an earlier flush brought to the disk is recorded, and the rest is sent again.
func TestI2FailedFlushOfAReceive(t *testing.T) {
	onPools(t, func(f *fixture) {
		d := newDataset(xfs)
		f.create(d)
		data := strings.Repeat("0123456789abcdef", 1<<19)
		f.put(d.ID, "a", data)
		s := f.takeSnapshot(d)
		var stream bytes.Buffer
		_, err := f.Send(f.Context(), at(s), uuid.Nil, 0, &stream, nil)
		f.must(err)
		to := newFixture(f.T, "xfs")

		var flushes int
		var safe int64
		to.backend.tuning.Fdatasync = func(file *os.File) error {
			if flushes++; flushes == 3 { // and the fourth one finds nothing to write
				have, err := to.Received(f.Context(), d.ID, s.ID)
				to.must(err)
				safe = have.Bytes
				return unix.EIO
			}
			return unix.Fdatasync(int(file.Fd()))
		}
		all := stream.Bytes()
		delivery := backends.Delivery{Dataset: d, Snapshot: s}
		if _, err := to.Receive(f.Context(), delivery, bytes.NewReader(all), nil); !errors.Is(err, unix.EIO) {
			f.Fatalf("received on a disk that fails: %v", err)
		}
		have, err := to.Received(f.Context(), d.ID, s.ID)
		if err != nil || safe == 0 || have.Bytes != safe || have.Complete {
			f.Fatalf("%+v is on record (%v), and %d bytes are on the disk", have, err, safe)
		}
		delivery.From = have.Bytes
		_, err = to.Receive(f.Context(), delivery, bytes.NewReader(all[have.Bytes:]), nil)
		to.must(err)
		to.must(to.Promote(f.Context(), d.ID, s.ID))
		to.must(to.Commit(f.Context(), d.ID))
		if got := to.get(d.ID, "a"); got != data {
			f.Errorf("%d bytes of %d are there", len(got), len(data))
		}
	})
}
