package control_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// A replica refuses a store whose records have a later format by the number of the format. If a newer replica raises the
// format while this one runs, this one writes nothing afterwards, although its decision was made before.
func TestB16StoreOfALaterFormat(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	set := func(value string) {
		t.Helper()
		if _, err := e.Spy.Txn(e.Ctx, nil, []store.Write{{Key: record.FormatKey, Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		if dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "format 7") {
			t.Errorf("%s: got error %v, want %v with the format 7", what, err, dataset.ErrUnavailable)
		}
	}
	set(`{"format":7,"new":true}`)
	refused("submit", controltest.ErrorOf(e.Submit(e.Ctx, controltest.Create("other"))))
	refused("volumes", controltest.ErrorOf(e.Volumes(e.Ctx, api.Page{})))
	entry, err := e.Spy.Get(e.Ctx, record.FormatKey)
	if err != nil || string(entry.Value) != `{"format":7,"new":true}` {
		t.Errorf("the format is %q, %v", entry.Value, err)
	}
	if err := record.CheckFormat(e.Ctx, e.Spy); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("the start of a replica: %v, want %v", err, dataset.ErrUnsupported)
	}
	set(`{"format":1}`) // the store was restored from a backup
	a.MustCreate("more")
	if names := e.MustVolume("db").Volume + e.MustVolume("more").Volume; names != "dbmore" {
		t.Errorf("volumes %s, want db and more", names)
	}
}
