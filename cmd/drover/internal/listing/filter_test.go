package listing

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// TestOnlyOneExpression: a second expression is an error, whatever its form. It does not replace the first one.
func TestOnlyOneExpression(t *testing.T) {
	for _, second := range []string{"cpus >= 8", `architecture!="x86_64"`} {
		expression := ""
		k := keys{columns: map[string]int{"architecture": 0}, schema: schemaFor[struct{}]()}
		_, err := parseFilters(&cobra.Command{Use: "ls"}, time.Now, k, []string{"cpus >= 4", second}, true, &expression)
		if err == nil || !strings.Contains(err.Error(), "only one filter can be an expression") {
			t.Errorf("%s: %v, and the expression is %q", second, err, expression)
		}
	}
}

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
