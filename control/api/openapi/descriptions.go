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

// fieldKey names a struct field in the table of descriptions.
func fieldKey(owner reflect.Type, field string) string {
	path := owner.PkgPath()
	name, _, _ := strings.Cut(owner.Name(), "[") // without type arguments
	return path[strings.LastIndex(path, "/")+1:] + "." + name + "." + field
}

// describeProperties uses the comment of the Go field as the description of each property that has no description.
func describeProperties(schemas huma.Registry) {
	var texts map[string]string
	if err := json.Unmarshal(descriptionsFile, &texts); err != nil {
		panic("descriptions.json: " + err.Error()) // the file is part of the program
	}
	for name, schema := range schemas.Map() {
		for property, key := range propertyFields(schemas.TypeFromRef("#/components/schemas/" + name)) {
			s := schema.Properties[property]
			if s == nil || texts[key] == "" {
				continue
			}
			switch {
			case s.Description == "":
				s.Description = texts[key]
			// This description belongs to the type, so it also holds for the field.
			case s.Description == sizeUnit || s.Description == durationUnit:
				s.Description = texts[key] + ". Unit: " + s.Description
			}
		}
	}
}

// propertyFields maps the JSON properties of a struct type to the keys of their Go fields. A field of an
// embedded struct belongs to the embedded type.
func propertyFields(t reflect.Type) map[string]string {
	fields := map[string]string{}
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
		fields[name] = fieldKey(owner, f.Name)
	}
	return fields
}
