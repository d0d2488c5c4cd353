package doctor

import (
	"context"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// lacking is a backend that cannot work here.
type lacking struct {
	backends.Kind
	why string
}

func (lacking) Name() string { return "thin" }
func (l lacking) Available(context.Context) error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s", l.why)
}

// A finding names its backend once.
func TestDoctorNamesABackendOnce(t *testing.T) {
	for why, want := range map[string]string{
		"backend thin needs lvm(8)":    "cannot work on this host: it needs lvm(8)",
		"backend thin: no dm-thin":     "cannot work on this host: no dm-thin",
		"backend thinner was expected": "cannot work on this host: backend thinner was expected",
	} {
		rep := &Report{}
		CheckBackends(t.Context(), rep, []backends.Kind{lacking{why: why}}, nil)
		if len(rep.All) != 1 || rep.All[0].Subject != "backend thin" || rep.All[0].Text != want {
			t.Errorf("%q: %+v", why, rep.All)
		}
	}
}
