package backendtest

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// Each capability is proven by at least one case of the suite.
func TestEveryCapabilityIsProven(t *testing.T) {
	var names []string
	for _, c := range cases() {
		names = append(names, c.name)
	}
	all := proofs()
	for i := range reflect.TypeFor[dataset.Capabilities]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[dataset.Capabilities]().Field(i).Tag.Get("json"), ",")
		if len(all[name]) == 0 {
			t.Errorf("no case proves %s", name)
		}
		for _, c := range all[name] {
			if !slices.Contains(names, c) {
				t.Errorf("%s is proven by %s, which is no case", name, c)
			}
		}
		delete(all, name)
	}
	for name := range all {
		t.Errorf("%s is proven, and no capability", name)
	}
}
