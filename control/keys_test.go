package control

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

func TestDecode(t *testing.T) {
	id, other := uuid.New(), uuid.New()
	d := dataset.Dataset{ID: id, State: dataset.StateReady}
	trashed := dataset.Dataset{ID: id, State: dataset.StateTrashed, Trash: &dataset.Trash{At: someday}}
	for _, c := range []struct {
		key   string
		value any
		into  any
		want  string // of the error; "" for none
	}{
		{nameKey("db"), claim{id}, &claim{}, ""},
		{nameKey("db"), claim{}, &claim{}, "points at nothing"},
		{uuidKey(id), pointer{Dataset: id}, &pointer{}, ""},
		{uuidKey(id), pointer{Snapshot: true}, &pointer{}, "points at nothing"},
		{datasetKey(id), d, &dataset.Dataset{}, ""},
		{datasetKey(other), d, &dataset.Dataset{}, "the value of " + datasetKey(id)},
		{datasetKey(id), trashed, &dataset.Dataset{}, ""},
		{datasetKey(id), dataset.Dataset{ID: id, State: dataset.StateTrashed}, &dataset.Dataset{}, "since when"},
		{datasetKey(id), dataset.Dataset{ID: id, State: "lost"}, &dataset.Dataset{}, `"lost"`},
		{datasetKey(id), nil, &dataset.Dataset{}, "state"},
		{snapshotKey(id, other), dataset.Snapshot{ID: other, Dataset: id}, &dataset.Snapshot{}, ""},
		{snapshotKey(id, other), dataset.Snapshot{ID: id, Dataset: other}, &dataset.Snapshot{}, "value of"},
		{leaseKey(id), dataset.Lease{Dataset: id}, &dataset.Lease{}, ""},
		{leaseKey(id), dataset.Lease{Dataset: other}, &dataset.Lease{}, "value of"},
		{nodeKey(id), dataset.Node{ID: other}, &dataset.Node{}, "value of"},
		{poolKey(id), dataset.Pool{ID: other}, &dataset.Pool{}, "value of"},
		{generationKey(id), generation{Pool: other, Highest: 1}, &generation{}, "value of"},
		{operationKey(id), dataset.Operation{ID: other}, &dataset.Operation{}, "value of"},
		{operationKey(id), dataset.Operation{ID: id}, &dataset.Operation{}, ""},
		{trashKey(id), dataset.Trash{At: someday}, &dataset.Trash{}, ""},
		{trashKey(id), "soon", &dataset.Trash{}, "json"},
	} {
		b, err := json.Marshal(c.value)
		if err != nil {
			t.Fatal(err)
		}
		err = decode(c.key, b, c.into)
		if c.want == "" && err == nil {
			continue
		}
		if c.want == "" {
			t.Errorf("%s: %v", c.key, err)
			continue
		}
		refused(t, err, dataset.ErrCorrupt, c.key, c.want)
	}
}

func TestIDIn(t *testing.T) {
	id := uuid.New()
	if got, err := idIn(trashKey(id), trashPrefix); err != nil || got != id {
		t.Errorf("%s, %v", got, err)
	}
	for _, odd := range []string{
		"", "x", strings.ToUpper(id.String()), "{" + id.String() + "}", "urn:uuid:" + id.String(),
		strings.ReplaceAll(id.String(), "-", ""), id.String() + "/x",
	} {
		_, err := idIn(trashPrefix+odd, trashPrefix)
		refused(t, err, dataset.ErrCorrupt, trashPrefix+odd)
	}
}

// What is written is read back the same, with its times to the nanosecond.
func TestDecodeOfWhatIsWritten(t *testing.T) {
	e := newEnv(t)
	e.clock.Advance(123456789 * time.Nanosecond)
	d := e.agent("alpha").create("db@gold")
	if v := e.volume("db"); !v.Created.Equal(d.Created) || !v.Created.Equal(someday.Add(123456789)) {
		t.Errorf("created %s", v.Created)
	}
}
