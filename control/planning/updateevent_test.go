package planning

import (
	"testing"

	"github.com/droverhq/drover/dataset"
)

// TestEventSaysWhatChanged: an event of an update names each change, and nothing that stayed the same.
func TestEventSaysWhatChanged(t *testing.T) {
	gold := dataset.Dataset{
		Profile: dataset.Profile{Name: "gold", Revision: "a1"}, Labels: map[string]string{"env": "prod", "team": "shop"},
	}
	for want, change := range map[string]func(d *dataset.Dataset){
		"profile silver, was gold":  func(d *dataset.Dataset) { d.Profile = dataset.Profile{Name: "silver", Revision: "b2"} },
		"profile gold, revision a2": func(d *dataset.Dataset) { d.Profile.Revision = "a2" },
		"protected":                 func(d *dataset.Dataset) { d.Protected = true },
		"label env=test; no label team": func(d *dataset.Dataset) {
			d.Labels = map[string]string{"env": "test"}
		},
		"": func(*dataset.Dataset) {},
	} {
		next := gold
		change(&next)
		if got := describeUpdate(gold, next); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	was := gold
	was.Protected = true
	if got := describeUpdate(was, gold); got != "no longer protected" {
		t.Errorf("got %q", got)
	}
}
