package selector

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// kind is the type of an operand.
type kind string

const (
	text    kind = "a text"
	number  kind = "a number"
	bytes   kind = "a size"
	version kind = "a version"
	truth   kind = "true or false"
	list    kind = "a list"
	literal kind = "a text in quotes" // is converted to the compared kind
)

// value is the value of an operand. The kind determines which field is used.
type value struct {
	text   string // a text or a version; empty if unknown
	number float64
	truth  bool
	list   []string
}

// fact is a property that an expression can name.
type fact struct {
	kind kind
	get  func(Env) value
	pool bool
}

// facts returns all facts except labels, whose keys are arbitrary.
func facts() map[string]fact {
	word := func(get func(Env) string) fact {
		return fact{kind: text, get: func(e Env) value { return value{text: get(e)} }}
	}
	release := func(get func(Env) string) fact {
		return fact{kind: version, get: func(e Env) value { return value{text: get(e)} }}
	}
	figure := func(k kind, get func(Env) float64) fact {
		return fact{kind: k, get: func(e Env) value { return value{number: get(e)} }}
	}
	ofPool := func(f fact) fact { f.pool = true; return f }
	return map[string]fact{
		"node":           word(func(e Env) string { return e.Node.Name }),
		"architecture":   word(func(e Env) string { return e.Facts.Architecture }),
		"os":             word(func(e Env) string { return e.Facts.OS }),
		"os_version":     release(func(e Env) string { return e.Facts.OSVersion }),
		"kernel":         release(func(e Env) string { return e.Facts.Kernel }),
		"engine_version": release(func(e Env) string { return e.Facts.Engine }),
		"cpus":           figure(number, func(e Env) float64 { return float64(e.Facts.CPUs) }),
		"load_1":         figure(number, func(e Env) float64 { return e.Facts.Load1 }),
		"load_10":        figure(number, func(e Env) float64 { return e.Facts.Load10 }),
		"load_15":        figure(number, func(e Env) float64 { return e.Facts.Load15 }),
		"memory_total":   figure(bytes, func(e Env) float64 { return float64(e.Facts.MemoryTotal) }),
		"memory_free":    figure(bytes, func(e Env) float64 { return float64(e.Facts.MemoryFree) }),
		"is_virtual":     {kind: truth, get: func(e Env) value { return value{truth: e.Facts.Virtual} }},
		"backends":       {kind: list, get: func(e Env) value { return value{list: e.Facts.Backends} }},
		"pool.name":      ofPool(word(func(e Env) string { return e.Pool.Name })),
		"pool.backend":   ofPool(word(func(e Env) string { return e.Pool.Backend })),
		"pool.size":      ofPool(figure(bytes, func(e Env) float64 { return float64(e.Pool.Size) })),
		"pool.free":      ofPool(figure(bytes, func(e Env) float64 { return float64(e.Pool.Free) })),
	}
}

func label(key string) fact {
	return fact{kind: text, get: func(e Env) value { return value{text: e.Node.Labels[key]} }}
}

// Names returns the names of all facts, in alphabetical order.
func Names() []string {
	names := []string{"labels.KEY"}
	for name := range facts() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// show formats a value for a message.
func (v value) show(k kind) string {
	switch k {
	case number:
		return strconv.FormatFloat(math.Round(v.number*100)/100, 'f', -1, 64)
	case bytes:
		return dataset.Size(v.number).Human()
	case truth:
		return strconv.FormatBool(v.truth)
	case list:
		return strings.Join(v.list, ", ")
	case version:
		return dataset.Clip(v.text)
	}
	return strconv.Quote(dataset.Clip(v.text))
}

func numbers(version string) (out []uint64) {
	for part := range strings.SplitSeq(version, ".") {
		end := 0
		for end < len(part) && part[end] >= '0' && part[end] <= '9' {
			end++
		}
		n, err := strconv.ParseUint(part[:end], 10, 64)
		if err != nil {
			break
		}
		out = append(out, n)
		if end < len(part) {
			break // as in 0-18-amd64: the following parts belong to the distribution
		}
	}
	return out
}
