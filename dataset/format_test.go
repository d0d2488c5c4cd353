package dataset_test

import (
	"errors"
	"testing"

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
		var v struct{ Name string }
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
