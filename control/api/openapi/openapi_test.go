package openapi_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

// TestOpenAPIIsKept fails when docs/openapi.yaml is not what the handlers say.
func TestOpenAPIIsKept(t *testing.T) {
	got, err := server.OpenAPI().YAML()
	require.NoError(t, err)
	golden.Check(t, "../../../docs/openapi.yaml", string(got))
}

func TestOpenAPIIsTheSameEveryTime(t *testing.T) {
	first, err := server.OpenAPI().YAML()
	require.NoError(t, err)
	for range 5 {
		again, err := server.OpenAPI().YAML()
		if err != nil || string(again) != string(first) {
			t.Fatalf("another document, %v:\n%s", err, cmp.Diff(string(first), string(again)))
		}
	}
}
