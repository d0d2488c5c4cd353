package openapi

// PropertyFields is propertyFields, for the tests.
var PropertyFields = propertyFields

// Descriptions returns the descriptions that are part of the program.
func Descriptions() []byte { return descriptionsFile }

// SetDescriptions replaces them, so that the documents made afterwards have the new ones.
func SetDescriptions(b []byte) { descriptionsFile = b }
