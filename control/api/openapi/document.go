// Package openapi makes the OpenAPI document of the API: its general parts, the schemas that huma cannot derive from Go
// types, and the descriptions of properties. Package control/api/server calls New, adds the endpoints of package
// endpoint, and calls Complete. The package has no state. The text of a property is the comment of its Go field. The
// values of a property whose Go type is a string with constants are those constants. A type that JSON represents in
// another way than its Go type suggests, such as a UUID, gets a schema in schema.go.
//
// A compiled program contains neither comments nor the names of constants. So descriptions.json has the comments of the
// Go fields, and enums.json has the values of the constants. The tests of this package write both files and
// docs/openapi.yaml:
//
//	go generate ./control/api/openapi
package openapi

import (
	"encoding/json"
	"sync"

	"github.com/danielgtaylor/huma/v2"
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
