package nodes

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

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
