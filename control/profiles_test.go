package control_test

import (
	"testing"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

func TestProfilesAreShown(t *testing.T) {
	e := controltest.New(t)
	if all, err := e.Profiles(e.Ctx); err != nil || len(all) != 5 {
		t.Errorf("%d, %v", len(all), err)
	}
	if p, err := e.Profile(e.Ctx, "gold"); err != nil || p.Name != "gold" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err := e.Profile(e.Ctx, "glod")
	controltest.Refused(t, err, dataset.ErrNotFound, "available: bronze")
}
