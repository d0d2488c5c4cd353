package dataset_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// A later format is refused by its number, whatever its other keys are. A damaged record is not a later format.
func TestDecodeFormat(t *testing.T) {
	for text, want := range map[string]error{
		`{"name":"a"}`:                             nil,
		`{"format":1,"name":"a"}`:                  nil,
		`{"format":2,"name":"a","new":{}}`:         nil,
		`{"format":3,"name":"a"}`:                  dataset.ErrUnsupported,
		`{"name":{"first":"a"},"format":17}`:       dataset.ErrUnsupported,
		`{"format":3,"name":"a"`:                   errDamaged,
		`{"name":1}`:                               errDamaged,
		`{"format":99999999999999999999,"name":1}`: errDamaged,
	} {
		var v struct {
			Name string `json:"name"`
		}
		err := dataset.DecodeFormat([]byte(text), "the record", 2, &v)
		switch {
		case errors.Is(want, errDamaged):
			if err == nil || errors.Is(err, dataset.ErrUnsupported) {
				t.Errorf("%s: got error %v, want one of a damaged record", text, err)
			}
		case !errors.Is(err, want):
			t.Errorf("%s: got error %v, want %v", text, err, want)
		case err == nil && v.Name != "a":
			t.Errorf("%s: the name is %q, want a", text, v.Name)
		}
	}
	const message = "the record has format 3, and this drover reads formats up to 2: upgrade this drover"
	if err := dataset.CheckFormat("the record", 3, 2); err == nil || err.Error() != message {
		t.Errorf("got error %v, want %s", err, message)
	}
}

var errDamaged = errors.New("damaged")

func TestDamagedRecordIsAnError(t *testing.T) {
	for _, b := range []string{``, `{`, `[]`, `{"volume":`, `{"volume":"db","losses":7}`, `"volume":`} {
		if err := dataset.DecodeRecord([]byte(b), new(dataset.Dataset)); err == nil {
			t.Errorf("%q was decoded", b)
		}
	}
}

// A key in another case is another key, as for a parser of any other language.
func TestCaseOfAKeyCounts(t *testing.T) {
	var d dataset.Dataset
	if err := dataset.DecodeRecord([]byte(`{"volume":"db","Volume":"other","new":1}`), &d); err != nil || d.Volume != "db" {
		t.Errorf("got volume %q, %v; want db", d.Volume, err)
	}
}

// BenchmarkDecodeRecord compares the decoding of 1,000 records with that of package encoding/json.
func BenchmarkDecodeRecord(b *testing.B) {
	var all []dataset.Dataset
	for range 1000 {
		all = append(all, dataset.Dataset{
			ID: uuid.New(), Volume: "orders-of-the-shop", Home: uuid.New(), Pool: uuid.New(), State: dataset.StateReady,
			Profile: dataset.Profile{Name: "gold", Size: 20 << 30}, Created: time.Now(), Labels: map[string]string{"team": "shop"},
		})
	}
	text, err := json.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	for name, decode := range map[string]func([]byte, any) error{
		"records": dataset.DecodeRecord, "encoding-json": json.Unmarshal,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var got []dataset.Dataset
				if err := decode(text, &got); err != nil || len(got) != len(all) {
					b.Fatalf("got %d records, %v", len(got), err)
				}
			}
		})
	}
}
