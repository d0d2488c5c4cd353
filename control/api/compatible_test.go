package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

func TestCompatible(t *testing.T) {
	for _, c := range []struct {
		control, other string
		want           string // of the error
	}{
		{"v1.4.0", "v1.4.0", ""}, {"v1.4.0", "1.3.9", ""}, {"v1.4.0", "v1.5.0-rc1", ""}, {"1.4", "1.5.2+build", ""},
		{"v1.4.0", "v1.2.9", "upgrade node a first"}, {"v1.4.0", "v1.6.0", "upgrade control first"},
		{"v1.4.0", "v1.2.9-3-gabcdef-dirty", "upgrade node a first"},
		{"dev", "v1.2.0", ""}, {"v1.2.0", "dev", ""}, {"v1.2.0", "", ""}, {"9746047", "v3.0.0", ""}, {"v1.2.0", "1", ""}, {"", "", ""},
		{"v2.0.0", "v1.9.0", ""}, {"v1.9.0", "v2.0.1", ""}, {"v2.1.0", "v1.9.0", "upgrade node a first"}, {"v1.9.0", "v2.1.0", "upgrade control first"},
		{"v0.9.0", "v2.0.0", "upgrade control first"}, {"v1.99999999999999999999.0", "v1.1.0", ""},
	} {
		err := Compatible(c.control, c.other, "node a")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, dataset.ErrForbidden)) {
			t.Errorf("control %s, %s: %v", c.control, c.other, err)
		}
	}
}

// A request without the name of a volume is refused. A zero Ref has the same empty spelling, and must not pass for one
// that was parsed (I6).
func TestI6EmptyNameIsRefused(t *testing.T) {
	for _, kind := range []dataset.OpKind{dataset.OpCreate, dataset.OpClone, dataset.OpImport} {
		if got := (Request{Kind: kind}).Parsed().Ref.Err; !errors.Is(got, dataset.ErrInvalid) {
			t.Errorf("%s without a name: got error %v, want %v", kind, got, dataset.ErrInvalid)
		}
	}
}
