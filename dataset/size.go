package dataset

import (
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
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
