package listing

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
)

// A sortValue is the value of a key in a form that can be compared.
type sortValue struct {
	whole    int64 // of a time, size or duration
	fraction float64
	text     string
}

func (v sortValue) compare(o sortValue) int {
	return cmp.Or(cmp.Compare(v.whole, o.whole), cmp.Compare(v.fraction, o.fraction),
		cmp.Compare(strings.ToLower(v.text), strings.ToLower(o.text)), cmp.Compare(v.text, o.text))
}

// readers parse a text as a number, a time, a size or a duration. The first reader that can parse all values of a key
// determines how these values are compared.
var readers = []func(string) (sortValue, error){
	func(s string) (sortValue, error) {
		f, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
		return sortValue{fraction: f}, err
	},
	func(s string) (sortValue, error) {
		t, err := time.Parse(time.RFC3339Nano, s)
		return sortValue{whole: t.UnixNano()}, err
	},
	func(s string) (sortValue, error) {
		size, err := dataset.ParseSize(s)
		return sortValue{whole: int64(size)}, err
	},
	func(s string) (sortValue, error) {
		d, err := dataset.ParseDuration(s)
		return sortValue{whole: int64(d)}, err
	},
}

// sortValues parses the texts of one key for a comparison. The empty text is not parsed.
func sortValues(texts []string) []sortValue {
	out := make([]sortValue, len(texts))
next:
	for _, read := range readers {
		for i, s := range texts {
			if s == "" {
				continue
			}
			v, err := read(s)
			if err != nil {
				continue next
			}
			out[i] = v
		}
		return out
	}
	for i, s := range texts {
		out[i] = sortValue{text: s}
	}
	return out
}

// sortRows sorts rows by a key. Rows without a value come last. Rows with equal values keep their order.
func sortRows[T any](k keys, rows []row[T], key string, descending bool) {
	texts := make([]string, len(rows))
	for i, r := range rows {
		if texts[i] = k.sortText(key, r.cells, r.object); texts[i] == "-" {
			texts[i] = ""
		}
	}
	values, order := sortValues(texts), make([]int, len(rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		switch {
		case texts[x] == "" || texts[y] == "":
			return cmp.Compare(len(texts[y]), 0) - cmp.Compare(len(texts[x]), 0)
		case descending:
			return values[y].compare(values[x])
		}
		return values[x].compare(values[y])
	})
	sorted := make([]row[T], 0, len(rows))
	for _, i := range order {
		sorted = append(sorted, rows[i])
	}
	copy(rows, sorted)
}
