package listing

import (
	"bytes"
	"encoding"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// schemaKind is the form of a value in JSON.
type schemaKind int

const (
	scalar schemaKind = iota
	object
	array
	dictionary // an object whose keys are not known, such as labels
)

// valueKind is a kind of scalar that --filter or templates treat differently from the other kinds.
type valueKind int

const (
	otherValue valueKind = iota
	numberValue
	sizeValue
	timeValue
	durationValue
	flagValue // true or false
	uuidValue
	textValue
)

// valueKindOf returns the kind of the values of a type.
func valueKindOf(t reflect.Type) valueKind {
	switch {
	case t == reflect.TypeFor[dataset.Size]():
		return sizeValue
	case t == reflect.TypeFor[time.Time]():
		return timeValue
	case t == reflect.TypeFor[dataset.Duration]():
		return durationValue
	case t == reflect.TypeFor[uuid.UUID]():
		return uuidValue
	case isMarshaler(t):
		return otherValue
	case t.Kind() == reflect.Bool:
		return flagValue
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64, t.Kind() == reflect.Float32,
		t.Kind() == reflect.Float64:
		return numberValue
	case t.Kind() == reflect.String:
		return textValue
	}
	return otherValue
}

// A schema describes the JSON encoding of a type.
type schema struct {
	kind   schemaKind
	value  valueKind          // of a scalar
	names  []string           // of the fields of an object, in their order
	fields map[string]*schema // fields of an object
	items  *schema            // items of an array
	zero   any                // value of a scalar that the JSON omits
}

// maxDepth bounds the depth of a schema, because types can be recursive.
const maxDepth = 6

func schemaFor[T any]() *schema { return schemaOf(reflect.TypeFor[T](), 0) }

func schemaOf(t reflect.Type, depth int) *schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case depth > maxDepth:
		return &schema{zero: ""}
	case isMarshaler(t):
	case t.Kind() == reflect.Struct:
		s := &schema{kind: object, fields: map[string]*schema{}}
		s.addFields(t, depth)
		return s
	case t.Kind() == reflect.Map:
		return &schema{kind: dictionary}
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return &schema{kind: array, items: schemaOf(t.Elem(), depth+1)}
	case t.Kind() == reflect.Bool:
		return &schema{value: flagValue, zero: false}
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return &schema{value: valueKindOf(t), zero: int64(0)}
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		return &schema{value: numberValue, zero: float64(0)}
	}
	return &schema{value: valueKindOf(t), zero: ""}
}

// isMarshaler reports whether a type chooses its own JSON encoding.
func isMarshaler(t reflect.Type) bool {
	for _, m := range []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()} {
		if t.Implements(m) || reflect.PointerTo(t).Implements(m) {
			return true
		}
	}
	return false
}

// addFields adds the fields of a struct, as encoding/json names them. Fields of embedded structs come last, because
// the fields of the outer struct replace them.
func (s *schema) addFields(t reflect.Type, depth int) {
	var embedded []reflect.Type
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Tag.Get("hidden") == "true": // the document of the API leaves it out, too
			continue
		case f.Anonymous && name == "":
			e := f.Type
			if e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			embedded = append(embedded, e)
			continue
		case !f.IsExported() || name == "-":
			continue
		case name == "":
			name = f.Name
		}
		if s.fields[name] == nil {
			s.names, s.fields[name] = append(s.names, name), schemaOf(f.Type, depth+1)
		}
	}
	for _, e := range embedded {
		s.addFields(e, depth)
	}
}

// find returns the schema of a field by its dotted path, such as status.used, or nil if there is no such field.
func (s *schema) find(path string) *schema {
	for s != nil && path != "" {
		switch s.kind {
		case object:
			var name string
			name, path, _ = strings.Cut(path, ".")
			s = s.fields[name]
		case array:
			s = s.items
		case dictionary:
			return &schema{zero: ""}
		case scalar:
			return nil
		}
	}
	return s
}

// allNames adds the names of all fields at any depth.
func (s *schema) allNames(into map[string]bool) {
	for _, n := range s.names {
		into[n] = true
		s.fields[n].allNames(into)
	}
	if s.items != nil {
		s.items.allNames(into)
	}
}

// toObject encodes a value as JSON and decodes it.
func toObject(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var out any
	return out, d.Decode(&out)
}

// texts returns the values of a field by its dotted path. There are several if the path leads through an array. The
// values of an object are its keys. An absent field has the value "".
func texts(v any, path string) []string {
	switch v := v.(type) {
	case map[string]any:
		if path == "" {
			return slices.Sorted(maps.Keys(v))
		}
		if x, ok := v[path]; ok {
			return texts(x, "")
		}
		name, rest, _ := strings.Cut(path, ".")
		return texts(v[name], rest)
	case []any:
		if len(v) == 0 {
			break
		}
		var out []string
		for _, x := range v {
			out = append(out, texts(x, path)...)
		}
		return out
	case string:
		return []string{v}
	case json.Number:
		return []string{v.String()}
	case bool:
		if v {
			return []string{"true"}
		}
		return []string{"false"}
	}
	return []string{""}
}
