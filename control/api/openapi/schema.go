package openapi

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Schemas of types that JSON represents in another way than their Go types suggest. Package dataset does not import
// huma, so its types cannot return their own schemas.
type (
	uuidSchema     struct{}
	durationSchema struct{}
	sizeSchema     struct{}
)

// Descriptions of types whose unit is the same in every field.
const (
	durationUnit = "hours, minutes and seconds"
	sizeUnit     = "bytes"
)

func (uuidSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "uuid"}
}

func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: durationUnit, Examples: []any{"72h0m0s"}}
}

func (sizeSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeInteger, Format: "int64", Description: sizeUnit}
}

// registry returns an empty registry that knows the schemas above.
func registry() huma.Registry {
	r := huma.NewMapRegistry("#/components/schemas/", schemaName)
	alias[uuid.UUID, uuidSchema](r)
	alias[dataset.Duration, durationSchema](r)
	alias[dataset.Size, sizeSchema](r)
	alias[huma.ErrorModel, wire.Problem](r)
	r.Schema(reflect.TypeFor[wire.Problem](), true, "") // the shared responses refer to it
	code := r.Map()["Problem"].Properties["code"]
	for _, k := range dataset.Kinds() {
		code.Enum = append(code.Enum, k.Code)
	}
	return r
}

func alias[T, As any](r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[T](), reflect.TypeFor[As]())
}

// schemaName returns the name of a type's schema. If a record and a type for users have the same Go name, their
// schemas get different names. All other names are unique.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[dataset.Node](), reflect.TypeFor[dataset.Pool](), reflect.TypeFor[dataset.Problem]():
		return t.Name() + "Record"
	}
	return huma.DefaultSchemaNamer(t, hint)
}
