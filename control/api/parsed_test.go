package api

import (
	"errors"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// A request without the name of a volume is refused. A zero Ref has the same empty spelling, and must not pass for one
// that was parsed (I6).
func TestI6EmptyNameIsRefused(t *testing.T) {
	for _, kind := range []dataset.OpKind{dataset.OpCreate, dataset.OpClone, dataset.OpImport} {
		if got := (Request{Kind: kind}).Parsed().Ref.Err; !errors.Is(got, dataset.ErrInvalid) {
			t.Errorf("%s without a name: got error %v, want %v", kind, got, dataset.ErrInvalid)
		}
	}
}
