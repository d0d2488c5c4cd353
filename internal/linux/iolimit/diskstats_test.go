package iolimit

import (
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/test/require"
)

func TestParse(t *testing.T) {
	all, err := parseStats(strings.NewReader("   7       8 loop8 1130 1 9880 386 68899 22414 827992 161411 0 152588 274982 9 0 1003984 21 45552 113163\n" +
		" 254       0 vda 1 0 2 3 4 0 5 6 0 0 0\n"))
	require.NoError(t, err)
	want := Stats{
		Counters{1130, 9880 * 512, 386 * time.Millisecond}, Counters{68899, 827992 * 512, 161411 * time.Millisecond},
	}
	if got := all[BlockDevice{7, 8}]; got != want || len(all) != 2 {
		t.Errorf("got %+v of %d devices, want %+v of 2", got, len(all), want)
	}
	for _, bad := range []string{"7 8 loop8 1", "7 8 loop8 1 2 3 4 5 6 7 -8"} {
		if _, err := parseStats(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestRead reads the counters of this host, each device of which is listed.
func TestRead(t *testing.T) {
	if all, err := ReadStats(); err != nil || len(all) == 0 {
		t.Errorf("%d devices, %v", len(all), err)
	}
}
