// Package openapi makes the OpenAPI document of the API: its general parts, the schemas that huma cannot derive from Go
// types, and the descriptions of properties. Package control/api/server calls New, adds the endpoints of package
// endpoint, and calls Complete. It serves the document, and checks requests by the schemas in it. The package has no
// state. The text of a property is the comment of its Go field. The values of a property whose Go type is a string with
// constants are those constants. A type that JSON represents in another way than its Go type suggests, such as a UUID,
// gets a schema in this file (registry).
//
// A compiled program contains neither comments nor the names of constants. So descriptions.json has the comments of the
// Go fields, and enums.json has the values of the constants. The tests of this package write both files and
// docs/openapi.yaml:
//
//	go generate ./control/api/openapi
package openapi

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

//go:generate go test -run TestGeneratedFilesAreTheSource|TestOpenAPIIsKept -update .

// clientCertificate is the name of the security scheme of connections over TLS.
const clientCertificate = "clientCertificate"

// New returns a document without endpoints. The handlers add them.
func New() *huma.OpenAPI {
	return &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Drover", Version: "1",
			Description: "Named, portable data for containers. The API is served on a unix socket and, in a " +
				"cluster, over TLS. Errors are problem details (RFC 9457) with a stable code. Lists are paged. A " +
				"change of a volume or snapshot is an operation: a request that is repeated with the same ID " +
				"returns the same operation.",
			Contact: &huma.Contact{Name: "Drover", URL: "https://github.com/droverhq/drover"},
			License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
		},
		Servers: []*huma.Server{
			{URL: "http://drover", Description: "The unix socket of a host. The host name is ignored."},
			{
				URL: "https://{control}", Description: "Control of a cluster, over TLS.",
				Variables: map[string]*huma.ServerVariable{
					"control": {Default: "control", Description: "host and port of a node that runs control"},
				},
			},
		},
		Components: &huma.Components{
			Schemas:   registry(),
			Responses: sharedResponses(),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				clientCertificate: {
					Type: "mutualTLS",
					Description: "A certificate of the cluster: of a node, for the endpoints of agents, or " +
						"of an operator. " +
						"Over the unix socket no certificate is needed: the permissions of the socket " +
						"decide who may connect.",
				},
			},
		},
		// The empty requirement is for the unix socket, and for a host that joins with a token.
		Security: []map[string][]string{{clientCertificate: {}}, {}},
		Tags: []*huma.Tag{
			{Name: "volumes", Description: "Volumes: named data for containers"},
			{Name: "snapshots", Description: "Snapshots of volumes, and clones"},
			{Name: "trash", Description: "Datasets whose volume was deleted, until they are purged"},
			{Name: "profiles", Description: "Named sets of options for volumes"},
			{Name: "pools", Description: "Storage of a node, in which a backend keeps datasets"},
			{Name: "repositories", Description: "Places for backups outside of the pools"},
			{Name: "operations", Description: "Recorded work, and events"},
			{Name: "nodes", Description: "Nodes and members of the cluster"},
			{Name: "host", Description: "The host of the server, and its store"},
			{Name: agentsTag, Description: "Endpoints that agents call on control, each for its own node. " +
				"Operators do not use them"},
		},
		// Several tools, such as Redoc, show the groups of tags.
		Extensions: map[string]any{"x-tagGroups": []map[string]any{
			{"name": "For operators", "tags": []string{
				"volumes", "snapshots", "trash", "profiles", "pools", "repositories", "operations", "nodes", "host",
			}},
			{"name": "For agents", "tags": []string{agentsTag}},
		}},
	}
}

// agentsTag is the tag of the endpoints for agents.
const agentsTag = "agents"

// Document is the complete description of the API. JSON and YAML render it on their first call.
type Document struct {
	JSON, YAML func() ([]byte, error)
	Schemas    huma.Registry
}

// Complete adds the descriptions of schemas and properties to a document that has its endpoints. Nothing may be added
// to doc afterwards.
func Complete(doc *huma.OpenAPI) *Document {
	for name, text := range map[string]string{
		"Problem":       "An error, as RFC 9457 problem details",
		"ProblemRecord": "The recorded error of an operation",
		"Volume":        "A volume, or a dataset in the trash, with its node, its pool and its status",
		"Dataset":       "The data of a volume, with its properties",
		"Snapshot":      "The immutable content of a dataset at one moment",
		"Operation":     "A change that is planned, is in progress or has ended",
		"Outcome":       "The answer to a request for a change. Without an operation, no change was necessary",
		"Profile":       "A named set of options for volumes, with all inherited options",
		"Pool":          "A pool, with its node and its status",
		"PoolRecord":    "The record of a pool: storage of one node, in which a backend keeps datasets",
		"Repository":    "The record of a repository for backups, in the format of restic",
		"Node":          "A node of the cluster, with its facts and its status",
		"NodeRecord":    "The record of a node",
		"Facts":         "The properties of a host that its agent measured",
		"Lease":         "The right of a node to have a dataset mounted for writing",
		"DatasetStatus": "The present state of a dataset, as its node's agent reports it",
		"PoolStatus":    "The present state of a pool, as its node's agent reports it",
		"Request":       "A request for a change. The kind decides which fields are used",
		"Event":         "An event of the cluster, such as the creation of a volume",
		"Finding":       "One line of the report of drover doctor",
		"Rebuilt":       "The result for one dataset that was found in a pool",
		"Diff":          "The amount of data that differs between two points in time of a volume",
	} {
		if s := doc.Components.Schemas.Map()[name]; s != nil {
			s.Description = text
		}
	}
	describeProperties(doc.Components.Schemas)
	return &Document{
		JSON: sync.OnceValues(func() ([]byte, error) { return json.Marshal(doc) }),
		YAML: sync.OnceValues(doc.YAML),

		Schemas: doc.Components.Schemas,
	}
}

// Names of the shared responses.
const (
	refusedResponse = "Refused"
	failedResponse  = "Failed"
)

// problem returns the content of a response with a problem.
func problem() map[string]*huma.MediaType {
	return map[string]*huma.MediaType{wire.ProblemType: {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}}}
}

// sharedResponses returns the responses that every endpoint refers to.
func sharedResponses() map[string]*huma.Response {
	return map[string]*huma.Response{
		refusedResponse: {
			Description: "The request was refused, and changed nothing. Codes: " + codes(http.StatusBadRequest) +
				". A request that is not part of this API has the code invalid with 400, 404, 405, 413 or 415.",
			Content: problem(),
		},
		failedResponse: {
			Description: "The request failed. Codes: " + codes(http.StatusInternalServerError) + ".",
			Content:     problem(),
		},
	}
}

// codes lists the codes of the problems whose HTTP status begins with the same digit, each with its status.
func codes(status int) string {
	var list []string
	for _, kind := range dataset.Kinds() {
		if kind.HTTP/100 == status/100 {
			list = append(list, fmt.Sprintf("%s (%d)", kind.Code, kind.HTTP))
		}
	}
	return strings.Join(list, ", ")
}

// ProblemResponses returns the responses for refused and failed requests, for one endpoint.
func ProblemResponses() map[string]*huma.Response {
	return map[string]*huma.Response{
		"4XX": {Ref: "#/components/responses/" + refusedResponse},
		"5XX": {Ref: "#/components/responses/" + failedResponse},
	}
}

// Accepted returns the response 202 for one endpoint. The endpoint adds its content.
func Accepted() *huma.Response {
	return &huma.Response{
		Description: "Accepted. The work continues as an operation. Wait for the operation, or repeat the request " +
			"with the same UUID in the parameter operation.",
		Headers: map[string]*huma.Param{"Location": {
			Description: "address of the operation, or of the list of operations if there are several",
			Schema:      &huma.Schema{Type: huma.TypeString, Format: "uri-reference"},
		}},
	}
}

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
		name = cmp.Or(name, f.Name)
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
