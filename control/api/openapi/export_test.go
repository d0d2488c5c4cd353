package openapi

import "reflect"

// PropertyKeys maps the JSON properties of a struct type to the keys of their Go fields.
func PropertyKeys(t reflect.Type) map[string]string {
	keys := map[string]string{}
	for property, field := range propertyFields(t) {
		keys[property] = field.key
	}
	return keys
}

// Generated returns the generated files that are part of the program.
func Generated() (descriptions, enums []byte) { return descriptionsFile, enumsFile }

// SetGenerated replaces them, so that the documents made afterwards have the new ones.
func SetGenerated(descriptions, enums []byte) { descriptionsFile, enumsFile = descriptions, enums }
