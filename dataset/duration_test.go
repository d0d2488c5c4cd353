package dataset

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"3d": 3 * day, "2w": 14 * day, "1d12h": 36 * time.Hour, "1w1d1h1m1s": 8*day + time.Hour + time.Minute + time.Second,
		"1.5d": 36 * time.Hour, ".5w": 84 * time.Hour, "0d": 0, "0": 0, "72h": 3 * day, "30m": 30 * time.Minute,
		"+3d": 3 * day, "+1d1h": 25 * time.Hour, "12h1d": 36 * time.Hour, "500ms": time.Second / 2, "106751d": 106751 * day,
	} {
		if got, err := ParseDuration(text); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "d", "3", "3 d", "3D", "-3d", "3d-1h", "1d+1h", "--1h", "3days", "1y", "d3", ".d", "106752d", "106751d24h", "99999999999999999999w",
		"15250w15250w", "1h\n", "+", "3d0", "2d-0h",
	} {
		if got, err := ParseDuration(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := ParseDuration("soon"); err == nil || !strings.Contains(err.Error(), "such as 3d, 72h or 30m (units: s, m, h, d, w)") {
		t.Error(err)
	}
}

func TestDurationString(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "1ms", 90 * time.Second: "1m30s", time.Minute: "1m", time.Hour: "1h",
		90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 7 * 24 * time.Hour: "7d",
		36 * time.Hour: "1d12h", 24*time.Hour + time.Second: "1d1s", 20 * time.Minute: "20m", 10 * time.Hour: "10h",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if got, err := ParseDuration(d.String()); Duration(got) != d || err != nil {
			t.Fatalf("%v: %v, %v", d, got, err)
		}
	})
}

// TestParseDurationIsGos compares ParseDuration with time.ParseDuration for texts without days and weeks, and checks that
// everything that is printed is parsed.
func TestParseDurationIsGos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if got, err := ParseDuration(d.String()); got != d || err != nil {
			t.Fatalf("%v: %v, %v", d, got, err)
		}
		s := rapid.StringMatching(`\+?[0-9.]{0,3}(ms|s|m|h)?[0-9]{0,2}(s|m|h)?`).Draw(t, "text")
		want, err := time.ParseDuration(s)
		got, gotErr := ParseDuration(s)
		if got != want || (gotErr == nil) != (err == nil) {
			t.Fatalf("%q: %v, %v, want %v, %v", s, got, gotErr, want, err)
		}
	})
}
