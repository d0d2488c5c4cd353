package view

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// A summary is not used for another index of the record, nor for other bytes with the same index, which a store that
// was restored from a backup can have.
func TestRememberedSummaries(t *testing.T) {
	d := dataset.Dataset{ID: uuid.New(), State: dataset.StateReady}
	entry := func(name string, index uint64) store.Entry {
		d.Volume = name
		text, err := json.Marshal(d)
		require.NoError(t, err)
		return store.Entry{Key: record.DatasetKey(d.ID), Value: text, Index: index}
	}
	var c summaries
	var before *dataset.Summary
	for _, step := range []struct {
		entry      store.Entry
		remembered bool
	}{
		{entry("db", 1), false}, {entry("db", 1), true}, {entry("db", 2), false}, {entry("no", 2), false},
		{entry("no", 2), true}, {entry("db", 1), false},
	} {
		got, err := c.decode(d.ID, step.entry)
		var want dataset.Summary
		if decodeErr := record.Decode(step.entry.Key, step.entry.Value, &want); err != nil || decodeErr != nil {
			t.Fatal(err, decodeErr)
		}
		if got.Volume != want.Volume || (got == before) != step.remembered {
			t.Errorf("%s at %d: got %q, remembered %t", want.Volume, step.entry.Index, got.Volume, got == before)
		}
		before = got
	}
	damaged := store.Entry{Key: record.DatasetKey(d.ID), Value: []byte("{"), Index: 1}
	if _, err := c.decode(d.ID, damaged); dataset.KindOf(err) != dataset.ErrCorrupt {
		t.Errorf("damaged record: got %v, want ErrCorrupt", err)
	}
}
