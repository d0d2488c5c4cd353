package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/docker/go-units"
	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
)

// JSON writes v indented, ending with a newline. A nil slice is written as null: see List.
func JSON[T any](w io.Writer, v T) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// JSONList writes items as a JSON array: [] when there are none.
func JSONList[T any](w io.Writer, items []T) error {
	return JSON(w, append([]T{}, items...))
}

// YAML writes what JSON writes, as YAML.
func YAML[T any](w io.Writer, v T) error {
	var b bytes.Buffer
	if err := JSON(&b, v); err != nil {
		return err
	}
	out, err := yaml.JSONToYAML(b.Bytes())
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	if bytes.ContainsFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		out = b.Bytes() // the YAML does not escape control characters, and JSON is YAML too
	}
	_, err = w.Write(out)
	return err
}

// Document writes v as one YAML document of a stream of documents.
func Document[T any](w io.Writer, v T) error {
	if _, err := io.WriteString(w, "---\n"); err != nil {
		return err
	}
	return YAML(w, v)
}

// Line writes v as one line of JSON, for streams.
func Line(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Clean returns s on one line. Characters that are not printable are escaped as in Go: \n, \x1b, \u202e.
func Clean(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[0]), 16))
		case !unicode.IsPrint(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// isPlain reports whether a text has only printable ASCII characters, as most texts do.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Ago returns how long before or after now t is: "3 days ago", "in 2 hours", "just now". For the zero time it returns
// "-".
func Ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := t.Sub(now)
	switch {
	case d.Abs() < time.Second:
		return "just now"
	case d > 0:
		return "in " + strings.ToLower(units.HumanDuration(d))
	}
	return strings.ToLower(units.HumanDuration(-d)) + " ago"
}

// When returns a time both as a date in the zone of now and relative to now.
func When(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(now.Location()).Format("2006-01-02 15:04:05 MST") + " (" + Ago(now, t) + ")"
}

// ShortLength is the minimum number of characters of a UUID in the output. Users copy the shortened UUID into a spec
// such as db@snapshot-f23ca986.
const ShortLength = 8

// Shorten returns a function that shortens each of the UUIDs to its first eight characters, or to as many more as
// distinguish it from all others.
func Shorten(ids []uuid.UUID) func(uuid.UUID) string {
	sorted := slices.Clone(ids)
	slices.SortFunc(sorted, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	sorted = slices.Compact(sorted)
	short := make(map[uuid.UUID]string, len(sorted))
	texts := make([]string, len(sorted))
	for i, id := range sorted {
		texts[i] = id.String()
	}
	shared := 0 // the number of characters that a UUID shares with its neighbor
	for i, id := range sorted {
		n := max(ShortLength, shared+1)
		if shared = 0; i+1 < len(sorted) {
			shared = common(texts[i], texts[i+1])
		}
		short[id] = texts[i][:max(n, shared+1)]
	}
	return func(id uuid.UUID) string {
		if s, ok := short[id]; ok {
			return s
		}
		return id.String()
	}
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
