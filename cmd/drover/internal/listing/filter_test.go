package listing

import "testing"

func TestFilterMatchesPartsOfStatus(t *testing.T) {
	for status, values := range map[string]map[string]bool{
		"in use by 2, FULL": {
			"full": true, "FULL": true, "in use": true, "in use by 2": true, "in use*": true, "in use by 2, full": true,
			"idle": false, "use": false, "in use by": false, "": false,
		},
		"idle": {"idle": true, "id": false, "*": true},
	} {
		for value, want := range values {
			f := filter{key: "status", value: value, hasValue: true}
			k := keys{columns: map[string]int{"status": 0}, schema: schemaFor[struct{}]()}
			if got := f.matchesKey(k, "status", []string{status}, struct{}{}); got != want {
				t.Errorf("filter status=%s and status %q: got %v, want %v", value, status, got, want)
			}
		}
	}
}
