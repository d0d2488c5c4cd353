package nodes

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
)

// TestRecordsOfTheFutureAreNotTheNewest: records that were stored while a clock was ahead are the last choice. If all
// were, the host's clock is behind, and the order stays.
func TestRecordsOfTheFutureAreNotTheNewest(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(id string, age time.Duration) daemon.Stored {
		return daemon.Stored{ID: id, Taken: now.Add(-age)}
	}
	future, later, newest, old := at("future", -time.Hour), at("later", -4*time.Minute), at("new", time.Minute), at("old", time.Hour)
	for _, tc := range []struct {
		list []daemon.Stored
		want string
		says bool
	}{
		{[]daemon.Stored{future, newest, old}, "new", true},
		{[]daemon.Stored{later, newest, old}, "later", false},
		{[]daemon.Stored{future}, "future", false},
	} {
		var said bytes.Buffer
		f := fetching{app: &cli.App{ErrOut: &said, Now: func() time.Time { return now }}}
		got := f.byAge(tc.list)
		if got[0].ID != tc.want || len(got) != len(tc.list) || strings.Contains(said.String(), "in the future") != tc.says {
			t.Errorf("%v: %v, said %q", tc.list, got, said.String())
		}
	}
}
