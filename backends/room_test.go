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
		err := CheckRoom("fast", c.free, c.size)
		if full := errors.Is(err, dataset.ErrNoSpace); full != c.full || full != (err != nil) {
			t.Errorf("%s free of %s: %v, want it refused: %t", c.free, c.size, err, c.full)
		}
	}
}

// The check subtracts the bytes that are still to come. Written bytes are subtracted until the pool has counted them.
func TestRoomForWhatComes(t *testing.T) {
	const size = 10 * dataset.GiB // 512 MiB of it must stay free
	late := errors.New("late")
	for _, c := range []struct {
		free, counted   dataset.Size // before and after the pool has counted the written bytes
		written, wanted dataset.Size
		settle          error
		asked           bool
		want            error
	}{
		{free: dataset.GiB, written: 200 * dataset.MiB, wanted: 200 * dataset.MiB},
		{free: dataset.GiB, counted: dataset.GiB, written: 400 * dataset.MiB, wanted: 400 * dataset.MiB, asked: true},
		{
			free:    dataset.GiB,
			counted: 800 * dataset.MiB,
			written: 400 * dataset.MiB,
			wanted:  400 * dataset.MiB,
			asked:   true,
			want:    dataset.ErrNoSpace,
		},
		{free: dataset.GiB, counted: dataset.GiB, wanted: 2 * dataset.GiB, asked: true, want: dataset.ErrNoSpace},
		{free: dataset.GiB, counted: dataset.GiB, wanted: 2 * dataset.GiB, settle: late, asked: true, want: late},
	} {
		asked := false
		status := func() dataset.PoolStatus {
			if asked {
				return dataset.PoolStatus{Online: true, Free: c.counted, Size: size}
			}
			return dataset.PoolStatus{Online: true, Free: c.free, Size: size}
		}
		err := CheckRoomFor("test", status, int64(c.written), int64(c.wanted), func() error {
			asked = true
			return c.settle
		})
		if !errors.Is(err, c.want) || asked != c.asked {
			t.Errorf("%+v: asked %t, %v", c, asked, err)
		}
	}
	if err := CheckRoomFor("test", func() dataset.PoolStatus { return dataset.PoolStatus{} }, 0, 0,
		func() error { return nil }); !errors.Is(err, dataset.ErrOffline) {
		t.Error(err)
	}
}
