package openapi

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// descriptionsFile is generated from the comments of struct fields. It maps "package.Type.Field" to a text.
//
//go:embed descriptions.json
var descriptionsFile []byte

// enumsFile is generated from the typed string constants. It maps "package.Type" to the values of its constants.
//
//go:embed enums.json
var enumsFile []byte

// typeKey names a type in the table of enumerations.
func typeKey(t reflect.Type) string {
	path := t.PkgPath()
	name, _, _ := strings.Cut(t.Name(), "[") // without type arguments
	return path[strings.LastIndex(path, "/")+1:] + "." + name
}

// unmarshal decodes a generated file, which is part of the program.
func unmarshal[T any](file []byte) (out T) {
	if err := json.Unmarshal(file, &out); err != nil {
		panic("generated file of package openapi: " + err.Error())
	}
	return out
}

// describeProperties uses the comment of the Go field as the description of each property that has no description. It
// lists the values of each property whose Go type has constants.
func describeProperties(schemas huma.Registry) {
	texts := unmarshal[map[string]string](descriptionsFile)
	enums := unmarshal[map[string][]string](enumsFile)
	for name, schema := range schemas.Map() {
		for property, field := range propertyFields(schemas.TypeFromRef("#/components/schemas/" + name)) {
			s := schema.Properties[property]
			if s == nil {
				continue
			}
			describe(s, texts[field.key])
			enumerate(s, field.typ, enums)
		}
	}
}

// describe sets the description of a property, unless it has one.
func describe(s *huma.Schema, text string) {
	switch {
	case text == "":
	case s.Description == "":
		s.Description = text
	// This description belongs to the type, so it also holds for the field.
	case s.Description == sizeUnit || s.Description == durationUnit:
		s.Description = text + ". Unit: " + s.Description
	}
}

// enumerate lists the values of a property of type t, or of its items.
func enumerate(s *huma.Schema, t reflect.Type, enums map[string][]string) {
	for ; t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice; t = t.Elem() {
		if t.Kind() == reflect.Slice && s.Items != nil {
			s = s.Items
		}
	}
	values := enums[typeKey(t)]
	if len(values) == 0 {
		return
	}
	for _, v := range values {
		s.Enum = append(s.Enum, v)
	}
	s.PrecomputeMessages() // the error about another value lists these
}

// propertyField is the Go field of a property.
type propertyField struct {
	key string // "package.Type.Field", as in the table of descriptions
	typ reflect.Type
}

// propertyFields maps the JSON properties of a struct type to their Go fields. A field of an embedded struct belongs to
// the embedded type.
func propertyFields(t reflect.Type) map[string]propertyField {
	fields := map[string]propertyField{}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return fields
	}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" || !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		owner := t
		if len(f.Index) > 1 {
			owner = t.FieldByIndex(f.Index[:len(f.Index)-1]).Type
			for owner.Kind() == reflect.Pointer {
				owner = owner.Elem()
			}
		}
		fields[name] = propertyField{typeKey(owner) + "." + f.Name, f.Type}
	}
	return fields
}
