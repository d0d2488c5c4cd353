package nodes

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
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

// An operator to whom certificates were issued and who was revoked has one row, with both.
func TestMembersOf(t *testing.T) {
	node, at := uuid.New(), time.Unix(1_700_000_000, 0)
	got := membersOf(map[string]time.Time{"alice": at, "bob": at.Add(time.Minute)}, []api.Revoked{
		{Operator: "bob", At: at}, {Node: node, At: at.Add(time.Hour)}, {Operator: "carol", At: at},
	})
	want := []Member{
		{Name: "alice", Kind: "operator", Issued: true, Expires: at},
		{Name: "bob", Kind: "operator", Issued: true, Expires: at.Add(time.Minute), Revoked: at},
		{Name: node.String(), Kind: "node", Revoked: at.Add(time.Hour)},
		{Name: "carol", Kind: "operator", Revoked: at},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestNodeState(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, n := range map[string]api.Node{
		"live":                      {Live: true, StatusSince: now.Add(-time.Hour)},
		"live, draining":            {Live: true, Node: dataset.Node{Cordoned: true, Draining: true}},
		"live, drained":             {Live: true, Node: dataset.Node{Cordoned: true, Draining: true}, Drained: true},
		"unreachable":               {},
		"unreachable for 5 minutes": {StatusSince: now.Add(-5 * time.Minute)},
	} {
		if got := nodeState(n, now); got != want {
			t.Errorf("%+v: %s, want %s", n, got, want)
		}
	}
}
