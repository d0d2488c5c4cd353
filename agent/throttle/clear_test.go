package throttle

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/iolimit"
)

// Rules that are recorded for a device while Clear removes earlier ones stay recorded: Clear has not seen them.
func TestClearKeepsRulesThatWereAddedMeanwhile(t *testing.T) {
	dev := iolimit.Device{Major: LoopMajor, Minor: 3}
	first := LimitRecord{Boot: "boot", Device: dev, Limits: iolimit.Limits{WriteBPS: 1 << 20}}
	second := LimitRecord{Boot: "boot", Device: dev, Limits: iolimit.Limits{ReadBPS: 2 << 20}}
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	db := records.OpenDB(st)
	recorded := func() (list []LimitRecord) {
		t.Helper()
		err := db.Each(t.Context(), "left/", func(_ string, v []byte) error {
			var rec LimitRecord
			err := json.Unmarshal(v, &rec)
			list = append(list, rec)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return list
	}
	l := &Leftovers{
		throttler: &Throttler{Host: &host.Host{Boot: "boot", DB: db, Log: logrus.New()}, Controller: &Controller{}},
		byDevice:  map[iolimit.Device]LimitRecord{},
	}
	record := func(rec LimitRecord) {
		if err := l.Record(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	record(first)
	removed := l.List()[0]
	record(second)
	if err := l.forget(t.Context(), removed); err != nil {
		t.Fatal(err)
	}
	if got, want := recorded(), l.List(); len(want) != 1 || !reflect.DeepEqual(got, want) {
		t.Fatalf("in the database %+v, in memory %+v", got, want)
	}
	l.Clear(t.Context())
	if got, want := recorded(), l.List(); len(got) != 0 || len(want) != 0 {
		t.Errorf("after the next attempt: in the database %+v, in memory %+v", got, want)
	}
}
