package dataset

import (
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes. In a field that limits or requests a size, 0 means no limit or no request.
type Size int64

// Binary units.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeRE = regexp.MustCompile(`^([0-9]{1,19})(?:\.([0-9]{1,6}))? ?([A-Za-z]*)$`)

var units = map[string]Size{
	"b": 1,
	"k": KiB, "kib": KiB, "kb": 1e3,
	"m": MiB, "mib": MiB, "mb": 1e6,
	"g": GiB, "gib": GiB, "gb": 1e9,
	"t": TiB, "tib": TiB, "tb": 1e12,
}

// ParseSize parses a size such as 20GiB, 512M or 1.5TB. K, M, G, T and KiB, MiB, GiB, TiB are binary, KB, MB, GB,
// TB decimal, in any case; B is a byte. A bare number is refused, because readers disagree on its meaning.
// Fractions of a byte are cut off. It fails with ErrInvalid.
func ParseSize(s string) (Size, error) {
	m := sizeRE.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, Errorf(ErrInvalid, "bad size %q: expected a number and a unit, such as 20GiB, 512M or 100GB", Clip(s))
	}
	unit, ok := units[strings.ToLower(m[3])]
	switch {
	case strings.Trim(m[1]+m[2], "0") == "":
		return 0, Errorf(ErrInvalid, "bad size %q: expected more than 0 (omit the size for no limit)", Clip(s))
	case m[3] == "":
		n := strings.TrimSuffix(m[1]+"."+m[2], ".")
		return 0, Errorf(ErrInvalid, "bad size %q: a bare number is ambiguous (use %sGiB for gibibytes or %sB "+
			"for bytes)", Clip(s), n, n)
	case !ok:
		return 0, Errorf(ErrInvalid, "bad size %q: unknown unit %q (available: K M G T and KiB MiB GiB TiB, "+
			"binary; KB MB GB TB, decimal; B)", Clip(s), Clip(m[3]))
	}
	n, _ := new(big.Rat).SetString(m[1] + "." + m[2] + "0")
	n.Mul(n, new(big.Rat).SetInt64(int64(unit)))
	truncated := new(big.Int).Quo(n.Num(), n.Denom())
	if truncated.Sign() == 0 {
		return 0, Errorf(ErrInvalid, "bad size %q: expected more than 0 (omit the size for no limit)", Clip(s))
	}
	if !truncated.IsInt64() || truncated.Int64() > math.MaxInt64/2 {
		return 0, Errorf(ErrInvalid, "bad size %q: too large (expected less than 4EiB)", Clip(s))
	}
	return Size(truncated.Int64()), nil
}

// String returns the size with the largest unit that keeps it exact: 20GiB, 100GB, 1537B. ParseSize parses every
// result above 0 back to the same value.
func (s Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {1e12, "TB"}, {1e9, "GB"}, {MiB, "MiB"}, {1e6, "MB"}, {KiB, "KiB"}} {
		if s != 0 && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Readable formats the size for users. The text is exact if it is short, such as 50GB or 20GiB. Otherwise it is
// rounded, such as 46.6GiB for 48828128KiB.
func (s Size) Readable() string {
	text := s.String()
	if digits := strings.TrimRight(text, "KMGTiB"); len(digits) > maxPlainDigits {
		return s.Human()
	}
	return text
}

// maxPlainDigits is how many digits can be read at a glance.
const maxPlainDigits = 5

// Human returns the size rounded to three digits with a binary unit, for tables: 1.46GiB.
func (s Size) Human() string {
	f, unit := float64(s), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if math.Abs(f) < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	digits := 2
	switch {
	case unit == "B" || math.Abs(f) >= 100:
		return strconv.FormatFloat(f, 'f', 0, 64) + unit
	case math.Abs(f) >= 10:
		digits = 1
	}
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(f, 'f', digits, 64), "0"), ".") + unit
}

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
