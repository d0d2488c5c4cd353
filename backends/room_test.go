package backends

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/dataset"
)

func TestRoom(t *testing.T) {
	const mib, gib, tib = dataset.MiB, dataset.GiB, dataset.TiB
	for _, c := range []struct {
		free, size dataset.Size
		full       bool
	}{
		{0, 100 * gib, true},
		{2*gib - 1, 100 * gib, true}, // never more than 2 GiB are kept
		{2 * gib, 100 * gib, false},
		{2 * gib, 10 * tib, false},
		{gib / 2, 10 * gib, false}, // a twentieth
		{gib/2 - 1, 10 * gib, true},
		{31 * mib, 100 * mib, true}, // never less than 32 MiB
		{32 * mib, 100 * mib, false},
		{2*mib - 1, 4 * mib, true}, // or half of what is very small
		{2 * mib, 4 * mib, false},
	} {
		err := Room("fast", c.free, c.size)
		if full := errors.Is(err, dataset.ErrNoSpace); full != c.full || full != (err != nil) {
			t.Errorf("%s free of %s: %v, want it refused: %t", c.free, c.size, err, c.full)
		}
	}
}
