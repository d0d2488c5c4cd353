package wire

import "testing"

func TestVersionIn(t *testing.T) {
	if got := VersionIn("drover/v1.2 (linux)"); got != "v1.2" {
		t.Error(got)
	}
	if got := VersionIn("curl/8.0"); got != "" {
		t.Error(got)
	}
}
