package dataset_test

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]dataset.Size{
		"1B": 1, "1 b": 1, "1K": 1024, "1KiB": 1024, "1KB": 1000, "1kb": 1000, "512M": 512 << 20,
		"20GiB": 20 << 30, "20g": 20 << 30, "100GB": 100e9, " 2T ": 2 << 40, "1.5TB": 15e11,
		"0.5KiB": 512, "1.0001KB": 1000, "0.001kb": 1, "00007B": 7,
		"4194303TiB": 4194303 << 40, "4611686018427387903B": math.MaxInt64 / 2,
	} {
		got, err := dataset.ParseSize(in)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	for in, part := range map[string]string{
		"":                             "expected a number and a unit",
		"GiB":                          "expected a number and a unit",
		"-1GiB":                        "expected a number and a unit",
		"+1GiB":                        "expected a number and a unit",
		"1e3GiB":                       "expected a number and a unit",
		"1,5GiB":                       "expected a number and a unit",
		"1.GiB":                        "expected a number and a unit",
		".5GiB":                        "expected a number and a unit",
		"1GiB\x00":                     "expected a number and a unit",
		"1  GiB":                       "expected a number and a unit",
		"0x10GiB":                      "expected a number and a unit",
		"20":                           "use 20GiB for gibibytes or 20B for bytes",
		"1.5":                          "use 1.5GiB for gibibytes or 1.5B for bytes",
		"20GiBB":                       `unknown unit "GiBB"`,
		"20P":                          "unknown unit",
		"0GiB":                         "more than 0",
		"0.0001B":                      "more than 0",
		"4194304TiB":                   "too large",
		"999999999999999999TB":         "too large",
		"9999999999999999999B":         "too large",
		"99999999999999999999B":        "expected a number and a unit",
		"1" + strings.Repeat("x", 1e6): "...",
		strings.Repeat(" ", 1e6) + "1": "...",
	} {
		n, err := dataset.ParseSize(in)
		refused(t, in, err, part)
		if n != 0 {
			t.Errorf("ParseSize(%.40q) returned %d beside its error", in, n)
		}
	}
}

func TestSizeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]dataset.Size{1, 1000, 1e6, 1e9, 1e12, dataset.KiB, dataset.MiB, dataset.GiB, dataset.TiB}).Draw(t, "unit")
		n := rapid.Int64Range(1, math.MaxInt64/2/int64(unit)).Draw(t, "n")
		want := dataset.Size(n) * unit
		got, err := dataset.ParseSize(want.String())
		if err != nil || got != want {
			t.Fatalf("%d was written as %q and read as %d, %v", want, want, got, err)
		}
	})
}

func TestSizeString(t *testing.T) {
	for n, want := range map[dataset.Size]string{
		0: "0B", 1: "1B", 1000: "1000B", 1024: "1KiB", 1537: "1537B", 1e6: "1MB", 20 << 30: "20GiB",
		1 << 40: "1TiB", 100e9: "100GB", 1024e9: "1024GB", -1: "-1B",
	} {
		if got := n.String(); got != want {
			t.Errorf("Size(%d).String() = %q, want %q", int64(n), got, want)
		}
	}
}

func TestSizeSaid(t *testing.T) {
	for _, tc := range []struct {
		size dataset.Size
		want string
	}{
		{50e9, "50GB"}, {20 << 30, "20GiB"}, {50000003072, "46.6GiB"}, {12345 << 20, "12345MiB"},
		{123456 << 20, "121GiB"}, {20<<30 + 1<<20, "20481MiB"}, {1234567, "1.18MiB"}, {0, "0B"},
	} {
		if got := tc.size.Readable(); got != tc.want {
			t.Errorf("%d is said as %q, want %q", int64(tc.size), got, tc.want)
		}
	}
}

func TestSizeHuman(t *testing.T) {
	for n, want := range map[dataset.Size]string{
		0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.5KiB", 10 << 20: "10MiB", 1567000000: "1.46GiB",
		12345 << 10: "12.1MiB", 999 << 30: "999GiB", 1 << 40: "1TiB", 3 << 50: "3PiB", 4096 << 50: "4096PiB",
		-1536: "-1.5KiB", -12345 << 10: "-12.1MiB",
	} {
		if got := n.Human(); got != want {
			t.Errorf("Size(%d).Human() = %q, want %q", int64(n), got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{
		"20GiB", "512M", "100GB", "1.5TB", "1", "0B", "-1G", "999999999999999999TiB", "0.000001KiB", " 7 kb ",
		"1e9B", "1..2G", "", "\n1G", "18446744073709551616B", "１GiB", "1\u212aiB",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		n, err := dataset.ParseSize(in)
		if err != nil {
			refused(t, in, err, "")
			return
		}
		if n <= 0 || n > math.MaxInt64/2 {
			t.Fatalf("ParseSize(%q) = %d", in, n)
		}
		if again, err := dataset.ParseSize(n.String()); err != nil || again != n {
			t.Fatalf("%q: %d was written as %q and read as %d, %v", in, n, n, again, err)
		}
		_ = n.Human()
	})
}
