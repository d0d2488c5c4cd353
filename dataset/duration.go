package dataset

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that is encoded as text, such as 72h0m0s.
type Duration time.Duration

// String returns the duration without units of 0, and with days, such as 7d, 1d12h, 90s as 1m30s, and 0s.
// ParseDuration parses it back to the same value.
func (d Duration) String() string {
	const day = Duration(hoursOfDay * time.Hour)
	days, rest := d/day, d%day
	text := time.Duration(rest).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	switch {
	case days == 0:
		return text
	case rest == 0:
		return strconv.FormatInt(int64(days), 10) + "d"
	}
	return strconv.FormatInt(int64(days), 10) + "d" + text
}

// MarshalText prints the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText parses the texts that ParseDuration accepts. It fails with ErrInvalid for any other text.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	if err == nil {
		*d = Duration(v)
	}
	return err
}

// Hours of the units that time.ParseDuration does not have.
const (
	hoursOfDay  = 24
	hoursOfWeek = 7 * hoursOfDay
)

// longUnit matches a number of days or weeks.
var longUnit = regexp.MustCompile(`([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([dw])`)

// ParseDuration parses a duration of 0 or more: what time.ParseDuration accepts, and also d for days of 24 hours and w
// for weeks of 7 days, such as 3d, 2w and 1d12h. It fails with ErrInvalid.
func ParseDuration(s string) (time.Duration, error) {
	sum, ok := time.Duration(0), true
	rest := longUnit.ReplaceAllStringFunc(s, func(part string) string {
		number, hours := strings.TrimRight(part, "dw"), time.Duration(hoursOfDay)
		if strings.HasSuffix(part, "w") {
			hours = hoursOfWeek
		}
		d, err := time.ParseDuration(number + "h")
		if ok = ok && err == nil && d <= (math.MaxInt64-sum)/hours; ok {
			sum += d * hours
		}
		return ""
	})
	switch {
	case rest == s:
	case rest == "0" || strings.ContainsAny(s[1:], "+-"):
		ok = false
	case rest == "" || rest == "+":
		rest = "0"
	}
	d, err := time.ParseDuration(rest)
	if !ok || err != nil || d < 0 || d > math.MaxInt64-sum {
		return 0, Errorf(ErrInvalid, "bad duration %q: expected a number and a unit, such as 3d, 72h or 30m "+
			"(units: s, m, h, d, w)", Clip(s))
	}
	return sum + d, nil
}
