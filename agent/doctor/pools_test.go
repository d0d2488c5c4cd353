package doctor

import "testing"

// Doctor names an offline pool once.
func TestDoctorNamesAPoolOnce(t *testing.T) {
	for why, want := range map[string]string{
		"no disk":                         "is offline: no disk",
		"pool fast is offline: no disk":   "is offline: no disk",
		"pool fast: no disk":              "is offline: no disk",
		"pool faster is offline: no disk": "is offline: pool faster is offline: no disk",
	} {
		if got := offlineText("fast", why); got != want {
			t.Errorf("%q: %q, want %q", why, got, want)
		}
	}
}
