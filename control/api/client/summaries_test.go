package client

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A client asks for summaries. They have the same keys as whole items.
func TestSummaries(t *testing.T) {
	v := api.Volume{
		Dataset: dataset.Dataset{ID: uuid.New(), Volume: "db", Size: 5, Labels: map[string]string{"a": "b"}},
		Node:    "alpha", PoolName: "fast", Status: &dataset.DatasetStatus{Used: new(dataset.Size(3))}, Snapshots: 2,
	}
	prefer := ""
	c, servers := some(t, 1)
	servers[0].answers(func(w http.ResponseWriter, r *http.Request) {
		prefer = r.Header.Get("Prefer")
		_ = json.NewEncoder(w).Encode(api.List[api.Volume]{Items: []api.Volume{v}, Next: "db"})
	})
	l, err := c.VolumeSummaries(t.Context(), api.Page{})
	if err != nil || l.Next != "db" || len(l.Items) != 1 {
		t.Fatalf("got %+v, %v", l, err)
	}
	if got, want := l.Items[0], v.Summary(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if prefer != "return=minimal" {
		t.Errorf("the request has Prefer %q", prefer)
	}
	if _, err := c.VolumeSummaries(t.Context(), api.Page{Health: true}); err != nil || prefer != "return=minimal, health" {
		t.Errorf("with the health of volumes, the request has Prefer %q, %v", prefer, err)
	}
}
