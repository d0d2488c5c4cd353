package loop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A flush that takes long blocks the stream only once much has arrived. There must be room for it all the same.
func TestCheckpointGoesOnMeanwhile(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	image, err := os.Create(filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	defer image.Close()
	r := &receiving{
		dir:   safefile.Dir{File: dir},
		image: image,
		to: &Pool{
			layout:  xfsLayout{},
			backend: &Backend{step: func(string) {}, tuning: &tuning{Every: 4, Lag: 10, Ahead: true}},
		},
		roomChecked: 9,
		flushing:    make(chan error, 1),
	}
	r.done.Offset, r.done.End = 9, 90
	if err := r.checkpoint(); err != nil || r.safe != 0 {
		t.Errorf("%v, %d bytes are about to be on record", err, r.safe)
	}
	if r.measured != 0 {
		t.Error("it looked for room too early")
	}
	r.roomChecked = 5
	if err := r.checkpoint(); err != nil || r.measured != 9 || r.roomChecked != 9 || r.writtenBack != 90 {
		t.Errorf(
			"whether there is room for what comes meanwhile was looked for at byte %d, and writing begun until %d: %v",
			r.measured, r.writtenBack, err)
	}
	r.done.Offset = 10
	late := errors.New("the disk broke")
	go func() { r.flushing <- late }()
	assert.ErrorIsf(t, r.checkpoint(), late, "it did not wait")
}

// An interruption costs little compared with the received bytes, and a flush is rare in a long stream.
func TestCheckpointsAreRare(t *testing.T) {
	r := &receiving{to: &Pool{backend: &Backend{tuning: defaultTuning()}}}
	n := 0
	for r.done.Offset < 10<<30 {
		due := r.checkpointDistance()
		if most := max(checkpointEvery, r.done.Offset/checkpointPart, 1); due > most || due > checkpointMost {
			t.Fatalf("after %d bytes a cut costs %d", r.done.Offset, due)
		}
		r.done.Offset += due
		n++
	}
	if n > 230 {
		t.Errorf("%d checkpoints of 10 GiB", n)
	}
}
