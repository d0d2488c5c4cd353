package stores

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/storedexports"
)

// TestRecordsOfTheFutureAreNotTheNewest: records that were stored while a clock was ahead are the last choice. If all
// were, the host's clock is behind, and the order stays.
func TestRecordsOfTheFutureAreNotTheNewest(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(id string, age time.Duration) storedexports.Stored {
		return storedexports.Stored{ID: id, Taken: now.Add(-age)}
	}
	future, later, newest, old := at("future", -time.Hour), at("later", -4*time.Minute), at("new", time.Minute), at("old", time.Hour)
	for _, tc := range []struct {
		list []storedexports.Stored
		want string
		says bool
	}{
		{[]storedexports.Stored{future, newest, old}, "new", true},
		{[]storedexports.Stored{later, newest, old}, "later", false},
		{[]storedexports.Stored{future}, "future", false},
	} {
		var said bytes.Buffer
		f := fetching{app: &cli.App{ErrOut: &said, Now: func() time.Time { return now }}}
		got := f.byAge(tc.list)
		if got[0].ID != tc.want || len(got) != len(tc.list) || strings.Contains(said.String(), "in the future") != tc.says {
			t.Errorf("%v: %v, said %q", tc.list, got, said.String())
		}
	}
}
