package cli

import (
	"strings"
	"testing"
)

// TestAdviceIsReachable: no entry of the advice is hidden by an entry of another part, or by a synonym.
func TestAdviceIsReachable(t *testing.T) {
	seen := map[string]bool{}
	for _, part := range []map[string]string{advice, foreignAdvice, backupAdvice} {
		for key := range part {
			if seen[key] {
				t.Errorf("%s is in two parts of the advice", key)
			}
			seen[key] = true
			if strings.Contains(key, " ") && synonyms[key] != "" {
				t.Errorf("%s is a synonym of %s, so nobody sees its advice", key, synonyms[key])
			}
		}
	}
}
