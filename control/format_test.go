package control

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// A replica refuses a store whose records have a later format by the number of the format. If a newer replica raises the
// format while this one runs, this one writes nothing afterwards, although its decision was made before.
func TestB16StoreOfALaterFormat(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	set := func(value string) {
		t.Helper()
		if _, err := e.spy.Txn(e.ctx, nil, []store.Write{{Key: record.FormatKey, Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		if dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "format 2") {
			t.Errorf("%s: got error %v, want %v with the format 2", what, err, dataset.ErrUnavailable)
		}
	}
	set(`{"format":2,"new":true}`)
	refused("submit", second(e.Submit(e.ctx, create("other"))))
	refused("volumes", second(e.Volumes(e.ctx, api.Page{})))
	entry, err := e.spy.Get(e.ctx, record.FormatKey)
	if err != nil || string(entry.Value) != `{"format":2,"new":true}` {
		t.Errorf("the format is %q, %v", entry.Value, err)
	}
	if err := record.CheckFormat(e.ctx, e.spy); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("the start of a replica: %v, want %v", err, dataset.ErrUnsupported)
	}
	set(`{"format":1}`) // the store was restored from a backup
	a.create("more")
	if names := e.volume("db").Volume + e.volume("more").Volume; names != "dbmore" {
		t.Errorf("volumes %s, want db and more", names)
	}
}
